"""Management API of the catalog: the same search, access and services as the pages. Models are registered at `/api/deployments/`."""

from typing import Any

from django.conf import settings
from django.db import transaction
from django.urls import reverse
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers, viewsets
from rest_framework.permissions import IsAuthenticatedOrReadOnly
from rest_framework.request import Request
from rest_framework.response import Response

from . import access, services
from .models import Entry, EntryTag, EntryVersion, Tag
from .search import FACETS, PAGE_SIZE, SORTS, Search, count_facets, find, ranked


class TagSerializer(serializers.ModelSerializer[Tag]):
    parent_key = serializers.CharField(source="parent.key", read_only=True, default=None)

    class Meta:
        model = Tag
        fields = ("key", "namespace", "slug", "label", "definition", "synonyms", "parent_key")


class EntryTagSerializer(serializers.ModelSerializer[EntryTag]):
    key = serializers.CharField(source="tag.key")

    class Meta:
        model = EntryTag
        fields = ("key", "source", "reason")


class EntryVersionSerializer(serializers.ModelSerializer[EntryVersion]):
    version = serializers.CharField()

    class Meta:
        model = EntryVersion
        fields = ("version", "state", "error_code", "error_message", "artifact", "signatures", "openapi_sha256", "note", "created_at")


class EntrySummarySerializer(serializers.ModelSerializer[Entry]):
    """An entry as lists show it."""

    url = serializers.SerializerMethodField()
    owner = serializers.CharField(source="owner.username", default=None, read_only=True)
    team = serializers.CharField(source="team.slug", default=None, read_only=True)
    tags = serializers.SerializerMethodField()

    class Meta:
        model = Entry
        fields: tuple[str, ...] = (
            "slug", "name", "kind", "provider", "summary", "lifecycle", "access", "visibility", "owner", "team", "tags", "default_version",
            "calls", "p95_us", "url", "created_at", "updated_at",
        )  # fmt: skip

    def get_url(self, entry: Entry) -> str:
        return f"{settings.SITE_URL}{entry.get_absolute_url()}"

    def get_tags(self, entry: Entry) -> list[str]:
        return [row.tag.key for row in entry.entry_tags.all() if row.source != EntryTag.Source.REJECTED]


class EntrySerializer(EntrySummarySerializer):
    """The whole entry: card, tags with their reasons, versions, where its description is."""

    openapi_url = serializers.SerializerMethodField()
    predict_url = serializers.SerializerMethodField()
    tag_reasons = serializers.SerializerMethodField()
    versions = serializers.SerializerMethodField()

    class Meta(EntrySummarySerializer.Meta):
        fields = (
            *EntrySummarySerializer.Meta.fields, "labels", "card", "intended_use", "out_of_scope", "limitations", "training_data",
            "evaluation", "licence", "interface_licence", "data_licence", "provenance", "energy", "class_names", "feature_names",
            "tag_reasons", "versions", "openapi_url", "predict_url",
        )  # fmt: skip

    @extend_schema_field(EntryVersionSerializer(many=True))
    def get_versions(self, entry: Entry) -> Any:
        """Error texts are empty for who may not see them."""
        versions: list[dict[str, Any]] = [dict(row) for row in EntryVersionSerializer(entry.versions.all(), many=True).data]
        if not access.may_see_errors(self.context["user"], entry):
            for version in versions:
                version["error_message"] = ""
        return versions

    def get_openapi_url(self, entry: Entry) -> str:
        return f"{settings.SITE_URL}{reverse('catalog:openapi', args=[entry.slug])}"

    def get_predict_url(self, entry: Entry) -> str:
        return f"{settings.GATEWAY_URL}/v1/models/{entry.slug}:predict"

    @extend_schema_field(EntryTagSerializer(many=True))
    def get_tag_reasons(self, entry: Entry) -> Any:
        return EntryTagSerializer(entry.entry_tags.select_related("tag"), many=True).data


class CardSerializer(serializers.ModelSerializer[Entry]):
    """What an owner may change."""

    tags = serializers.ListField(child=serializers.CharField(max_length=90), required=False)

    class Meta:
        model = Entry
        fields = (
            "name", "provider", "summary", "lifecycle", "visibility", "card", "intended_use", "out_of_scope", "limitations",
            "training_data", "evaluation", "licence", "interface_licence", "data_licence", "provenance", "energy", "class_names",
            "feature_names", "image_range", "tags",
        )  # fmt: skip


class EntryListSerializer(serializers.Serializer[Any]):
    """A page of results with the counts beside the facets."""

    total = serializers.IntegerField()
    page = serializers.IntegerField()
    page_size = serializers.IntegerField()
    facets = serializers.DictField(child=serializers.DictField(child=serializers.IntegerField()))
    results = EntrySummarySerializer(many=True)


_SEARCH_PARAMETERS = [
    OpenApiParameter("q", str, description="Words to look for."),
    OpenApiParameter("sort", str, enum=list(SORTS)),
    OpenApiParameter("page", int),
    *(OpenApiParameter(facet, str, many=True, description=f"Only entries with one of these: {facet}.") for facet in FACETS),
]


@extend_schema(tags=["apis"])
class EntryViewSet(viewsets.ViewSet):
    """APIs of the catalog that you may see."""

    names_api = "slug"

    permission_classes = (IsAuthenticatedOrReadOnly,)
    serializer_class = EntrySerializer
    lookup_field = "slug"
    lookup_value_regex = "[^/]+"

    @extend_schema(parameters=_SEARCH_PARAMETERS, responses=EntryListSerializer)
    def list(self, request: Request) -> Response:
        search = Search.from_query(request.query_params)
        entries = Entry.objects.visible_to(request.user)
        found = find(entries, search)
        start = (search.page - 1) * PAGE_SIZE
        rows = ranked(found, search).with_lists()[start : start + PAGE_SIZE]
        page = {
            "total": found.count(),
            "page": search.page,
            "page_size": PAGE_SIZE,
            "facets": count_facets(entries, search),
            "results": rows,
        }
        return Response(EntryListSerializer(page).data)

    @extend_schema(responses=EntrySerializer)
    def retrieve(self, request: Request, slug: str) -> Response:
        return Response(_serialized(access.get_entry(request.user, slug), request.user))

    @extend_schema(request=CardSerializer(partial=True), responses=EntrySerializer)
    def partial_update(self, request: Request, slug: str) -> Response:
        entry = access.get_editable_entry(request.user, slug)
        serializer = CardSerializer(entry, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        values: dict[str, Any] = dict(serializer.validated_data)
        tags = values.pop("tags", None)
        actor = request.user.get_username()
        try:
            with transaction.atomic():
                services.update_card(entry=entry, actor=actor, **values)
                if tags is not None:
                    services.set_tags(entry=entry, tags=tags, actor=actor)
        except services.InvalidEntry as error:
            raise serializers.ValidationError({error.field: [error.message]}) from error
        return Response(_serialized(access.get_entry(request.user, slug), request.user))


def _serialized(entry: Entry, user: Any) -> Any:
    return EntrySerializer(entry, context={"user": user}).data


@extend_schema(tags=["apis"])
class TagViewSet(viewsets.ReadOnlyModelViewSet[Tag]):
    """The taxonomy."""

    permission_classes = (IsAuthenticatedOrReadOnly,)
    serializer_class = TagSerializer
    queryset = Tag.objects.select_related("parent")
    pagination_class = None
    filterset_fields = ("namespace",)
