"""Pages of operators (what is served) and of callers (applications, keys)."""

import json
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from catalog.access import get_entry, may_try

from . import access, contexts, keys
from .fields import InvalidDeployment
from .forms import ApplicationForm, ChangeForm, KeyForm, RegisterForm
from .gateway.tryit import TRY_IT_SECONDS, mint
from .models import Application
from .publication import try_it_secret
from .services import change_deployment, create_deployment, remove_deployment, retry_deployment


def _name(request: HttpRequest) -> str:
    return request.user.get_username()


# Serving


@require_GET
@login_required
def deployment_list(request: HttpRequest) -> HttpResponse:
    template = "serving/_deployments.html" if getattr(request, "htmx", False) else "serving/list.html"
    return render(request, template, {"page": contexts.serving_page(request.user)})


@require_http_methods(["GET", "POST"])
@login_required
def register(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm("catalog.publish_entry"):
        raise PermissionDenied("Only publishers may register models.")
    form = RegisterForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            deployment = create_deployment(actor=_name(request), **form.cleaned_data)
        except InvalidDeployment as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
        else:
            messages.success(request, f"{deployment.name} is being loaded.")
            return redirect("serving:detail", name=deployment.name) if _operates(request) else redirect("catalog:detail", deployment.name)
    status = 422 if form.errors else 200
    return render(request, "serving/register.html", {"form": form, "roots": settings.MODEL_ROOTS}, status=status)


@require_http_methods(["GET", "POST"])
@login_required
def deployment_detail(request: HttpRequest, name: str) -> HttpResponse:
    deployment = access.get_deployment(request.user, name)
    initial = {
        "policy": deployment.policy,
        "labels": "\n".join(f"{label}={version}" for label, version in deployment.labels.items()),
        "timeout_ms": deployment.timeout_ms,
        "batching": json.dumps(deployment.batching) if deployment.batching else "",
    }
    form = ChangeForm(request.POST or None, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            change_deployment(deployment=deployment, actor=_name(request), **form.cleaned_data)
        except InvalidDeployment as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
        else:
            messages.success(request, "Changed. Workers follow within two seconds, without dropping a call.")
            return redirect("serving:detail", name=name)
    page = contexts.deployment_page(deployment)
    return render(request, "serving/detail.html", {"page": page, "form": form}, status=422 if form.errors else 200)


@require_http_methods(["GET", "POST"])
@login_required
def deployment_remove(request: HttpRequest, name: str) -> HttpResponse:
    """Removing asks for the name, since callers of this model get 404 from then on."""
    deployment = access.get_deployment(request.user, name)
    wrong = request.method == "POST" and request.POST.get("confirm") != name
    if request.method == "POST" and not wrong:
        remove_deployment(deployment=deployment, actor=_name(request))
        messages.success(request, f"{name} is no longer served. Its records stay.")
        return redirect("serving:list")
    return render(request, "serving/remove.html", {"deployment": deployment, "wrong": wrong}, status=422 if wrong else 200)


@require_POST
@login_required
def deployment_retry(request: HttpRequest, name: str) -> HttpResponse:
    retry_deployment(deployment=access.get_deployment(request.user, name), actor=_name(request))
    messages.success(request, "Workers load its failed versions again.")
    return redirect("serving:detail", name=name)


def _operates(request: HttpRequest) -> bool:
    return request.user.has_perm("serving.operate_deployment")


# Try-it


@require_POST
@never_cache
@login_required
def try_it_token(request: HttpRequest) -> HttpResponse:
    """A token for one API, one person and this site, good for five minutes."""
    try:
        api = json.loads(request.body or b"{}").get("api", "")
    except (ValueError, AttributeError):
        return JsonResponse({"error": 'body: expected JSON such as {"api": "half_plus_two"}'}, status=400)
    entry = get_entry(request.user, api)
    if not may_try(request.user, entry):
        return JsonResponse({"error": f"{entry.slug} is on approval: ask its owner at {entry.get_absolute_url()}access/"}, status=403)
    token = mint(secret=try_it_secret(), user=_name(request), api=entry.slug, origin=settings.SITE_URL.rstrip("/"))
    return JsonResponse({"token": token, "expires_in": TRY_IT_SECONDS})


# Applications and keys


@require_http_methods(["GET", "POST"])
@login_required
def key_list(request: HttpRequest) -> HttpResponse:
    form = ApplicationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        name = form.cleaned_data["name"]
        if Application.objects.filter(owner_id=request.user.pk, name=name).exists():
            form.add_error("name", f"You have an application named {name!r} already.")
        else:
            application = keys.create_application(name=name, owner=request.user, actor=_name(request))
            return redirect("serving:application", pk=application.pk)
    context = {"page": contexts.keys_page(request.user), "form": form}
    return render(request, "serving/keys.html", context, status=422 if form.errors else 200)


@never_cache
@require_http_methods(["GET", "POST"])
@login_required
def application_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """An application with its keys. A new key is in the answer to the post that made it and nowhere else."""
    application = access.get_application(request.user, pk)
    if request.method == "POST":
        access.require_own(request.user, application)
    form = KeyForm(request.POST or None)
    made: dict[str, Any] = {}
    if request.method == "POST" and form.is_valid():
        try:
            key, text = keys.issue_key(application=application, actor=_name(request), **form.issue_arguments())
        except keys.InvalidKey as error:
            form.add_error(None, str(error))
        else:
            made = {"made": key, "text": text, "use": contexts.first_lines(text, request.user)}
            application, form = access.get_application(request.user, pk), KeyForm()
    context = {"page": contexts.application_page(request.user, application, now=timezone.now()), "form": form, **made}
    return render(request, "serving/application.html", context, status=422 if form.errors else 200)


@require_POST
@login_required
def application_delete(request: HttpRequest, pk: int) -> HttpResponse:
    application = access.get_application(request.user, pk)
    if request.POST.get("confirm") != application.name:
        messages.error(request, f"Not deleted: type the name {application.name!r} to confirm.")
        return redirect("serving:application", pk=pk)
    keys.delete_application(application=application, actor=_name(request))
    messages.success(request, f"{application.name} and its keys are gone. Its records stay.")
    return redirect("serving:keys")


@require_POST
@login_required
def key_revoke(request: HttpRequest, prefix: str) -> HttpResponse:
    key = access.get_key(request.user, prefix)
    keys.revoke_key(key=key, actor=_name(request))
    messages.success(request, f"{prefix} is revoked. It stops working within a second.")
    return redirect("serving:application", pk=key.application_id)


@never_cache
@require_POST
@login_required
def key_rotate(request: HttpRequest, prefix: str) -> HttpResponse:
    key = access.get_key(request.user, prefix)
    access.require_own(request.user, key.application)
    successor, text = keys.rotate_key(key=key, actor=_name(request))
    key.refresh_from_db()  # it ends now at another time
    application = access.get_application(request.user, key.application_id)
    context = {
        "page": contexts.application_page(request.user, application, now=timezone.now()),
        "form": KeyForm(),
        "made": successor,
        "text": text,
        "replaced": key,
        "use": contexts.first_lines(text, request.user),
    }
    return render(request, "serving/application.html", context)
