"""What operators want served, what workers really serve, and who may call it.

Desired state (`Deployment`) and actual state (`WorkerState`, `VersionState`) are apart: people change the first, workers converge
on it and report the second. `PublishedSnapshot` is what gateways know of both.
"""

from datetime import datetime
from pathlib import PurePosixPath

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone

from .querysets import APIKeyQuerySet, ApplicationQuerySet, DeploymentQuerySet, WorkerStateQuerySet

NAME = RegexValidator(
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z", "A name starts with a letter or digit and holds letters, digits, '_', '-' and '.' only."
)


class Deployment(models.Model):
    """One model that workers shall serve, under the name it has in `/v1` and in the catalog."""

    name = models.CharField(max_length=100, unique=True, validators=[NAME])
    base_path = models.CharField(max_length=1000)
    platform = models.CharField(max_length=40, default="tensorflow")
    policy = models.CharField(max_length=200, default="latest:1", help_text="latest:N, all or specific:1,2")
    labels = models.JSONField(default=dict, blank=True)  # label → version
    batching = models.JSONField(default=dict, blank=True)  # overrides of serving.engine's BatchingOptions, by field name
    weight = models.PositiveSmallIntegerField(default=1)
    stateful = models.BooleanField(default=False)
    timeout_ms = models.PositiveIntegerField(default=30_000)
    answer_output = models.CharField(max_length=100, blank=True)
    answer_labels = models.JSONField(default=list, blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = DeploymentQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        permissions = (("operate_deployment", "Can deploy, change and remove served models"),)

    def __str__(self) -> str:
        return self.name


class WorkerState(models.Model):
    """A serving worker as it last reported itself."""

    worker_id = models.CharField(max_length=100, primary_key=True)
    node = models.CharField(max_length=100)
    device = models.CharField(max_length=100, blank=True)
    started_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField()  # by the database's clock

    objects = WorkerStateQuerySet.as_manager()


class ModelFault(models.Model):
    """What is wrong with a deployment's directory as a worker sees it: missing, unreadable, two directories for one version."""

    worker = models.ForeignKey(WorkerState, on_delete=models.CASCADE, related_name="faults")
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="faults")
    error_code = models.CharField(max_length=40)
    error_message = models.TextField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("worker", "deployment"), name="one_fault_per_deployment_and_worker"),)


class VersionState(models.Model):
    """One version of one deployment on one worker, in TensorFlow Serving's states."""

    worker = models.ForeignKey(WorkerState, on_delete=models.CASCADE, related_name="versions")
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="version_states")
    version = models.BigIntegerField()
    state = models.CharField(max_length=12)
    error_code = models.CharField(max_length=40, default="OK")
    error_message = models.TextField(blank=True)
    artifact = models.CharField(max_length=64, blank=True)
    signatures = models.JSONField(default=dict, blank=True)  # name → serving.snapshot.Signature
    batching = models.JSONField(default=dict, blank=True)  # signature → why it is batched or runs one request at a time
    since = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-version",)
        constraints = (models.UniqueConstraint(fields=("worker", "deployment", "version"), name="one_state_per_version_and_worker"),)

    @property
    def is_failed(self) -> bool:
        return self.error_code != "OK"


class PublishedSnapshot(models.Model):
    """A snapshot as gateways read it, written in the transaction that changed something in it."""

    version = models.BigAutoField(primary_key=True)
    made_at = models.DateTimeField(auto_now_add=True)
    digest = models.CharField(max_length=64)
    body = models.BinaryField()


class Application(models.Model):
    """Something that calls APIs: keys belong to it, calls are counted by it."""

    name = models.CharField(max_length=100)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="applications")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ApplicationQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=("owner", "name"), name="application_name_is_unique_per_owner"),)
        permissions = (("manage_keys_of_others", "Can see and revoke the keys of other people"),)

    def __str__(self) -> str:
        return self.name


class APIKey(models.Model):
    """A key of an application. Only its SHA-256 is kept; the text is shown once, when it is made."""

    application = models.ForeignKey(Application, on_delete=models.CASCADE, related_name="keys")
    prefix = models.CharField(max_length=20, unique=True)
    sha256 = models.CharField(max_length=64, unique=True)
    scopes = models.JSONField(default=list)
    apis = models.JSONField(default=list)  # names, ["*"] = all
    requests_per_second = models.PositiveIntegerField(default=0)  # 0 = unlimited
    concurrency = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = APIKeyQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return self.prefix

    def is_usable(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def state(self) -> str:
        """`active`, `expired` or `revoked`, for people."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.is_usable(timezone.now()) else "expired"


def is_below(path: str, roots: list[str]) -> bool:
    """Whether `path`, already resolved, lies in one of the directories that models may be loaded from."""
    return any(PurePosixPath(path).is_relative_to(root) for root in roots)
