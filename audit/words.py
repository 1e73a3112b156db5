"""What records are called on pages: outcomes, callers and acts in words."""

import re

from .figures import ANSWERED, FAILED
from .models import Record

OUTCOMES = {
    "ok": "answered",
    "cached": "answered from cache",
    "shadow": "shadow",
    "rejected": "rejected",
    "too_many": "too many",
    "cancelled": "cancelled",
    "model_error": "model error",
    "timeout": "timeout",
    "unavailable": "unavailable",
    "stream_aborted": "cut off",
}
EXPLANATIONS = {
    "ok": "The model answered.",
    "cached": "An earlier answer was given again.",
    "shadow": "Run beside the real call for comparison; its answer was not returned.",
    "rejected": "The request was refused before it reached a model.",
    "too_many": "A limit or a full queue refused it; the caller was told when to try again.",
    "cancelled": "The caller left before the answer.",
    "model_error": "The model failed on this input.",
    "timeout": "The deadline passed before the answer.",
    "unavailable": "Nothing could serve it: no worker, not ready, or the record could not be made durable.",
    "stream_aborted": "The stream broke off before its end.",
}
PROTOCOLS = {
    "tfs_rest": "TensorFlow Serving REST",
    "tfs_grpc": "TensorFlow Serving gRPC",
    "oip_rest": "Open Inference REST",
    "oip_grpc": "Open Inference gRPC",
    "proxy": "proxy",
}


_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


def outcome(record: Record) -> str:
    if record.kind in ("act", "system"):
        return "done" if record.kind == "act" else "noted"
    return OUTCOMES.get(record.outcome, record.outcome.replace("_", " "))


def explanation(record: Record) -> str:
    """What the outcome of a call means, in a sentence."""
    if record.kind == "read" and record.outcome in ANSWERED:
        return "The gateway said what it knows of its models; none of them was asked."
    return EXPLANATIONS.get(record.outcome, "")


def outcome_kind(name: str) -> str:
    """`ok`, `warn` (the caller's side) or `fail` (ours), the shapes of the site."""
    if name in ANSWERED:
        return "ok"
    return "fail" if name in FAILED else "warn"


def caller(record: Record) -> str:
    """Who called, shortest name first: application, person, key, address."""
    if record.kind == "system":
        return record.node
    if record.kind == "act":
        return record.user_name  # its application, if any, is what was acted on
    if record.actor_type == "try-it":
        return f"{record.user_name or 'visitor'}, trying it"
    if record.application:
        return record.application
    if record.user_name:
        return record.user_name
    if record.key_prefix:
        return record.key_prefix
    return f"anonymous, {record.address}" if record.address else "anonymous"


def act(record: Record) -> str:
    """ "payload.viewed" → "payload viewed"."""
    return (record.verb or record.kind).replace("_", " ").replace(".", " ")


def subject(record: Record) -> str:
    """What the record is about: `digits@3`; for reads and acts what was done, then to what."""
    if record.kind in ("act", "system"):
        on = _acted_on(record)
        return f"{act(record)}, {on}" if on else act(record)
    if record.kind == "read":
        return f"{record.verb}, {_name(record)}" if record.model else f"{record.verb} of models"
    return _name(record) if record.model else "no model"


def _name(record: Record) -> str:
    return record.model if record.version is None else f"{record.model}@{record.version}"


def _acted_on(record: Record) -> str:
    """A record by the start of its id, an application by the name that only the row knows."""
    if record.application and record.model.startswith("application "):
        return record.application
    return record.model[:8] if _ID.fullmatch(record.model) else record.model


# What a gateway writes behind a label: its score, and how many more rows were asked ("seven 0.98 (+19)").
BEHIND_LABEL = r"( [01]\.[0-9]+)?( \(\+[0-9]+\))?$"


def answer(record: Record) -> tuple[str, str]:
    """The answer, or what went wrong, in one line; and what stands behind its label."""
    text = " ".join((record.answer if record.outcome in ANSWERED else record.error).split())
    behind = re.search(BEHIND_LABEL, text) if record.outcome in ANSWERED else None
    return (text[: behind.start()], behind[0].strip()) if behind and behind.start() else (text, "")
