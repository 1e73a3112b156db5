"""One function per thing that somebody may see or change: it returns the thing or raises 404."""

from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404

from catalog.models import Entry, Subscription
from catalog.querysets import EntryQuerySet

from .models import APIKey, Application, Deployment


def require_operator(user: Any) -> None:
    """Raises PermissionDenied (403): that deployments exist is no secret, so hiding them behind 404 would only puzzle."""
    if not user.has_perm("serving.operate_deployment"):
        raise PermissionDenied("Only operators may deploy, change or remove served models.")


def require_administrator(user: Any) -> None:
    """Raises PermissionDenied."""
    if not user.has_perm("auth.change_user"):
        raise PermissionDenied("Only administrators see people and give roles.")


def get_person(user: Any, name: str) -> User:
    """An account by its user name, for administrators."""
    require_administrator(user)
    person = User.objects.prefetch_related("groups").filter(username=name).first()
    if person is None:
        raise Http404(f"Nobody is named {name!r}.")
    return person


def get_deployment(user: Any, name: str) -> Deployment:
    require_operator(user)
    deployment = Deployment.objects.with_states().filter(name=name).first()
    if deployment is None:
        raise Http404(f"No deployment is named {name!r}.")
    return deployment


def get_managed_entry(user: Any, slug: str) -> Entry:
    """An entry whose access and approvals `user` decides: its editors, and operators where it has no owner. Raises Http404."""
    entry = managed_entries(user).select_related("owner", "team").filter(slug=slug).first()
    if entry is None:
        raise Http404(f"No API whose access you decide is named {slug!r}.")
    return entry


def managed_entries(user: Any) -> EntryQuerySet:
    entries = Entry.objects.editable_by(user)
    if user.has_perm("serving.operate_deployment"):
        return entries | Entry.objects.filter(owner=None, team=None)
    return entries


def manages_entry(user: Any, entry: Entry) -> bool:
    return managed_entries(user).filter(pk=entry.pk).exists()


def subscriptions_of(user: Any) -> QuerySet[Subscription]:
    """Those of one's own applications, and those that `user` decides."""
    return Subscription.objects.filter(Q(asked_by=user.get_username()) | Q(entry__in=managed_entries(user))).select_related("entry")


def get_subscription(user: Any, pk: int) -> Subscription:
    subscription = subscriptions_of(user).filter(pk=pk).first()
    if subscription is None:
        raise Http404("No such subscription.")
    return subscription


def require_decider(user: Any, subscription: Subscription, state: Subscription.State) -> None:
    """Who manages the entry decides; who asked may only end. Raises PermissionDenied."""
    if state != Subscription.State.ENDED and not manages_entry(user, subscription.entry):
        raise PermissionDenied(f"The owner of {subscription.entry.slug} decides this.")


def get_application(user: Any, pk: int) -> Application:
    application = Application.objects.of(user).with_keys().filter(pk=pk).first()
    if application is None:
        raise Http404("No such application.")
    return application


def require_own(user: Any, application: Application) -> None:
    """Raises PermissionDenied. A key acts as its owner, so that nobody makes one in another's name: administrators see and end keys."""
    if application.owner_id != user.pk:
        raise PermissionDenied("Only its owner makes keys of an application; you may revoke them.")


def get_key(user: Any, prefix: str) -> APIKey:
    key = APIKey.objects.of(user).select_related("application__owner").filter(prefix=prefix).first()
    if key is None:
        raise Http404(f"No key of yours starts with {prefix!r}.")
    return key
