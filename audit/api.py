"""Management API of records: the same search and the same access as the pages. Reading only; records are never changed."""

from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_field, inline_serializer
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, NotFound, ValidationError
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from . import access, querysets, search
from .errors import PayloadElsewhere, PayloadUnavailable
from .models import LogHead, LogLeaf, Record
from .viewing import view_payload

DEFAULT_LIMIT = 100


class QueryTooBroad(APIException):
    status_code = 422
    default_code = "too_broad"


class PayloadNotHereYet(APIException):
    status_code = 409
    default_code = "elsewhere"


class PayloadGone(APIException):
    status_code = 410
    default_code = "gone"


@extend_schema_field(OpenApiTypes.STR)
class HexField(serializers.Field[bytes, str, str, Any]):
    """Raw bytes in lower-case hex; null where there are none."""

    def to_representation(self, value: bytes) -> str:
        return bytes(value).hex()


@extend_schema_field(OpenApiTypes.BYTE)
class Base64Field(serializers.Field[bytes, str, str, Any]):
    """Raw bytes in standard base64; null where nothing was stored."""

    def to_representation(self, value: bytes) -> str:
        return b64encode(value).decode()


class PayloadSerializer(serializers.Serializer[Any]):
    """What the call carried, held against the commitments in its leaf."""

    request = Base64Field(allow_null=True)
    response = Base64Field(allow_null=True)
    leaf = Base64Field(help_text="The leaf's bytes.")
    ciphertext_digests = serializers.DictField(child=serializers.CharField(), help_text="SHA-256 of the stored ciphertexts: in, out.")


class SealSerializer(serializers.Serializer[Any]):
    """Where the record is in the log. `waiting`: ingested, sealed within a second. `sealed`: a checkpoint covers it."""

    state = serializers.ChoiceField(choices=("waiting", "sealed"))
    index = serializers.IntegerField(allow_null=True)
    proof = serializers.CharField(help_text="Path of the proof for daybook-verify.")
    entry = serializers.CharField(help_text="Path of the leaf's bytes.")


class BatchSerializer(serializers.Serializer[Any]):
    """The batch that the model ran. `size` rows in all, of which this call's begin at `index`; size 0: it ran in none."""

    id = serializers.IntegerField(source="batch_id")
    size = serializers.IntegerField(source="batch_size")
    index = serializers.IntegerField(source="batch_index")


class RecordSerializer(serializers.Serializer[Record]):
    """One record. Times ending in `_us` are µs, sizes bytes; `count` > 1 stands for as many refusals alike."""

    id = serializers.UUIDField()
    ts = serializers.DateTimeField()
    kind = serializers.ChoiceField(choices=search.KINDS)
    model = serializers.CharField()
    version = serializers.IntegerField(allow_null=True)
    signature = serializers.CharField()
    artifact = HexField(allow_null=True, help_text="SHA-256 over all files of the model's version.")
    protocol = serializers.CharField()
    verb = serializers.CharField()
    outcome = serializers.ChoiceField(choices=search.OUTCOMES)
    status = serializers.IntegerField(help_text="HTTP status, 0 for acts and events.")
    error = serializers.CharField()
    answer = serializers.CharField(help_text="The answer in words, for models that declare them.")
    count = serializers.IntegerField()
    actor = serializers.CharField(source="actor_type")
    key = serializers.CharField(source="key_prefix")
    application = serializers.CharField()
    user = serializers.CharField(source="user_name")
    address = serializers.CharField(help_text="Truncated to its network.")
    trace = HexField(allow_null=True)
    rows = serializers.IntegerField()
    request_bytes = serializers.IntegerField()
    response_bytes = serializers.IntegerField()
    total_us = serializers.IntegerField()
    queue_us = serializers.IntegerField()
    model_us = serializers.IntegerField()
    batch = BatchSerializer(source="*")
    worker = serializers.CharField()
    device = serializers.CharField()
    node = serializers.CharField()
    leaf_hash = HexField(help_text="What Daybook-Leaf said.")
    seal = serializers.SerializerMethodField()

    @extend_schema(responses=SealSerializer)
    def get_seal(self, record: Record) -> dict[str, Any]:
        index: int | None = self.context["indices"].get(record.id)
        sealed = index is not None and index < self.context["signed_size"]
        return {
            "state": "sealed" if sealed else "waiting",
            "index": index,
            "proof": reverse("audit:log-proof", args=[record.id]),
            "entry": reverse("audit:log-entry", args=[record.id]),
        }


