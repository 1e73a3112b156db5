"""Questions about many deployments, applications and keys."""

from datetime import datetime
from typing import TYPE_CHECKING

from django.contrib.auth.models import AbstractUser, AnonymousUser
from django.db import models
from django.db.models import Q

if TYPE_CHECKING:
    from .models import APIKey, Application, Deployment  # noqa: F401

Person = AbstractUser | AnonymousUser


class DeploymentQuerySet(models.QuerySet["Deployment"]):
    def with_states(self) -> "DeploymentQuerySet":
        return self.prefetch_related("version_states__worker", "faults__worker")


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
