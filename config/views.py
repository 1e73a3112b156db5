"""Pages that belong to no app: home and the search box that understands everything."""

import re
import secrets
from datetime import UTC, datetime
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from audit import search as language
from audit.contexts import record_url, records_url
from audit.models import LogLeaf
from catalog.models import Entry

from . import home as page

MAX_QUERY = 1_000


def server_error(request: HttpRequest) -> HttpResponse:
    """The page of a view that raised, with an id to quote; `config.logs.ErrorId` puts it into the line that Django logs of it."""
    request.error_id = secrets.token_hex(4)  # type: ignore[attr-defined]
    return HttpResponse(render_to_string("500.html", {"error_id": request.error_id}), status=500)  # type: ignore[attr-defined]


@require_GET
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    """What can be tried, what changed; as a fragment only the last sealed predictions, which tick by."""
    htmx = getattr(request, "htmx", None)
    if htmx and not htmx.history_restore_request:
        return render(request, "_latest.html", {"latest": page.latest(request.user)})
    return render(request, "home.html", {"page": page.home_page(request.user, now=datetime.now(UTC))})


@require_GET
@never_cache
def search(request: HttpRequest) -> HttpResponseRedirect:
    """Send people to what they named: a record, a place in the log, a model, a query of the daybook, or the catalog's search."""
    text = request.GET.get("q", "").strip().replace("\0", "")[:MAX_QUERY]
    return redirect(destination(text, request.user))


def destination(text: str, user: object) -> str:
    if not text:
        return reverse("catalog:list")
    if (record_id := _record_id(text)) is not None:
        return record_url(record_id)
    if match := re.fullmatch(r"#(\d{1,18})", text):
        leaf = LogLeaf.objects.filter(index=int(match[1])).first()
        return record_url(leaf.record_id) if leaf else records_url(text)
    entry = Entry.objects.visible_to(user).filter(slug__iexact=text).first()
    if entry is not None:
        return entry.get_absolute_url()
    try:
        if language.parse(text, datetime.now(UTC)).text:
            return records_url(text)
    except language.SearchError:
        # With a field of ours in it, it was meant for the daybook: its page shows the fault in place.
        if re.search(rf"(?:\A|\s)-?(?:{'|'.join((*language.FIELDS, 'since', 'until'))}):", text):
            return records_url(text)
    return f"{reverse('catalog:list')}?{urlencode({'q': text})}"


def _record_id(text: str) -> UUID | None:
    if not re.fullmatch(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}", text):
        return None
    found = UUID(text)
    return found if found.version == 7 else None
