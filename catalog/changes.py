"""What happened to an entry, as the daybook tells it: acts of people and of the workers, newest first."""

from dataclasses import dataclass
from datetime import datetime

from audit.contexts import lines
from audit.models import Record
from audit.querysets import SearchTooBroad, time_limit

WORDS = {
    "entry.published": "Published in the catalog",
    "entry.card": "Card changed",
    "entry.tags": "Tags changed",
    "entry.examples": "Examples changed",
    "entry.access": "Access changed",
    "entry.retired": "Retired",
    "subscription.asked": "An application asked for access",
    "subscription.approved": "An application was approved",
    "subscription.refused": "An application was refused",
    "subscription.ended": "An application's approval ended",
    "deployment.created": "Deployed",
    "deployment.changed": "Deployment changed",
    "deployment.removed": "No longer served",
    "version.state": "Version changed its state",
}
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Change:
    text: str
    actor: str
    at: datetime
    seal: str  # sealed (a signed checkpoint covers it), durable or broken
    index: int | None
    record_id: str


def changes_of(name: str, *, with_actors: bool) -> list[Change]:
    """The last acts about `name`. with_actors: visitors learn what changed, not who did it."""
    records = _newest_acts(name)
    return [
        Change(
            text=WORDS[line.record.verb],
            actor=line.record.user_name if with_actors else "",
            at=line.record.ts,
            seal=line.seal,
            index=line.index,
            record_id=str(line.record.id),
        )
        for line in lines(records)
    ]


def _newest_acts(name: str) -> list[Record]:
    """Without a bound in time: an index holds acts alone. Empty when the database takes too long all the same."""
    try:
        with time_limit(1_000):
            return list(Record.objects.filter(kind="act", model=name, verb__in=WORDS).order_by("-ts")[:SHOWN])
    except SearchTooBroad:
        return []
