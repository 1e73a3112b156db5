"""The one writer: answers go to their gateways, and entries whose frames are all answered leave their streams in the same write.

What has been written is kept until Redis has confirmed it. When the connection breaks, `recover` writes it again on a new one if
the server is still the same (run id): replies are matched by request id, so a second one does no harm, and acknowledging twice
neither. With another server everything is moot.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..dataplane import GROUP, Keys
from ..engine.batch import Result
from ..engine.errors import Code, EngineError
from ..protocol import frames
from ..protocol.frames import REPLY_PART_BYTES, Buffer, FrameError
from ..protocol.messages import InferenceResponse, Timing
from ..resp import Address, Argument, Command, Connection, RedisGone, Reply, ReplyError, pack, pack_one, run_id
from .received import Entry, Received

logger = logging.getLogger(__name__)

WRITE_SECONDS = 10.0
MAX_UNCONFIRMED = 32  # writes; reading what confirms them costs as much as writing
MAX_UNCONFIRMED_BYTES = 1 << 20


class AnswerTooLarge(EngineError):
    """What the model gave can't be carried back."""

    code = Code.OUT_OF_RANGE


class _Write(NamedTuple):
    """What was written, how many replies that makes, and the entries that it acknowledges."""

    data: bytes
    num_replies: int
    entries: Sequence[Entry]


