"""Who sees which records: the only place that decides it.

Auditors and operators (`audit.view_record`) see every record; everybody else sees the calls made with keys of their own and their own
acts. What somebody may not see does not exist for them: 404. Payloads are for auditors (`audit.view_payload`) and for the caller
whose payload it is.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import QuerySet
from django.http import Http404

from .models import Record

Viewer = User | AnonymousUser


def sees_all_records(user: Viewer) -> bool:
    return user.is_active and user.has_perm("audit.view_record")


def visible_records(user: Viewer) -> QuerySet[Record]:
    """All records that `user` may see, unordered."""
    if sees_all_records(user):
        return Record.objects.all()
    if user.is_active and user.is_authenticated:
        return Record.objects.filter(user_name=user.get_username())
    return Record.objects.none()


def get_record(user: Viewer, record_id: UUID) -> Record:
    """Raises Http404 for what is not there and for what `user` may not see, alike."""
    record = find_record(visible_records(user), record_id)
    if record is None:
        raise Http404(f"there is no record {record_id}")
    return record


def find_record(records: QuerySet[Record], record_id: UUID) -> Record | None:
    times = id_times(record_id)
    return None if times is None else records.filter(ts__gte=times[0], ts__lt=times[1], id=record_id).first()


def may_view_payload(user: Viewer, record: Record) -> bool:
    if not user.is_active or not user.is_authenticated:
        return False
    return user.has_perm("audit.view_payload") or (record.user_name != "" and record.user_name == user.get_username())


def id_times(record_id: UUID) -> tuple[datetime, datetime] | None:
    """The millisecond in which a UUIDv7 was made, as [since, until): it names the partition. None for other UUIDs."""
    if record_id.version != 7:
        return None
    try:
        since = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=record_id.int >> 80)
    except OverflowError:
        return None
    return since, since + timedelta(milliseconds=1)
