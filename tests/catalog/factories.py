"""Entries, signatures and people for the catalog's tests, made through the services."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib.auth.models import Group, User

from catalog.models import Entry
from catalog.search import index_entry
from catalog.services import ReportedVersion, publish_served_entry, record_states, record_version
from catalog.signatures import Signature, TensorSpec, encode_signatures

PREDICT = "tensorflow/serving/predict"


def spec(*shape: int, dtype: str = "DT_FLOAT", name: str = "t:0") -> TensorSpec:
    return TensorSpec(dtype, shape, name)


def signature(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], method: str = PREDICT, **fields: Any) -> Signature:
    return Signature(inputs=inputs, outputs=outputs, method_name=method, **fields)


HALF_PLUS_TWO = {"serving_default": signature({"x": spec(-1, 1)}, {"y": spec(-1, 1)})}
DIGITS = {"serving_default": signature({"image": spec(-1, 8, 8)}, {"scores": spec(-1, 10), "class": spec(-1, dtype="DT_INT64")})}
DIGIT_NAMES = [str(digit) for digit in range(10)]


def make_user(name: str = "ada", role: str = "viewer") -> User:
    user = User.objects.create_user(name, f"{name}@example.org", "correct horse battery")
    user.groups.add(Group.objects.get(name=role))
    return user


def make_entry(
    name: str = "half_plus_two",
    *,
    actor: str = "ada",
    signatures: Mapping[str, Signature] | None = HALF_PLUS_TWO,
    version: int = 1,
    labels: Mapping[str, int] | None = None,
    calls: int = 0,
    tags: Sequence[str] = (),
    **fields: Any,
) -> Entry:
    """An entry with one ready version; signatures=None leaves it without any."""
    publish_served_entry(name=name, actor=actor, tags=tags, **fields)
    if signatures is not None:
        record_version(name=name, version=version, artifact="ab" * 32, signatures=encode_signatures(signatures))
        record_states(name=name, versions=[ReportedVersion(version, "AVAILABLE")], labels=labels or {}, default_version=version)
    entry = Entry.objects.get(slug=name)
    if calls:
        entry.calls = calls
        entry.save(update_fields=["calls"])
        index_entry(entry)
        entry.refresh_from_db()
    return entry
