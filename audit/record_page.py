"""What the page of one record shows: the facts, the content, the thread of what happened to it since, and the proof."""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from urllib.parse import urlsplit

from django.conf import settings
from django.urls import reverse

from . import checkpoint, drawings, leaves, published, rowcheck, stored, words
from .access import Viewer, may_view_payload, sees_all_records, visible_records
from .contexts import Line, TimingBar, lines, record_url, records_url, timing_bar
from .errors import PayloadElsewhere, PayloadErased, PayloadUnavailable
from .models import LogLeaf, Record
from .published import Proof
from .record import CALL_KINDS
from .search import quote
from .tiles import BadTile
from .verifier import BadProof, hash_children, verify_inclusion
from .viewing import view_payload

SHOWN_BYTES = 256_000
THREAD_LIMIT = 50


# Facts


@dataclass(frozen=True, slots=True)
class Fact:
    """`form` says how the value is written: text, digest, link, mono."""

    name: str
    value: str
    form: str = "text"
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    facts: tuple[Fact, ...]


# The proof, as a path


@dataclass(frozen=True, slots=True)
class Step:
    """One level of the tree: `sibling` stands at `side`, together they hash to `parent`."""

    sibling: str
    side: str
    parent: str
    level: int


@dataclass(frozen=True, slots=True)
class DrawnProof:
    index: int
    leaf_hash: str
    steps: tuple[Step, ...]
    root: str
    size: int
    note: str
    made_at: object
    fault: str  # why it doesn't hold, "" when it does


@dataclass(frozen=True, slots=True)
class Command:
    caption: str
    code: str


# The content


@dataclass(frozen=True, slots=True)
class Part:
    """Request or response as text. `text` is cut at `SHOWN_BYTES`; bytes that aren't text are written as hex."""

    name: str
    size: int
    text: str
    is_json: bool
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Content:
    """state: shown, closed (ask for it), forbidden, none, erased, elsewhere or unavailable; `reason` in words."""

    state: str
    reason: str = ""
    exchange: drawings.Exchange | None = None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordPage:
    record: Record
    title: str
    subject: str
    outcome: str
    kind: str
    answer: str
    behind_answer: str
    explanation: str
    caller: str
    seal: str  # durable, sealed or broken
    index: int | None
    faults: tuple[str, ...]
    groups: tuple[Group, ...]
    timing: TimingBar | None
    content: Content
    leaf: str
    leaf_bytes: int
    proof: DrawnProof | None
    commands: tuple[Command, ...]
    receipt_command: str
    thread: tuple[Line, ...]  # what happened to the record later
    url: str
    around_url: str
    trace_url: str
    is_call: bool


def record_page(record: Record, user: Viewer, *, show_content: bool, address: str) -> RecordPage:
    """`show_content`: the viewer asked for the payload, or it is their own. `address` is theirs, for the act of viewing."""
    leaf = _find_leaf(record)
    place = LogLeaf.objects.filter(record_id=record.id).first()
    proof = _find_proof(record)
    drawn = draw_proof(proof, leaf) if proof else None
    faults = tuple(find_faults(record, leaf, place, drawn))
    is_call = record.kind in CALL_KINDS
    subject = words.subject(record)
    answer, behind_answer = words.answer(record)
    return RecordPage(
        record=record,
        title=f"{subject} {record.ts:%H:%M:%S}",
        subject=subject,
        outcome=words.outcome(record),
        kind=words.outcome_kind(record.outcome),
        answer=answer,
        behind_answer=behind_answer,
        explanation=words.explanation(record) if is_call else "",
        caller=words.caller(record),
        seal="broken" if faults else "sealed" if proof else "durable",
        index=place.index if place else None,
        faults=faults,
        groups=tuple(_groups(record, sees_all_records(user))),
        timing=timing_bar(total_us=record.total_us, queue_us=record.queue_us, model_us=record.model_us) if record.total_us else None,
        content=_content(record, user, leaf, show=show_content, address=address),
        leaf="" if leaf is None else leaf.decode(errors="replace"),
        leaf_bytes=len(leaf or b""),
        proof=drawn,
        commands=tuple(_commands(record, is_sealed=proof is not None)),
        receipt_command=f"daybook-verify receipt --keys keys.json --leaf {_file_name(record)}.leaf receipt.txt",
        thread=tuple(_thread(record, user)),
        url=record_url(record.id),
        around_url=_around_url(record),
        trace_url=_trace_url(record),
        is_call=is_call,
    )


