"""A gateway's reply stream: read on a connection of its own that waits without a timeout, emptied as it is read."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from .dataplane import BEAT_S, REPLY_TTL_S
from .protocol.frames import FrameError, ReplyJoiner, part_request_id
from .resp import LoopConnection, RedisGone, Reply, ReplyError, pack_one

logger = logging.getLogger(__name__)

ENTRIES_PER_READ = 16


class ReplyStream:
    """Gives entries of reply frames to `take` as they come, long replies joined. Belongs to one loop.

    is_waiting: whether anybody waits for a request; parts for nobody are dropped. max_bytes: of a joined reply.
    """

    def __init__(self, key: str, *, is_waiting: Callable[[bytes], bool], take: Callable[[bytes], None], max_bytes: int) -> None:
        self._key = key
        self._is_waiting = is_waiting
        self._take = take
        self._max_bytes = max_bytes
        self._connection: LoopConnection | None = None
        self._last = b"0-0"
        self._joiner = ReplyJoiner()

    async def make(self, commands: LoopConnection) -> None:
        """An empty stream: workers write only into one that exists, so that replies to a gateway that has gone are dropped.

        Also while `read` waits for it, when Redis has let it expire. Raises RedisGone, ReplyError.
        """
        last = (await commands.call_all([("DEL", self._key), ("XADD", self._key, "*", "f", "")]))[1]
        await commands.call_all([("XDEL", self._key, last), ("EXPIRE", self._key, REPLY_TTL_S)])
        if self._connection is None:
            self._last = last

    def read(self, connection: LoopConnection) -> None:
        """Read on this connection until `close`."""
        self._connection = connection
        self._joiner = ReplyJoiner()
        self._ask(connection, trim=False)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _ask(self, connection: LoopConnection, *, trim: bool) -> None:
        """Ask for what comes after the last entry; `trim` drops that one and all before it in the same write."""
        if connection is not self._connection:
            return  # closed meanwhile
        read = pack_one(("XREAD", "COUNT", ENTRIES_PER_READ, "BLOCK", 0, "STREAMS", self._key, self._last))
        with contextlib.suppress(RedisGone):  # the queue hears of it by `on_lost`
            if trim:
                milliseconds, _, sequence = self._last.partition(b"-")
                drop = pack_one(("XTRIM", self._key, "MINID", b"%s-%d" % (milliseconds, int(sequence) + 1)))
                connection.send([drop + read], [_ignore, self._on_read])
            else:
                connection.send([read], [self._on_read])

    def _on_read(self, reply: Reply) -> None:
        connection = self._connection
        if isinstance(reply, RedisGone) or connection is None:
            return
        if isinstance(reply, ReplyError) or reply is None:
            logger.warning("reply stream not read", extra={"error": str(reply)})
            asyncio.get_running_loop().call_later(BEAT_S, lambda: self._ask(connection, trim=False))
            return
        entries = reply[0][1]
        self._last = entries[-1][0]
        self._ask(connection, trim=True)  # on its way while we decode
        for _, fields in entries:
            try:
                entry = fields[1] if fields[0] == b"f" else self._join(fields[1])
                if entry:
                    self._take(entry)
            except FrameError as error:
                logger.error("reply not readable", extra={"error": str(error)})

    def _join(self, part: bytes) -> bytes | None:
        """The long reply that this was the last missing part of."""
        return self._joiner.add(part, max_bytes=self._max_bytes) if self._is_waiting(part_request_id(part)) else None


def _ignore(reply: Reply) -> None:
    pass
