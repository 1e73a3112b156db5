"""Entries of the catalog: what can be called, in which versions, by which words it is found, who answers for it.

An entry's slug is the model's name in `/v1` and `/v2`. What serving knows arrives as values through `services`; nothing here refers
to a deployment by key. `Entry.facets`, `Entry.search` and `Entry.prominence` are derived from the entry, its tags and its signatures by
`search.index_entry`, which every service that changes one of them calls.
"""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.contrib.postgres.search import SearchVectorField
from django.core.validators import RegexValidator
from django.db import models
from django.db.models.functions import Lower
from django.urls import reverse
from django.utils import timezone

from .querysets import EntryQuerySet
from .signatures import Signature, decode_signatures

SLUG = RegexValidator(
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z", "A name starts with a letter or digit and holds letters, digits, '_', '-' and '.' only."
)


class Team(models.Model):
    """People who own entries together."""

    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=100)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, related_name="teams", blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Namespace(models.TextChoices):
    TASK = "task", "Task"
    MODALITY_IN = "modality-in", "Takes"
    MODALITY_OUT = "modality-out", "Gives"
    DOMAIN = "domain", "Domain"
    FRAMEWORK = "framework", "Framework"
    LANGUAGE = "language", "Language"
    LICENCE = "licence", "Licence"
    RISK = "risk", "Risk"


class Tag(models.Model):
    """A word of the one taxonomy. Synonyms live here and are searched, so that entries carry one word for one thing."""

    namespace = models.CharField(max_length=20, choices=Namespace.choices)
    slug = models.CharField(max_length=60)
    label = models.CharField(max_length=80)
    definition = models.TextField(blank=True)
    synonyms = ArrayField(models.CharField(max_length=80), default=list, blank=True)
    parent = models.ForeignKey("self", on_delete=models.PROTECT, null=True, blank=True, related_name="children")

    class Meta:
        ordering = ("namespace", "label")
        constraints = (models.UniqueConstraint(fields=("namespace", "slug"), name="tag_is_unique_in_its_namespace"),)

    def __str__(self) -> str:
        return self.key

    @property
    def key(self) -> str:
        return f"{self.namespace}:{self.slug}"


class Entry(models.Model):
    class Kind(models.TextChoices):
        SERVED = "served", "Served here"
        OUTSIDE = "outside", "Outside, through the proxy"

    class Lifecycle(models.TextChoices):
        DESIGN = "design", "Design"
        PREVIEW = "preview", "Preview"
        PRODUCTION = "production", "Production"
        DEPRECATED = "deprecated", "Deprecated"
        RETIRED = "retired", "Retired"

    class Access(models.TextChoices):
        OPEN = "open", "Open to everybody"
        KEY = "key", "With an API key"
        SUBSCRIPTION = "subscription", "On approval by the owner"

    class Visibility(models.TextChoices):
        PUBLIC = "public", "Everybody"
        INTERNAL = "internal", "People who are signed in"
        OWNERS = "owners", "Its owners"

    slug = models.CharField(max_length=100, unique=True, validators=[SLUG])
    name = models.CharField(max_length=120)
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.SERVED)
    provider = models.CharField(max_length=120, blank=True)
    deployment_name = models.CharField(max_length=100, blank=True)  # a value: what is served may be gone tomorrow
    summary = models.CharField(max_length=200, blank=True)

    lifecycle = models.CharField(max_length=12, choices=Lifecycle.choices, default=Lifecycle.PRODUCTION)
    access = models.CharField(max_length=12, choices=Access.choices, default=Access.KEY)
    visibility = models.CharField(max_length=10, choices=Visibility.choices, default=Visibility.PUBLIC)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="entries")
    team = models.ForeignKey(Team, on_delete=models.SET_NULL, null=True, blank=True, related_name="entries")

    # The card. Empty means "not stated", and the page says so.
    card = models.TextField(blank=True)  # Markdown
    intended_use = models.TextField(blank=True)
    out_of_scope = models.TextField(blank=True)
    limitations = models.TextField(blank=True)
    training_data = models.TextField(blank=True)
    evaluation = models.JSONField(default=list, blank=True)  # [{"dataset", "metric", "value", "measured_by"}]
    licence = models.CharField(max_length=60, blank=True)  # of the model, an SPDX identifier
    interface_licence = models.CharField(max_length=60, blank=True)
    data_licence = models.CharField(max_length=120, blank=True)
    provenance = models.TextField(blank=True)
    energy = models.CharField(max_length=120, blank=True)

    # How to ask and how to draw the answer.
    class_names = ArrayField(models.CharField(max_length=120), default=list, blank=True)
    feature_names = models.JSONField(default=dict, blank=True)  # input → names along its last dimension
    image_range = ArrayField(models.FloatField(), default=list, blank=True)  # [black, white]: which numbers they are in image inputs

    # As reported by serving.
    labels = models.JSONField(default=dict, blank=True)  # label → version
    default_version = models.BigIntegerField(null=True, blank=True)

    # Folds of the log over 30 days, refreshed by `services.refresh_figures`.
    calls = models.BigIntegerField(default=0)
    p95_us = models.BigIntegerField(null=True, blank=True)

    # Derived, see `search`.
    prominence = models.FloatField(default=1.0, editable=False)
    facets = ArrayField(models.CharField(max_length=90), default=list, editable=False)
    search = SearchVectorField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = EntryQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "entries"
        permissions = (("publish_entry", "Can publish models in the catalog"),)
        indexes = (
            models.Index(fields=("-prominence", "slug"), name="catalog_entry_prominence"),
            GinIndex(fields=("search",), name="catalog_entry_search"),
            GinIndex(fields=("facets",), name="catalog_entry_facets"),
            GinIndex(OpClass(Lower("slug"), name="gin_trgm_ops"), name="catalog_entry_slug_trgm"),
            GinIndex(OpClass(Lower("name"), name="gin_trgm_ops"), name="catalog_entry_name_trgm"),
        )

    def __str__(self) -> str:
        return self.slug

    def get_absolute_url(self) -> str:
        return reverse("catalog:detail", args=[self.slug])

    @property
    def is_retired(self) -> bool:
        return self.lifecycle == self.Lifecycle.RETIRED


