"""Questions about many deployments, workers, applications and keys."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.contrib.auth.models import AbstractUser, AnonymousUser
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

if TYPE_CHECKING:
    from .models import APIKey, Application, Deployment, WorkerState  # noqa: F401

Person = AbstractUser | AnonymousUser

WORKER_SILENT_AFTER = timedelta(seconds=30)


class DeploymentQuerySet(models.QuerySet["Deployment"]):
    def with_states(self) -> "DeploymentQuerySet":
        return self.prefetch_related("version_states__worker", "faults__worker")


class WorkerStateQuerySet(models.QuerySet["WorkerState"]):
    """By the database's clock, which all workers and readers share."""

    def live(self) -> "WorkerStateQuerySet":
        """Those that reported lately."""
        return self.filter(seen_at__gt=Now() - WORKER_SILENT_AFTER)

    def silent(self) -> "WorkerStateQuerySet":
        return self.filter(seen_at__lte=Now() - WORKER_SILENT_AFTER)

    def believed(self) -> frozenset[str]:
        """Ids of the workers whose states count: the live ones; all of them when none is.

        Then it's we who couldn't hear them, because PostgreSQL was away, and they may serve all the same. If they don't, gateways
        see it by their leases.
        """
        return frozenset(self.live().values_list("pk", flat=True)) or frozenset(self.values_list("pk", flat=True))


class ApplicationQuerySet(models.QuerySet["Application"]):
    def of(self, user: Person) -> "ApplicationQuerySet":
        """Those that `user` may see: their own, all of them for who manages the keys of others."""
        if user.has_perm("serving.manage_keys_of_others"):
            return self
        return self.filter(owner_id=user.pk) if user.is_authenticated else self.none()

    def with_keys(self) -> "ApplicationQuerySet":
        return self.select_related("owner").prefetch_related("keys")


class APIKeyQuerySet(models.QuerySet["APIKey"]):
    def usable(self, now: datetime) -> "APIKeyQuerySet":
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None)

    def of(self, user: Person) -> "APIKeyQuerySet":
        if user.has_perm("serving.manage_keys_of_others"):
            return self
        return self.filter(application__owner_id=user.pk) if user.is_authenticated else self.none()