def _find_leaf(record: Record) -> bytes | None:
    try:
        return published.find_leaf(record.id)
    except BadTile:
        return None


def _find_proof(record: Record) -> Proof | None:
    try:
        return published.find_proof(record.id)
    except BadTile:
        return None


def find_faults(record: Record, leaf: bytes | None, place: LogLeaf | None, proof: DrawnProof | None) -> list[str]:
    """What doesn't add up between the row, the leaf and the log; [] when all does."""
    found = []
    hashed = None if leaf is None else leaves.leaf_hash(leaf)
    if leaf is None:
        found.append("The leaf of this record is missing from the log's entries and from what waits to be sealed.")
    elif hashed != bytes(record.leaf_hash):
        found.append("The leaf in the log is not the one that this row names: the row or the entry was changed.")
    if place is not None and bytes(place.leaf_hash) != bytes(record.leaf_hash):
        found.append(f"The log sealed another leaf hash at index {place.index} than this row names.")
    if leaf is not None and hashed == bytes(record.leaf_hash):
        # Pseudonyms need the master key of the node that wrote the leaf; `verify_log` checks those.
        columns = rowcheck.differences({name: getattr(record, name) for name in rowcheck.COLUMNS}, leaf, None)
        found += [f"The row says something else in {column} than the leaf that was sealed." for column in columns]
    if proof is not None and proof.fault:
        found.append(f"The inclusion proof does not hold: {proof.fault}.")
    return found


def draw_proof(proof: Proof, leaf: bytes | None) -> DrawnProof:
    """Walk from the leaf to the root as RFC 9162 §2.1.3.2 does, keeping each node; checked again by the verifier's own walk."""
    signed = checkpoint.parse(proof.published.note)
    node, at, last = proof.leaf_hash, proof.index, proof.published.size - 1
    steps = []
    for level, sibling in enumerate(proof.hashes):
        is_right = bool(at & 1) or at == last
        parent = hash_children(sibling, node) if is_right else hash_children(node, sibling)
        steps.append(Step(sibling.hex(), "left" if is_right else "right", parent.hex(), level + 1))
        if is_right:
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        node, at, last = parent, at >> 1, last >> 1
    fault = ""
    try:
        verify_inclusion(proof.index, proof.published.size, proof.leaf_hash, proof.hashes, signed.root)
        if leaf is not None and leaves.leaf_hash(leaf) != proof.leaf_hash:
            fault = "it is the proof of another leaf"
    except BadProof as error:
        fault = str(error)
    return DrawnProof(
        proof.index,
        proof.leaf_hash.hex(),
        tuple(steps),
        signed.root.hex(),
        proof.published.size,
        proof.published.note,
        proof.published.made_at,
        fault,
    )


