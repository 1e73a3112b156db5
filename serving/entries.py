"""Stream entries made of the frames that one tick has gathered (pure)."""

from collections.abc import Sequence
from typing import NamedTuple

from .protocol.frames import Buffer
from .resp import pack_one

ENTRY_BYTES = 256 * 1024  # an entry holds no more, unless one frame is larger
MIN_AHEAD = 32  # rows under way below which a wait isn't predicted: so few say nothing about what batches can do
PREDICTED_FOR_S = 5.0
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

    __slots__ = ("_capacity", "_capacity_us", "_gateway_id", "_heads", "answered", "bytes", "rate", "registered", "rows", "stream")

    def __init__(self, stream: str, gateway_id: str) -> None:
        self.stream = stream
        self.rows = 0
        self.bytes = 0
        self.answered = 0  # rows since the last beat
        self.rate = 0.0  # rows per second
        self.registered = 0  # the connection on which the stream's name was made known
        self._capacity = 0.0  # rows per second, while many wait
        self._capacity_us = 0
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

    def learn(self, ahead: int, submitted_us: int, now_us: int) -> None:
        """Take in that a request was answered now which found `ahead` rows under way, its own among them."""
        if ahead < MIN_AHEAD or now_us <= submitted_us:
            return
        capacity = ahead * 1e6 / (now_us - submitted_us)
        fresh = self._capacity and now_us - self._capacity_us < PREDICTED_FOR_S * 1e6
        self._capacity = self._capacity + (capacity - self._capacity) * 0.1 if fresh else capacity
        self._capacity_us = now_us

    def learn_late(self, ahead: int, submitted_us: int, now_us: int) -> None:
        """Take in that a request which found `ahead` rows under way is still unanswered: they are answered no faster than that."""
        if self._capacity and ahead >= MIN_AHEAD and now_us > submitted_us:
            self._capacity = min(self._capacity, ahead * 1e6 / (now_us - submitted_us))

    def predict_wait(self, now_us: int) -> float:
        """Seconds that one more request would take; 0 while nothing is known of it."""
        if self.rows < MIN_AHEAD or not self._capacity or now_us - self._capacity_us >= PREDICTED_FOR_S * 1e6:
            return 0.0
        return self.rows / self._capacity


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
