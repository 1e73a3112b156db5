"""Pages of those who browse: the list, one model, and the forms of its owner."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_http_methods, require_safe
from django_htmx.middleware import HtmxDetails

from . import access, contexts, services
from .api import EntrySerializer
from .descriptions import describe_entry
from .forms import CardForm
from .model_page import current_version, model_page
from .models import Entry, Tag
from .search import Search, find, find_alike, ranked

SUGGESTED = 6


@require_safe
def entry_list(request: HttpRequest) -> HttpResponse:
    page = contexts.catalog_page(request.user, Search.from_query(request.GET), now=timezone.now())
    response = render(request, "catalog/_results.html" if _wants_part(request) else "catalog/list.html", {"page": page})
    patch_vary_headers(response, ("HX-Request",))
    return response


@require_safe
def suggestions(request: HttpRequest) -> HttpResponse:
    """What somebody who types may mean: names, then tags. A part of a page."""
    text = Search.from_query(request.GET).text
    entries = Entry.objects.visible_to(request.user)
    search = Search(text=text)
    names: list[Entry] = []
    tags: list[Tag] = []
    if text:
        names = list(ranked(find(entries, search), search)[:SUGGESTED])
        if not names:
            names = contexts.by_keys([key for key, _ in find_alike(entries, text)[:SUGGESTED]])
        tags = list(Tag.objects.filter(label__icontains=text, entry_tags__entry__in=entries).distinct()[:4])
    return render(request, "catalog/_suggestions.html", {"text": text, "names": names, "tags": tags})


@require_safe
def entry_detail(request: HttpRequest, slug: str) -> HttpResponseBase:
    """The page of a model; its machine form where JSON is preferred."""
    entry = access.get_entry(request.user, slug)
    response: HttpResponse
    if _prefers_json(request):
        response = JsonResponse(EntrySerializer(entry, context={"user": request.user}).data)
    else:
        pin = request.GET.get("pin", "")
        page = model_page(request.user, entry, pin=pin, now=timezone.now())
        template = "catalog/_use.html" if _wants_part(request) else "catalog/model.html"
        response = render(request, template, {"page": page, "entry": entry})
    patch_vary_headers(response, ("Accept", "HX-Request"))
    return response


@require_safe
def openapi(request: HttpRequest, slug: str) -> HttpResponse:
    """The generated document: of all URL forms, or of one version (`?version=3`) as it was stored."""
    entry = access.get_entry(request.user, slug)
    versions = list(entry.versions.all())
    wanted = request.GET.get("version", "")
    if wanted:
        row = next((row for row in versions if str(row.version) == wanted and row.artifact), None)
        if row is None:
            return JsonResponse({"error": f"{slug} has no version {wanted} that was ever ready"}, status=404)
        document = row.openapi
    else:
        row = current_version(entry, versions)
        signatures = row.decoded_signatures() if row else {}
        document = describe_entry(entry, signatures, gateway_url=settings.GATEWAY_URL, with_examples=True)
    response = JsonResponse(document, json_dumps_params={"ensure_ascii": False, "indent": 2})
    response["Content-Disposition"] = f'inline; filename="{slug}.openapi.json"'
    response["Access-Control-Allow-Origin"] = "*"  # a description of a public entry; hidden ones need the session anyway
    return response


@require_http_methods(["GET", "POST"])
@login_required
def entry_edit(request: HttpRequest, slug: str) -> HttpResponse:
    entry = access.get_editable_entry(request.user, slug)
    form = CardForm(request.POST or None, instance=Entry.objects.get(pk=entry.pk))
    if request.method == "POST" and form.is_valid() and _save_card(form, entry, actor=request.user.get_username()):
        messages.success(request, "Saved. The change is in the daybook.")
        return redirect(entry)
    return render(request, "catalog/edit.html", {"form": form, "entry": entry}, status=422 if form.errors else 200)


def _save_card(form: CardForm, entry: Entry, *, actor: str) -> bool:
    """Tags are set only when they were touched: saving a card doesn't confirm what nobody looked at."""
    values: dict[str, Any] = dict(form.cleaned_data)
    tags = values.pop("tags")
    try:
        with transaction.atomic():
            services.update_card(entry=entry, actor=actor, **values)
            if set(tags) != set(form.initial["tags"].split()):
                services.set_tags(entry=entry, tags=tags, actor=actor)
    except services.InvalidEntry as error:
        form.add_error(error.field if error.field in form.fields else None, error.message)
        return False
    return True


@require_safe
def llms_txt(request: HttpRequest) -> HttpResponse:
    """The public catalog for language models, in the llms.txt convention."""
    lines = ["# Daybook", "", "> Machine-learning APIs that can be called and audited.", "", "## APIs", ""]
    for entry in Entry.objects.filter(visibility="public").exclude(lifecycle="retired").order_by("slug"):
        url = request.build_absolute_uri(reverse("catalog:openapi", args=[entry.slug]))
        lines.append(f"- [{entry.name}]({url}): {entry.summary or 'no summary'}")
    return HttpResponse("\n".join([*lines, ""]), content_type="text/plain; charset=utf-8")


def _wants_part(request: HttpRequest) -> bool:
    """Whether htmx asks for a region; when it restores history it wants the whole page."""
    htmx: HtmxDetails = request.htmx  # type: ignore[attr-defined]  # set by django_htmx's middleware
    return bool(htmx) and not htmx.history_restore_request


def _prefers_json(request: HttpRequest) -> bool:
    preferred = request.get_preferred_type(["text/html", "application/json"])
    return preferred == "application/json"
