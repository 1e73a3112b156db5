"""Looking at a payload: who may, and the act it leaves behind. One way for page and API."""

from typing import cast

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied

from .access import Viewer, may_view_payload
from .acts import record_act
from .models import Record
from .payload_store import read_payload
from .payloads import Payload


def is_own(user: Viewer, record: Record) -> bool:
    return record.user_name != "" and record.user_name == user.get_username()


def view_payload(*, record: Record, user: Viewer, address: str) -> Payload:
    """Request and answer of a record, for its caller and for auditors.

    An auditor's view is an act of its own, durable before the first byte is read: a view that isn't written down doesn't happen.
    Raises PermissionDenied, PayloadUnavailable.
    """
    if not may_view_payload(user, record):
        raise PermissionDenied("Request and answer are for auditors and for the caller whose they are.")
    if not is_own(user, record):
        record_act(
            kind="payload.viewed",
            actor=cast(User, user).get_username(),
            subject=str(record.id),
            details={"record": str(record.id)},
            address=address,
        )
    return read_payload(record)
