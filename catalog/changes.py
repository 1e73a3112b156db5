"""What happened to an entry, as the daybook tells it: acts of people and of the workers, newest first."""

from dataclasses import dataclass
from datetime import datetime

from audit.models import LogLeaf, Record

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
    seal: str  # "sealed" or "durable"
    index: int | None
    record_id: str


def changes_of(name: str, *, with_actors: bool) -> list[Change]:
    """The last acts about `name`. with_actors: visitors learn what changed, not who did it."""
    records = list(
        Record.objects.filter(kind="act", model=name, verb__in=WORDS)
        .only("ts", "id", "verb", "version", "user_name")
        .order_by("-ts")[:SHOWN]
    )
    leaves = dict(LogLeaf.objects.filter(record_id__in=[record.id for record in records]).values_list("record_id", "index"))
    return [
        Change(
            text=WORDS[record.verb],
            actor=record.user_name if with_actors else "",
            at=record.ts,
            seal="sealed" if record.id in leaves else "durable",
            index=leaves.get(record.id),
            record_id=str(record.id),
        )
        for record in records
    ]