def _groups(record: Record, sees_all: bool) -> list[Group]:
    model = record.model and f"model:{quote(record.model)}"
    groups = [
        Group(
            "Who",
            _known(
                Fact("Application", record.application, "link", records_url(f"application:{quote(record.application)}")),
                Fact("Key", record.key_prefix, "link", records_url(f"key:{quote(record.key_prefix)}")),
                Fact("Person", record.user_name, "link", records_url(f"user:{quote(record.user_name)}")),
                Fact(
                    "As",
                    {"key": "API key", "try-it": "try-it on the site", "user": "signed in", "system": "a process"}.get(
                        record.actor_type, record.actor_type
                    ),
                ),
                Fact("From", record.address),
            ),
        ),
        Group(
            "What",
            _known(
                Fact("Model", record.model if record.kind in CALL_KINDS else "", "link", records_url(model)),
                Fact("Version", "" if record.version is None else str(record.version), "link", records_url(f"{model}@{record.version}")),
                Fact("Signature", record.signature, "mono"),
                Fact("Artifact", bytes(record.artifact).hex() if record.artifact else "", "digest"),
                Fact("Protocol", words.PROTOCOLS.get(record.protocol, record.protocol)),
                Fact("Verb", record.verb),
                Fact("Note" if record.kind == "act" else "Answer", record.answer),
                Fact("Rows", f"{record.rows:,}" if record.rows else ""),
                Fact("Request", f"{record.request_bytes:,} bytes" if record.request_bytes else ""),
                Fact("Response", f"{record.response_bytes:,} bytes" if record.response_bytes else ""),
                Fact("Stands for", f"{record.count:,} refusals alike" if record.count > 1 else ""),
            ),
        ),
        Group(
            "How",
            _known(
                Fact("Status", str(record.status) if record.status else ""),
                Fact("Batch", _batch(record)),
                Fact("Worker", record.worker if sees_all else "", "mono"),
                Fact("Device", record.device),
                Fact("Node", record.node if sees_all else "", "mono"),
                Fact(
                    "Trace",
                    bytes(record.trace).hex() if record.trace else "",
                    "digest",
                    _trace_url(record),
                ),
            ),
        ),
    ]
    return [group for group in groups if group.facts]


def _known(*facts: Fact) -> tuple[Fact, ...]:
    return tuple(fact for fact in facts if fact.value)


def _batch(record: Record) -> str:
    if not record.batch_size:
        return "ran alone" if record.model_us else ""
    own = max(1, record.rows)
    if record.batch_size <= own:
        return "ran alone"
    rows = f"row {record.batch_index + 1}" if own == 1 else f"rows {record.batch_index + 1} to {record.batch_index + own}"
    return f"{rows} of {record.batch_size} in batch {record.batch_id}"


def _content(record: Record, user: Viewer, leaf: bytes | None, *, show: bool, address: str) -> Content:
    if record.kind not in CALL_KINDS:
        return Content("none")
    if not record.segment:
        return Content("none", "This record has no stored payload.")
    if leaf is not None and b'"ct":' not in leaf:
        return Content("none", "Refused calls are recorded without their bodies: size and digest of the body are in the leaf.")
    if not may_view_payload(user, record):
        return Content("forbidden", "Request and answer are for auditors and for the caller whose they are.")
    if not show:
        return Content("closed")
    try:
        payload = view_payload(record=record, user=user, address=address)
    except PayloadErased as error:
        return Content("erased", error.reason)
    except PayloadElsewhere as error:
        return Content("elsewhere", error.reason)
    except PayloadUnavailable as error:
        return Content("unavailable", error.reason)
    try:
        request = None if payload.request is None else stored.as_json(payload.request)
    except stored.BadStored as error:
        return Content("unavailable", str(error))
    parts = [_part(name, body) for name, body in (("Request", request), ("Response", payload.response)) if body is not None]
    return Content("shown", "", drawings.draw_exchange(request, payload.response), tuple(parts))


def _part(name: str, body: bytes) -> Part:
    cut = len(body) > SHOWN_BYTES
    try:
        text = body[:SHOWN_BYTES].decode("utf-8", errors="ignore" if cut else "strict")
    except UnicodeDecodeError:
        shown = body[:2_048]
        lines = (f"{at:06x}  {shown[at : at + 16].hex(' ')}" for at in range(0, len(shown), 16))
        return Part(name, len(body), "\n".join(lines), is_json=False, is_cut=len(body) > len(shown))
    return Part(name, len(body), text, is_json=text.lstrip()[:1] in ("{", "["), is_cut=cut)


