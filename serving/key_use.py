"""When keys were last used, read from the daybook."""

from datetime import datetime, timedelta

from django.db.models import Max

from audit.models import Record
from audit.querysets import SearchTooBroad, time_limit

from .models import Application

USE_SHOWN = timedelta(days=30)


def find_last_uses(application: Application, *, now: datetime) -> dict[str, datetime] | None:
    """By prefix, of the keys used within USE_SHOWN. None when that can't be found out in half a second: so many calls, and a page waits.

    Refusals of a key that may not do something count: somebody has it and uses it.
    """
    prefixes = [key.prefix for key in application.keys.all()]
    records = Record.objects.filter(application=application.name, key_prefix__in=prefixes, ts__gte=now - USE_SHOWN)
    try:
        with time_limit(500):
            return dict(records.order_by().values_list("key_prefix").annotate(Max("ts")))
    except SearchTooBroad:
        return None