class Answers:
    """Any thread may call any method. Writing doesn't wait for Redis to confirm."""

    def __init__(self, address: Address, prefix: str, worker_id: str, max_frame_bytes: int) -> None:
        self._address = address
        self._keys = Keys(prefix)
        self._worker_id = worker_id
        self._max_frame_bytes = max_frame_bytes
        self._token = int.from_bytes(os.urandom(4), "little") << 32
        self._lock = threading.Lock()
        self._connection: Connection | None = None  # all below: guarded by _lock
        self._run_id = ""
        self._unconfirmed: deque[_Write] = deque()
        self._num_confirmed = 0  # of the first of them
        self._unconfirmed_bytes = 0  # written since confirmations were read
        self.num_answered = 0

    def answer(self, results: Iterable[Result], device: str = "") -> None:
        """Answer tasks whose context is a `Received`."""
        answers = []
        for result in results:
            received = result.task.context
            assert isinstance(received, Received)
            answers.append((received.entry, *self._encode(result, device)))
        self._write(answers)

    def refuse(self, entry: Entry, request_ids: Iterable[bytes], error: EngineError) -> None:
        """Answer frames that never became tasks."""
        self._write([(entry, *self._encode_error(request_id, error)) for request_id in request_ids])

    def discard(self, stream: str, entry_id: bytes) -> None:
        """Drop an entry that nobody can be answered for."""
        self._write([], [Entry(stream, entry_id, "", 0)])

    def recover(self) -> None:
        """Have a connection, and nothing unconfirmed that can be confirmed. Called by one thread, regularly; raises RedisGone."""
        with self._lock:
            if self._connection is not None:
                self._read_confirmations()
                return
        connection = Connection(self._address, f"answers:{self._worker_id}", timeout=WRITE_SECONDS)
        try:
            found = run_id(connection.call("INFO", "server"))
            with self._lock:
                if found != self._run_id:
                    self._run_id = found
                    while self._unconfirmed:
                        _settle(self._unconfirmed.popleft())
                self._num_confirmed = 0
                for write in self._unconfirmed:
                    connection.send(write.data)
                self._connection = connection
        except (RedisGone, ReplyError):
            connection.close()
            raise

    def flush(self) -> None:
        """Wait until Redis has confirmed everything. Raises RedisGone."""
        with self._lock:
            if self._connection is None:
                raise RedisGone("no connection to answer on")
            try:
                while self._unconfirmed:
                    self._confirm(self._connection.read())
            except RedisGone:
                self._drop_connection()
                raise

    def close(self) -> None:
        with self._lock:
            self._drop_connection()

    def _encode(self, result: Result, device: str) -> tuple[bytes, list[Buffer], int]:
        request_id = result.task.id
        spent = result.timing
        timing = Timing(spent.queue_us, spent.model_us, spent.batch_id, spent.batch_size, spent.batch_index, self._worker_id, device)
        error = result.error
        if error is None and result.outputs is not None:
            try:
                parts, size = frames.encode_reply(request_id, InferenceResponse(result.outputs, timing))
            except FrameError as fault:
                error = EngineError(f"the model's outputs can't be sent: {fault}")
            else:
                if size <= self._max_frame_bytes:
                    return request_id, parts, size
                error = AnswerTooLarge(f"the outputs take {size} bytes, at most {self._max_frame_bytes} are sent")
        return self._encode_error(request_id, error or EngineError("the run gave neither outputs nor an error"), timing)

    def _encode_error(self, request_id: bytes, error: EngineError, timing: Timing | None = None) -> tuple[bytes, list[Buffer], int]:
        timing = timing or Timing(worker=self._worker_id)
        parts, size = frames.encode_error(request_id, error.code, type(error).__name__, error.message, timing)
        return request_id, parts, size

    def _write(self, answers: list[tuple[Entry, bytes, list[Buffer], int]], discarded: Sequence[Entry] = ()) -> None:
        if not answers and not discarded:
            return
        by_gateway: dict[str, list[tuple[bytes, list[Buffer], int]]] = {}
        for entry, request_id, parts, size in answers:
            by_gateway.setdefault(entry.gateway, []).append((request_id, parts, size))
        written: list[Buffer] = []
        num_replies = 0
        for gateway, replies in by_gateway.items():
            num_replies += self._put_replies(gateway, replies, written)
        with self._lock:
            done: dict[str, list[Entry]] = {entry.stream: [entry] for entry in discarded}
            for entry, *_ in answers:
                entry.left -= 1
                if not entry.left:
                    done.setdefault(entry.stream, []).append(entry)
            for stream, entries in done.items():
                commands = self._acknowledge(stream, entries)
                written.append(pack(commands))
                num_replies += len(commands)
            self.num_answered += len(answers)
            data = b"".join(written)  # a copy: what may have to be written again must not hold on to a model's memory
            self._unconfirmed.append(_Write(data, num_replies, [entry for entries in done.values() for entry in entries]))
            if self._connection is None:
                return  # `recover` writes it
            try:
                self._connection.send(data)
            except RedisGone as error:
                logger.warning("answers not written, trying again", extra={"error": str(error), "requests": len(answers)})
                self._drop_connection()
            else:
                self._unconfirmed_bytes += len(data)
                if len(self._unconfirmed) >= MAX_UNCONFIRMED or self._unconfirmed_bytes >= MAX_UNCONFIRMED_BYTES:
                    self._read_confirmations()

    def _put_replies(self, gateway: str, replies: list[tuple[bytes, list[Buffer], int]], written: list[Buffer]) -> int:
        """The commands that carry replies to one gateway, in entries of 1 MB at most; returns their number."""
        head = pack_one(("XADD", self._keys.reply(gateway), "NOMKSTREAM", "*", "f", "")).removesuffix(b"$0\r\n\r\n")
        num_commands = 0
        body: list[Buffer] = []
        total = 0

        def put() -> None:
            nonlocal num_commands, body, total
            if body:
                written.extend((head + b"$%d\r\n" % total, *body, b"\r\n"))
                num_commands += 1
                body, total = [], 0

        for request_id, parts, size in replies:
            if size > REPLY_PART_BYTES:
                num_commands += self._put_long_reply(gateway, request_id, b"".join(parts), written)
                continue
            if total + size > REPLY_PART_BYTES:
                put()
            body += parts
            total += size
        put()
        return num_commands

    def _put_long_reply(self, gateway: str, request_id: bytes, frame: bytes, written: list[Buffer]) -> int:
        self._token += 1
        head = pack_one(("XADD", self._keys.reply(gateway), "NOMKSTREAM", "*", "p", "")).removesuffix(b"$0\r\n\r\n")
        num_commands = 0
        for prefix, piece in frames.cut_reply(request_id, self._token, frame):
            written.extend((head + b"$%d\r\n" % (len(prefix) + len(piece)) + prefix, piece, b"\r\n"))
            num_commands += 1
        return num_commands

    def _acknowledge(self, stream: str, entries: list[Entry]) -> list[Command]:
        ids: list[Argument] = [entry.id for entry in entries]
        commands: list[Command] = [("XACK", stream, GROUP, *ids), ("XDEL", stream, *ids)]
        marked = [request_id for entry in entries if entry.claimed for request_id in entry.request_ids]
        if marked:
            commands.append(("HDEL", self._keys.tried(stream), *marked))
        return commands

    def _read_confirmations(self) -> None:
        """Take in those that have come. Under _lock."""
        assert self._connection is not None
        self._unconfirmed_bytes = 0
        try:
            for reply in self._connection.read_ready():
                self._confirm(reply)
        except RedisGone as error:
            logger.warning("answers not confirmed, trying again", extra={"error": str(error)})
            self._drop_connection()

    def _confirm(self, reply: Reply) -> None:
        if isinstance(reply, ReplyError):
            logger.error("answer refused by redis", extra={"error": str(reply)})
        self._num_confirmed += 1
        if self._num_confirmed == self._unconfirmed[0].num_replies:
            _settle(self._unconfirmed.popleft())
            self._num_confirmed = 0

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _settle(write: _Write) -> None:
    for entry in write.entries:
        entry.settled = True