def _commands(record: Record, *, is_sealed: bool) -> list[Command]:
    """What somebody who trusts nobody types. Addresses are this site's."""
    base = str(settings.SITE_URL).rstrip("/")
    own = "" if settings.LOG_ENTRIES == "public" else ' -H "Authorization: Bearer $DAYBOOK_API_KEY"'
    if not is_sealed:
        return []
    proof, entry = reverse("audit:log-proof", args=[record.id]), reverse("audit:log-entry", args=[record.id])
    name = _file_name(record)
    return [
        Command(
            f"Fetch the log's public key (once, and compare it with what you know of {urlsplit(base).netloc})",
            f"curl -fsS {base}{reverse('audit:log-vkey')} -o log.vkey",
        ),
        Command(
            "Fetch the leaf and its proof", f"curl -fsS{own} {base}{entry} -o {name}.leaf\ncurl -fsS {base}{proof} -o {name}.tlog-proof"
        ),
        Command("Check them offline", f"daybook-verify proof --vkey log.vkey --leaf {name}.leaf {name}.tlog-proof"),
    ]


def _file_name(record: Record) -> str:
    """What the files of a record are called in commands, before their ending."""
    return str(record.id)[:8]


def _thread(record: Record, user: Viewer) -> list[Line]:
    """Acts on this record, oldest first: who opened it, replays, erasures. An act on a record has its id as subject."""
    acts = visible_records(user).filter(kind="act", model=str(record.id), ts__gte=record.ts).order_by("ts", "id")[:THREAD_LIMIT]
    return lines(list(acts))


def _trace_url(record: Record) -> str:
    return records_url(f"trace:{bytes(record.trace).hex()}") if record.trace else ""


def _around_url(record: Record) -> str:
    """Neighbours whatever they are: a minute to either side."""
    minute = timedelta(minutes=1)
    since, until = (moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (record.ts - minute, record.ts + minute))
    return records_url(f"since:{since} until:{until}")


def verify_page(site_url: str, *, is_public: bool) -> dict[str, object]:
    """The commands of the page that explains verification."""
    base = site_url.rstrip("/")
    key = "" if is_public else ' -H "Authorization: Bearer $DAYBOOK_API_KEY"'
    return {
        "is_public": is_public,
        "get": (
            f"curl -fsSO {base}{reverse('audit:log-verifier')}\n"
            "sha256sum daybook-verify.py  # compare it with the digest given here and elsewhere\n"
            "python3 -m pip install cryptography\n"
            "alias daybook-verify='python3 daybook-verify.py'"
        ),
        "verifier_sha256": sha256(published.verifier_source()).hexdigest(),
        "one": (
            f"curl -fsS {base}/log/vkey -o log.vkey\n"
            f"curl -fsS{key} {base}/log/entry/$RECORD -o record.leaf\n"
            f"curl -fsS {base}/log/proof/$RECORD -o record.tlog-proof\n"
            "daybook-verify proof --vkey log.vkey --leaf record.leaf record.tlog-proof"
        ),
        "all": (
            f"curl -fsS {base}/log/vkey -o log.vkey\n"
            "# copy the published tree: LOG_DIR on the server, or tile by tile from /log/tile/\n"
            "daybook-verify log --vkey log.vkey ./log"
        ),
        "saved": (
            f"curl -fsS {base}/log/checkpoint -o checkpoint-$(date +%F)\n"
            "daybook-verify log --vkey log.vkey --saved checkpoint-2026-11-01 ./log"
        ),
        "receipt": (
            f"curl -fsS {base}/log/receipt-keys -o keys.json\n"
            "# receipt.txt: what the answer carried in Daybook-Receipt\n"
            "daybook-verify receipt --keys keys.json --leaf record.leaf receipt.txt"
        ),
    }
