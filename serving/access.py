"""One function per thing that somebody may see or change: it returns the thing or raises 404."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404

from .models import APIKey, Application, Deployment


def require_operator(user: Any) -> None:
    """Raises PermissionDenied (403): that deployments exist is no secret, so hiding them behind 404 would only puzzle."""
    if not user.has_perm("serving.operate_deployment"):
        raise PermissionDenied("Only operators may deploy, change or remove served models.")


def get_deployment(user: Any, name: str) -> Deployment:
    require_operator(user)
    deployment = Deployment.objects.with_states().filter(name=name).first()
    if deployment is None:
        raise Http404(f"No deployment is named {name!r}.")
    return deployment


def get_application(user: Any, pk: int) -> Application:
    application = Application.objects.of(user).with_keys().filter(pk=pk).first()
    if application is None:
        raise Http404("No such application.")
    return application


def get_key(user: Any, prefix: str) -> APIKey:
    key = APIKey.objects.of(user).select_related("application__owner").filter(prefix=prefix).first()
    if key is None:
        raise Http404(f"No key of yours starts with {prefix!r}.")
    return key
