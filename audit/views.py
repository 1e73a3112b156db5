"""The daybook's pages: dashboard, record list, record."""

import json
from datetime import UTC, datetime
from uuid import UUID

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from . import contexts, search
from .access import get_record, may_view_payload, sees_all_records
from .dashboard import dashboard_page
from .querysets import BadCursor, Cursor, SearchTooBroad
from .querysets import search as find_records
from .record_page import record_page, verify_page
from .search import SearchError
from .viewing import is_own

NEW_LIMIT = 100

# Field → the words it knows, for the query line's completion.
_WORDS = {"outcome": search.OUTCOMES, "kind": search.KINDS, "since": ("1h", "24h", "7d", "today", "yesterday")}
_COMPLETIONS = json.dumps({field: list(_WORDS.get(field, ())) for field in (*search.FIELDS, "since", "until")})


def _is_fragment(request: HttpRequest) -> bool:
    """A swap of one region; going back through history fetches whole pages."""
    htmx = getattr(request, "htmx", None)
    return htmx is not None and bool(htmx) and not htmx.history_restore_request


@require_GET
@login_required
def dashboard(request: HttpRequest) -> HttpResponse:
    """Figures over everybody's calls; whoever sees only their own calls gets the list of those."""
    if not sees_all_records(request.user):
        return redirect("audit:records")
    page = dashboard_page(request.GET.get("range", ""), request.GET.get("model", ""), now=datetime.now(UTC))
    template = "audit/_dashboard.html" if _is_fragment(request) else "audit/dashboard.html"
    return render(request, template, {"page": page})


@require_GET
@login_required
@never_cache
def records(request: HttpRequest) -> HttpResponse:
    """The list. All of its state is in the address; a fragment request gets the region that changes."""
    now = datetime.now(UTC)
    text = request.GET.get("q", "").strip()
    context: dict[str, object] = {
        "completions": _COMPLETIONS,
        "text": text,
        "sees_all": sees_all_records(request.user),
        "open_record": request.GET.get("record", ""),
    }
    status = 200
    try:
        query = search.parse(text, now)
        before = Cursor.parse(request.GET["before"]) if request.GET.get("before") else None
        found = find_records(query, request.user, before=before, limit=contexts.LIST_LIMIT)
        context["page"] = contexts.records_page(query, found, request.user, now=now, before=before)
    except SearchError as error:
        context["broken"] = contexts.broken_query(text, error)
        status = 422
    except SearchTooBroad as error:
        context["too_broad"] = str(error)
        status = 503
    except BadCursor as error:
        raise Http404(str(error)) from error
    # HTMX swaps 2xx and 422; a query that took too long is told in the region as well.
    fragment = _is_fragment(request)
    template = "audit/_records.html" if fragment else "audit/records.html"
    return render(request, template, context, status=200 if fragment and status == 503 else status)


@require_GET
@login_required
@never_cache
def records_new(request: HttpRequest) -> HttpResponse:
    """How many records came after the top of the list: one small query each time it is asked."""
    try:
        query = search.parse(request.GET.get("q", ""), datetime.now(UTC))
        after = Cursor.parse(request.GET["after"]) if request.GET.get("after") else None
        page = (
            find_records(query, request.user, after=after, limit=NEW_LIMIT) if after else find_records(query, request.user, limit=NEW_LIMIT)
        )
    except (SearchError, SearchTooBroad, BadCursor):
        return HttpResponse(status=286)  # HTMX stops asking
    context = {
        "watch_url": request.get_full_path(),
        "list_url": contexts.records_url(query.text),
        "count": len(page.records),
        "is_more": len(page.records) == NEW_LIMIT,
    }
    return render(request, "audit/_new.html", context)


@require_http_methods(["GET", "POST"])
@login_required
@never_cache
def record(request: HttpRequest, record_id: UUID) -> HttpResponse:
    """One record. Its payload is shown to its caller at once; an auditor asks for it by POST, which is recorded before it is read."""
    found = get_record(request.user, record_id)
    if request.method == "POST" and not may_view_payload(request.user, found):
        raise PermissionDenied("Request and answer are for auditors and for the caller whose they are.")
    show = request.method == "POST" or is_own(request.user, found)
    page = record_page(found, request.user, show_content=show, address=request.META.get("REMOTE_ADDR", ""))
    template = "audit/_record_panel.html" if _is_fragment(request) and request.method == "GET" else "audit/record.html"
    return render(request, template, {"page": page})


@require_GET
def verify(request: HttpRequest) -> HttpResponse:
    """How to check the log without trusting anybody here. For everyone."""
    return render(request, "audit/verify.html", verify_page(str(settings.SITE_URL), is_public=settings.LOG_ENTRIES == "public"))
