"""What the daybook says of the catalog's entries, from its rollups: whole minutes, no record touched."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from django.db.models import Sum
from django.db.models.functions import TruncDate

from audit.models import Rollup

DAYS = 30


def daily_calls(names: Sequence[str], *, now: datetime, days: int = DAYS) -> dict[str, list[int]]:
    """Calls per day, oldest first, `days` numbers for each name; one query."""
    today = now.date()
    first = today - timedelta(days=days - 1)
    rows = (
        Rollup.objects.filter(model__in=list(names), bucket__gte=now - timedelta(days=days))
        .values("model", day=TruncDate("bucket"))
        .annotate(calls=Sum("count"))
        .order_by()
    )
    counted: dict[tuple[str, date], int] = {(row["model"], row["day"]): row["calls"] for row in rows}
    return {name: [counted.get((name, first + timedelta(days=i)), 0) for i in range(days)] for name in names}
