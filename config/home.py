"""What the home page shows: to visitors what can be tried, to people who are signed in what changed since yesterday."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Case, Prefetch, Value, When
from django.urls import reverse
from django.utils.http import urlencode

from audit import charts, figures
from audit.access import id_times, sees_all_records
from audit.contexts import Line, lines, records_url
from audit.drawings import Row, draw_exchange
from audit.figures import ANSWERED, FAILED, Summary
from audit.models import LogHead, LogLeaf, Record
from audit.querysets import SearchTooBroad, time_limit
from audit.search import quote
from catalog.answers import first_answer
from catalog.figures import daily_calls
from catalog.models import Entry, EntryVersion, Example
from catalog.querysets import owned_by
from serving.models import Application, Deployment

TRY_LIMIT = 4
LATEST = 9
LATEST_SCANNED = 200
OWN_LIMIT = 8
CALLS_SCANNED = 20_000
ACT_LIMIT = 6


@dataclass(frozen=True, slots=True)
class TryEntry:
    """A model that is ready; `row` is one of its examples drawn, `answer` what the model said to it.

    may_try: at once, from its page; others sign in first, which is where `try_url` leads then.
    """

    entry: Entry
    url: str
    row: Row | None
    answer: str
    may_try: bool
    try_url: str


@dataclass(frozen=True, slots=True)
class Latest:
    """One of the last sealed predictions. It says nothing of who asked, what, and what was answered."""

    index: int
    model: str
    version: int | None
    at: datetime
    total_us: int
    url: str


@dataclass(frozen=True, slots=True)
class Owned:
    entry: Entry
    url: str
    today: Summary
    change: float | None  # calls against the day before, as a share of those
    faults: tuple[str, ...]  # versions in error
    failed_url: str
    spark: charts.Sparkline | None


@dataclass(frozen=True, slots=True)
class Called:
    """Calls with the keys of one person since yesterday, by model."""

    model: str
    answered: int
    refused: int
    failed: int
    url: str
    wrong_url: str

    @property
    def count(self) -> int:
        return self.answered + self.refused + self.failed


@dataclass(frozen=True, slots=True)
class Audited:
    today: Summary
    change: float | None
    failed_url: str
    acts: tuple[Line, ...]
    acts_url: str


@dataclass(frozen=True, slots=True)
class HomePage:
    tries: tuple[TryEntry, ...]
    latest: tuple[Latest, ...]
    owned: tuple[Owned, ...]
    called: tuple[Called, ...]
    has_keys: bool
    audited: Audited | None
    since: datetime
    verify: str


VERIFY = "daybook-verify proof --vkey log.vkey \\\n    --leaf record.leaf record.tlog-proof"


def home_page(user: Any, *, now: datetime) -> HomePage:
    since = now - timedelta(days=1)
    applications = list(Application.objects.filter(owner_id=user.pk).values_list("name", flat=True)) if user.is_authenticated else []
    return HomePage(
        tries=tuple(_tries(user)),
        latest=tuple(latest(user)),
        owned=tuple(_owned(user, since, now)) if user.is_authenticated else (),
        called=tuple(_called(user, applications, since)),
        has_keys=bool(applications),
        audited=_audited(since, now) if sees_all_records(user) else None,
        since=since,
        verify=VERIFY,
    )


def _tries(user: Any) -> Sequence[TryEntry]:
    """What is ready and may be seen by `user`: what they can ask at once comes first, then the most called."""
    entries = (
        Entry.objects.visible_to(user)
        .filter(kind=Entry.Kind.SERVED, default_version__isnull=False)
        .exclude(lifecycle=Entry.Lifecycle.RETIRED)
    )
    if not user.is_authenticated:
        entries = entries.order_by(Case(When(access=Entry.Access.OPEN, then=Value(0)), default=Value(1)), "-calls", "name")
    else:
        entries = entries.order_by("-calls", "name")
    examples = Prefetch("examples", queryset=Example.objects.order_by("position", "pk"), to_attr="ordered_examples")
    shown = list(entries.prefetch_related(examples).defer("search", "card")[:TRY_LIMIT])
    deployments = {row.name: row for row in Deployment.objects.filter(name__in=[entry.deployment_name for entry in shown])}
    return [_try_entry(user, entry, deployments.get(entry.deployment_name)) for entry in shown]


def _try_entry(user: Any, entry: Any, deployment: Deployment | None) -> TryEntry:
    url = entry.get_absolute_url()
    may_try = user.is_authenticated or entry.access == Entry.Access.OPEN
    sign_in = f"{reverse('account_login')}?{urlencode({'next': f'{url}#try'})}"
    example, row = _drawn_example(entry)
    answer = ""
    if example is not None:
        output, labels = (deployment.answer_output, deployment.answer_labels) if deployment else ("", entry.class_names)
        answer = first_answer(example.response, output=output, labels=labels)
    return TryEntry(entry, url, row, answer, may_try, f"{url}#try" if may_try else sign_in)


def _drawn_example(entry: Any) -> tuple[Example, Row] | tuple[None, None]:
    """The first example that can be drawn."""
    for example in entry.ordered_examples:
        exchange = draw_exchange(json.dumps(example.request).encode(), None)
        if exchange is not None:
            return example, exchange.rows[0]
    return None, None


def latest(user: Any) -> list[Latest]:
    """The last sealed predictions of models that `user` may see, newest first; three queries of bounded size."""
    signed = LogHead.objects.values_list("signed_size", flat=True).first() or 0
    places = dict(
        LogLeaf.objects.filter(index__lt=signed, index__gte=signed - LATEST_SCANNED).order_by("-index").values_list("record_id", "index")
    )
    times = [found for found in map(id_times, places) if found is not None]
    if not times:
        return []
    rows = Record.objects.filter(
        ts__gte=min(since for since, _ in times),
        ts__lt=max(until for _, until in times),
        id__in=list(places),
        kind="prediction",
        outcome__in=ANSWERED,
        model__in=Entry.objects.visible_to(user).values("slug"),
    ).order_by("-ts", "-id")[:LATEST]
    sees_all = sees_all_records(user)
    name = user.get_username()
    return [
        Latest(
            places[row.id],
            row.model,
            row.version,
            row.ts,
            row.total_us,
            reverse("audit:record" if sees_all or (name and row.user_name == name) else "audit:log-proof", args=[row.id]),
        )
        for row in rows
    ]


def _owned(user: Any, since: datetime, now: datetime) -> Sequence[Owned]:
    failing = Prefetch("versions", queryset=EntryVersion.objects.exclude(error_code__in=("", "OK")), to_attr="failing")
    entries = list(
        Entry.objects.filter(owned_by(user)).order_by("-calls", "name").prefetch_related(failing).defer("search", "card")[:OWN_LIMIT]
    )
    if not entries:
        return []
    names = [entry.slug for entry in entries]
    today = {row.model: row.summary for row in figures.by_model(since, now)}
    before = {row.model: row.summary for row in figures.by_model(since - timedelta(days=1), since)}
    calls = daily_calls(names, now=now)
    quiet = figures.summary("", since, now)  # no model has an empty name: a summary of nothing
    return [
        Owned(
            entry,
            entry.get_absolute_url(),
            today.get(entry.slug, quiet),
            _change(today.get(entry.slug), before.get(entry.slug)),
            tuple(f"version {row.version}: {row.error_message}" for row in getattr(entry, "failing", ())),
            records_url(f"model:{quote(entry.slug)} outcome:{','.join(FAILED)} since:24h"),
            charts.sparkline(calls[entry.slug]),
        )
        for entry in entries
    ]


def _change(today: Summary | None, before: Summary | None) -> float | None:
    if before is None or not before.count:
        return None
    return ((today.count if today else 0) - before.count) / before.count


def _called(user: Any, applications: Sequence[str], since: datetime) -> Sequence[Called]:
    """Counted in the newest of one's own records: sealed figures name no callers."""
    if not applications:
        return []
    name = user.get_username()
    calls = Record.objects.filter(kind__in=("prediction", "refusal"), application__in=applications, user_name=name, ts__gte=since)
    records = calls.order_by("-ts", "-id")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        with time_limit(1_000):
            for model, outcome, n in records.values_list("model", "outcome", "count")[:CALLS_SCANNED]:
                counts[model][outcome] += n
    except SearchTooBroad:
        return []
    found = []
    for model, outcomes in sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))[:OWN_LIMIT]:
        answered, failed = (sum(outcomes[outcome] for outcome in group) for group in (ANSWERED, FAILED))
        own = f"{f'model:{quote(model)} ' if model else ''}user:{quote(name)} kind:prediction,refusal"
        wrong = records_url(f"{own} -outcome:{','.join(ANSWERED)} since:24h")
        found.append(Called(model, answered, outcomes.total() - answered - failed, failed, records_url(f"{own} since:24h"), wrong))
    return found


def _acts(since: datetime, now: datetime) -> Sequence[Record]:
    try:
        with time_limit(1_000):
            return list(Record.objects.filter(kind="act", ts__gte=since, ts__lt=now).order_by("-ts", "-id")[:ACT_LIMIT])
    except SearchTooBroad:
        return []


def _audited(since: datetime, now: datetime) -> Audited:
    today = figures.summary(None, since, now)
    return Audited(
        today=today,
        change=_change(today, figures.summary(None, since - timedelta(days=1), since)),
        failed_url=records_url(f"outcome:{','.join(FAILED)} since:24h"),
        acts=tuple(lines(_acts(since, now))),
        acts_url=records_url("kind:act"),
    )
