"""Stream entries made of the frames that one tick has gathered (pure)."""

from collections.abc import Sequence
from typing import NamedTuple

from .protocol.frames import Buffer
from .resp import pack_one

ENTRY_BYTES = 256 * 1024  # an entry holds no more, unless one frame is larger
JOIN_BELOW = 64 * 1024  # copying this much together costs less than handing many parts to the socket


class Frame(NamedTuple):
    """An encoded request."""

    request_id: bytes
    parts: list[Buffer]
    size: int
    rows: int


class Entry(NamedTuple):
    """Frames that travel together."""

    ids: list[bytes]
    parts: list[Buffer]
    size: int


class Lane:
    """One servable's requests under way from this gateway: what they take of its share, and how fast they are answered."""

    __slots__ = ("_gateway_id", "_heads", "answered", "bytes", "rate", "registered", "rows", "stream")

    def __init__(self, stream: str, gateway_id: str) -> None:
        self.stream = stream
        self.rows = 0
        self.bytes = 0
        self.answered = 0  # rows since the last beat
        self.rate = 0.0  # rows per second
        self.registered = 0  # the connection on which the stream's name was made known
        self._gateway_id = gateway_id
        self._heads: dict[int, bytes] = {}

    def head(self, priority: int) -> bytes:
        """The XADD of an entry, up to the length of its frames."""
        if priority not in self._heads:
            command = pack_one(("XADD", f"{self.stream}:{priority}", "*", "g", self._gateway_id, "f", ""))
            self._heads[priority] = command.removesuffix(b"$0\r\n\r\n")
        return self._heads[priority]

    def measure(self, seconds: float) -> None:
        """Take in what was answered within the last `seconds`."""
        self.rate += (self.answered / seconds - self.rate) * 0.3
        self.answered = 0


def make_entries(frames: Sequence[Frame], num_workers: int) -> list[Entry]:
    """The entries of one servable and priority.

    Of a burst each worker shall be able to take its part: ⌈rows ÷ workers⌉ rows go into one entry (RULES 4.2).
    """
    max_rows = -(-sum(frame.rows for frame in frames) // num_workers) if num_workers > 1 else 1 << 62
    entries: list[Entry] = []
    ids: list[bytes] = []
    body: list[Buffer] = []
    entry_size = entry_rows = 0
    for request_id, parts, size, rows in frames:
        if ids and (entry_size + size > ENTRY_BYTES or entry_rows + rows > max_rows):
            entries.append(Entry(ids, body, entry_size))
            ids, body, entry_size, entry_rows = [], [], 0, 0
        ids.append(request_id)
        body += parts
        entry_size += size
        entry_rows += rows
    if ids:
        entries.append(Entry(ids, body, entry_size))
    return entries


def join_small(parts: list[Buffer], size: int) -> list[Buffer]:
    """The same bytes in fewer parts, large ones uncopied. `size` is about what they hold together."""
    if size < JOIN_BELOW:
        return [b"".join(parts)]
    joined: list[Buffer] = []
    small: list[Buffer] = []
    for part in parts:
        if len(part) < JOIN_BELOW:
            small.append(part)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(part)
    if small:
        joined.append(b"".join(small))
    return joined
