"""The log for machines, below /log/: C2SP tlog-tiles, proofs and receipt keys. What is not signed and published isn't there yet."""

import gzip
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.settings import api_settings

from . import leaves, published
from .access import Viewer, find_record, id_times, sees_all_records, visible_records
from .models import ReceiptKey, SealerStatus
from .tiles import ENTRIES, BadTile, parse_tile_path

TEXT = "text/plain; charset=utf-8"
FOREVER = "public, max-age=31536000, immutable"
FOREVER_PRIVATE = "private, max-age=31536000, immutable"
FRESH = "no-cache"

INGEST_TIME = timedelta(minutes=10)
"""A record id younger than this may still be on its way from a journal to the database."""


@require_safe
def checkpoint(request: HttpRequest) -> HttpResponse:
    last = published.find_checkpoint()
    if last is None:
        return _text("No checkpoint has been published yet.\n", status=404)
    return _text(last.note)


@require_safe
def tile(request: HttpRequest, path: str) -> HttpResponse:
    """Hash tiles for everybody, entry bundles as `LOG_ENTRIES` says."""
    try:
        level, n, width = parse_tile_path(f"tile/{path}")
    except BadTile as error:
        raise Http404(str(error)) from error
    last = published.find_checkpoint()
    if last is None or not published.is_published(level, n, width, last.size):
        raise Http404(f"no published tree has the tile {path}")
    if level == ENTRIES and not _entries_public():
        viewer, refusal = _viewer(request)
        if refusal is not None:
            return refusal
        if not sees_all_records(viewer):
            return _text("Entry bundles of this log are for its auditors.\n", status=403 if viewer.is_authenticated else 401)
    response = _octets(request, published.read_tile(level, n, width), compress=level == ENTRIES)
    response["Cache-Control"] = FOREVER if level != ENTRIES or _entries_public() else FOREVER_PRIVATE
    return response


@require_safe
def vkey(request: HttpRequest) -> HttpResponse:
    """The log's own Ed25519 key."""
    return _text(_vkeys().split("\n")[0] + "\n")


@require_safe
def vkeys(request: HttpRequest) -> HttpResponse:
    """All keys that sign checkpoints, the log's own first."""
    return _text(_vkeys())


@require_safe
def proof(request: HttpRequest, record_id: UUID) -> HttpResponse:
    """The inclusion proof under the last checkpoint. It says a place and hashes, nothing of the record, so everybody may have it."""
    found = published.find_proof(record_id)
    if found is not None:
        response = _text(found.text)
        response["Content-Disposition"] = f'inline; filename="{record_id}.tlog-proof"'
        return response
    if published.find_leaf(record_id) is None and not _may_be_on_its_way(record_id, datetime.now(UTC)):
        raise Http404(f"the log has no record {record_id}")
    response = _text("Not sealed yet: the next checkpoint will cover it.\n", status=202)
    response["Retry-After"] = "1"
    return response


@require_safe
def entry(request: HttpRequest, record_id: UUID) -> HttpResponse:
    """The leaf's bytes, as hashed. Where entries are not public: for those who may see the record."""
    if not _entries_public():
        viewer, refusal = _viewer(request)
        if refusal is not None:
            return refusal
        if not sees_all_records(viewer) and find_record(visible_records(viewer), record_id) is None:
            raise Http404(f"the log has no record {record_id}")
    leaf = published.find_leaf(record_id)
    if leaf is None:
        raise Http404(f"the log has no record {record_id}")
    response = HttpResponse(leaf, content_type="application/json")
    response["Cache-Control"] = FOREVER if _entries_public() else FOREVER_PRIVATE
    response["Daybook-Leaf"] = leaves.leaf_hash(leaf).hex()
    return response


@require_safe
def receipt_keys(request: HttpRequest) -> HttpResponse:
    """The keys that sign receipts, newest first; each was announced by a leaf of the record named."""
    keys = [
        {
            "key_id": bytes(key.key_id).hex(),
            "public_key": b64encode(bytes(key.public_key)).decode(),
            "node": key.node,
            "started_at": key.started_at.isoformat(),
            "record": str(key.record_id),
        }
        for key in ReceiptKey.objects.order_by("-started_at", "key_id")
    ]
    response = JsonResponse({"keys": keys}, json_dumps_params={"indent": 1})
    response["Cache-Control"] = FRESH
    return response


@require_safe
def verifier_file(request: HttpRequest) -> HttpResponse:
    """The verifier as one file, for who has nothing of Daybook: to be read before it is believed."""
    response = _text(published.verifier_source().decode())
    response["Content-Disposition"] = 'attachment; filename="daybook-verify.py"'
    return response


def _entries_public() -> bool:
    return bool(settings.LOG_ENTRIES == "public")


def _vkeys() -> str:
    text = SealerStatus.objects.filter(id=1).values_list("vkeys", flat=True).first()
    if not text:
        raise Http404("the log has no key yet: its sealer never ran")
    return text


def _viewer(request: HttpRequest) -> tuple[Viewer, HttpResponse | None]:
    """The person behind a session or an API key, as the management API knows them; or the refusal of a bad key."""
    kinds = cast(Sequence[type[BaseAuthentication]], api_settings.DEFAULT_AUTHENTICATION_CLASSES)
    wrapped = Request(request, authenticators=[kind() for kind in kinds])
    try:
        return wrapped.user, None
    except APIException as error:
        return request.user, _text(f"{error.detail}\n", status=401)


def _may_be_on_its_way(record_id: UUID, now: datetime) -> bool:
    times = id_times(record_id)
    return times is not None and abs(now - times[0]) < INGEST_TIME


def _text(body: str, status: int = 200) -> HttpResponse:
    response = HttpResponse(body, content_type=TEXT, status=status)
    response["Cache-Control"] = FRESH
    if status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


def _octets(request: HttpRequest, data: bytes, *, compress: bool) -> HttpResponse:
    """Entry bundles are JSON and shrink to a third; hashes don't."""
    response = HttpResponse(data, content_type="application/octet-stream")
    if compress:
        patch_vary_headers(response, ["Accept-Encoding"])
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            response.content = gzip.compress(data, compresslevel=1, mtime=0)
            response["Content-Encoding"] = "gzip"
    return response