_PAGE = inline_serializer(
    "RecordPage",
    {
        "results": RecordSerializer(many=True),
        "older": serializers.CharField(allow_null=True, help_text="Address of the next page, towards the past."),
        "newer": serializers.CharField(allow_null=True, help_text="Address of what is newer than this page."),
    },
)


@extend_schema(tags=["records"])
class RecordViewSet(viewsets.ViewSet):
    """The daybook. Auditors and operators see every record, others those of their own calls and acts."""

    permission_classes = (IsAuthenticated,)
    serializer_class = RecordSerializer
    lookup_value_converter = "uuid"

    @extend_schema(
        parameters=[
            OpenApiParameter("q", str, description="A query as on the record list: `model:digits@3 outcome:timeout since:2h`."),
            OpenApiParameter("limit", int, description=f"1 to {querysets.MAX_LIMIT}, {DEFAULT_LIMIT} by default."),
            OpenApiParameter("before", str, description="Cursor from `older`."),
            OpenApiParameter("after", str, description="Cursor from `newer`."),
        ],
        responses={200: _PAGE, 400: OpenApiTypes.OBJECT, 422: OpenApiResponse(description="The query needs a time to narrow it.")},
    )
    def list(self, request: Request) -> Response:
        """Newest first, by keyset: no page numbers and no totals."""
        params = request.query_params
        try:
            query = search.parse(params.get("q", ""), datetime.now(UTC))
            page = querysets.search(
                query,
                request.user,
                before=querysets.Cursor.parse(params["before"]) if "before" in params else None,
                after=querysets.Cursor.parse(params["after"]) if "after" in params else None,
                limit=_limit(params.get("limit", "")),
            )
        except search.SearchError as error:
            raise ValidationError({"q": [error.message], "start": str(error.start), "end": str(error.end)}) from error
        except querysets.BadCursor as error:
            raise ValidationError({"detail": str(error)}) from error
        except querysets.SearchTooBroad as error:
            raise QueryTooBroad(str(error)) from error
        return Response(
            {
                "results": _serialized(page.records),
                "older": _page_url(request, "before", page.older),
                "newer": _page_url(request, "after", page.newer),
            }
        )

    @extend_schema(responses=RecordSerializer)
    def retrieve(self, request: Request, pk: UUID) -> Response:
        return Response(_serialized([self._find(request, pk)])[0])

    @extend_schema(
        responses={
            200: PayloadSerializer,
            403: OpenApiResponse(description="You may see the record, not its payload."),
            409: OpenApiResponse(description="Still in another node's journal: try again in a minute or two."),
            410: OpenApiResponse(description="Erased, or no longer readable: `detail` says why."),
        }
    )
    @action(detail=True)
    def payload(self, request: Request, pk: UUID) -> Response:
        """Request and response as received and sent. For auditors, whose view is recorded first, and for the caller."""
        record = self._find(request, pk)
        try:
            payload = view_payload(record=record, user=request.user, address=request.META.get("REMOTE_ADDR", ""))
            return Response(PayloadSerializer(payload).data)
        except PayloadElsewhere as error:
            raise PayloadNotHereYet(error.reason) from error
        except PayloadUnavailable as error:
            raise PayloadGone(error.reason) from error

    def _find(self, request: Request, pk: UUID) -> Record:
        record = access.find_record(access.visible_records(request.user), pk)
        if record is None:
            raise NotFound(f"There is no record {pk}.")
        return record


def _serialized(records: Sequence[Record]) -> Sequence[dict[str, Any]]:
    """One query for the places of all in the log."""
    places = LogLeaf.objects.filter(record_id__in=[record.id for record in records])
    context = {
        "indices": dict(places.values_list("record_id", "index")),
        "signed_size": LogHead.objects.values_list("signed_size", flat=True).first() or 0,
    }
    serializer: Any = RecordSerializer(list(records), many=True, context=context)  # type: ignore[arg-type]  # many takes a list
    serialized: Sequence[dict[str, Any]] = serializer.data
    return serialized


def _limit(text: str) -> int:
    if not text:
        return DEFAULT_LIMIT
    # int() refuses more than 4,300 digits with an error of its own.
    if not (len(text) <= 9 and text.isascii() and text.isdigit() and 1 <= int(text) <= querysets.MAX_LIMIT):
        raise ValidationError({"limit": [f"A whole number from 1 to {querysets.MAX_LIMIT}."]})
    return int(text)


def _page_url(request: Request, name: str, cursor: querysets.Cursor | None) -> str | None:
    if cursor is None:
        return None
    parameters = request.query_params.copy()
    parameters.pop("before", None)
    parameters.pop("after", None)
    parameters[name] = str(cursor)
    return f"{request.build_absolute_uri(request.path)}?{parameters.urlencode()}"