class EntryVersion(models.Model):
    """A version as it was when it was first ready: its signatures and the document made from them.

    The same number may come back with another artifact (somebody overwrote the directory); that is a row of its own, so `artifact`
    is part of its identity and the row of a number whose state was set last is the current one.
    """

    entry = models.ForeignKey(Entry, on_delete=models.CASCADE, related_name="versions")
    version = models.BigIntegerField()
    artifact = models.CharField(max_length=64, blank=True)  # sha256 over all files of the model, hex; empty until it was ready once
    signatures = models.JSONField(default=dict)
    openapi = models.JSONField(default=dict)
    openapi_sha256 = models.CharField(max_length=64, blank=True)
    note = models.TextField(blank=True)
    state = models.CharField(max_length=12, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    state_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-version", "-state_at")
        constraints = (models.UniqueConstraint(fields=("entry", "version", "artifact"), name="one_row_per_version_and_artifact"),)

    def __str__(self) -> str:
        return f"{self.entry_id}@{self.version}"

    @property
    def is_failed(self) -> bool:
        return self.error_code not in {"", "OK"}

    def decoded_signatures(self) -> dict[str, Signature]:
        return decode_signatures(self.signatures)


class EntryTag(models.Model):
    class Source(models.TextChoices):
        DERIVED = "derived", "by a rule"
        CONFIRMED = "confirmed", "by a rule, confirmed"
        MANUAL = "manual", "by its owner"
        REJECTED = "rejected", "rejected"  # kept, so that the rule never proposes it again

    entry = models.ForeignKey(Entry, on_delete=models.CASCADE, related_name="entry_tags")
    tag = models.ForeignKey(Tag, on_delete=models.PROTECT, related_name="entry_tags")
    source = models.CharField(max_length=10, choices=Source.choices)
    reason = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("tag__namespace", "tag__label")
        constraints = (models.UniqueConstraint(fields=("entry", "tag"), name="entry_has_a_tag_once"),)

    def __str__(self) -> str:
        return f"{self.entry_id} {self.tag_id}"


class Example(models.Model):
    """A named request that runs as it stands, and what it was answered when it was stored."""

    entry = models.ForeignKey(Entry, on_delete=models.CASCADE, related_name="examples")
    name = models.CharField(max_length=100)
    request = models.JSONField()
    response = models.JSONField(null=True, blank=True)
    note = models.CharField(max_length=300, blank=True)
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ("position", "pk")
        constraints = (models.UniqueConstraint(fields=("entry", "name"), name="example_name_is_unique_in_its_entry"),)

    def __str__(self) -> str:
        return self.name


class Subscription(models.Model):
    """An application's wish to call an entry with access `subscription`. The application is a value: its name, and `asked_by`, the
    user name of its owner."""

    class State(models.TextChoices):
        ASKED = "asked", "asked for"
        APPROVED = "approved", "approved"
        REFUSED = "refused", "refused"
        ENDED = "ended", "ended"

    entry = models.ForeignKey(Entry, on_delete=models.CASCADE, related_name="subscriptions")
    application = models.CharField(max_length=100)
    asked_by = models.CharField(max_length=150)
    state = models.CharField(max_length=10, choices=State.choices, default=State.ASKED)
    reason = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("-created_at",)
        constraints = (models.UniqueConstraint(fields=("entry", "application", "asked_by"), name="one_subscription_per_application"),)

    def __str__(self) -> str:
        return f"{self.application} → {self.entry_id}"
