"""Refusals counted together, so that a flood of them costs no flood of records.

The first refusal of a (caller, status, reason, second) is recorded by itself, durable before its answer; the others of that
second are answered with its name and follow as one more record with their count. The sum of counts is the number of refusals,
and a name that was given out is in the log whatever dies when; only the count of the running second can be lost with the process.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from . import ids
from .record import Call

if TYPE_CHECKING:
    from .recorder import Committed

SINGLE_429_PER_SECOND = 10
MAX_KEYS_PER_SECOND = 2048

Key = tuple[str, int, str]


class _Aggregate:
    __slots__ = ("first", "future", "more")

    def __init__(self, first: Call, future: "asyncio.Future[Committed]") -> None:
        self.first = first
        self.future = future
        self.more = 0


class RefusalCounter:
    """Owned by the loop. `flush` is called some times a second."""

    def __init__(self, append: Callable[[Call], "asyncio.Future[Committed]"]) -> None:
        self._append = append
        self._second = 0
        self._aggregates: dict[Key, _Aggregate] = {}
        self._singles: dict[str, int] = {}

    def refuse(self, call: Call) -> "asyncio.Future[Committed]":
        """A refusal of a known caller: 429s above ten per second are counted together, all others are records."""
        if call.status != 429:
            return self._append(call)
        self.flush(ids.time_us(call.record_id))
        caller = call.key_prefix or call.address
        seen = self._singles.get(caller, 0)
        if seen >= SINGLE_429_PER_SECOND:
            return self.aggregate(call)
        if len(self._singles) < MAX_KEYS_PER_SECOND or caller in self._singles:
            self._singles[caller] = seen + 1
        return self._append(call)

    def aggregate(self, call: Call) -> "asyncio.Future[Committed]":
        self.flush(ids.time_us(call.record_id))
        key = (call.key_prefix or call.address, call.status, call.error)
        found = self._aggregates.get(key)
        if found is None:
            if len(self._aggregates) >= MAX_KEYS_PER_SECOND:  # as many callers as this: one count for all others
                return self._count_among_others(call)
            return self._open(key, call)
        found.more += call.count
        return _follow(found.future)

    def flush(self, ids_time_us: int, everything: bool = False) -> None:
        """Record the counts of seconds that are over."""
        second = ids_time_us // 1_000_000
        if second == self._second and not everything:
            return
        self._second = second
        self._singles.clear()
        aggregates, self._aggregates = self._aggregates, {}
        for aggregate in aggregates.values():
            if aggregate.more:
                counted = replace(aggregate.first, record_id=ids.new_id(), count=aggregate.more, request=None, response=None)
                self._append(counted).add_done_callback(_retrieve)

    def _open(self, key: Key, call: Call) -> "asyncio.Future[Committed]":
        future = self._append(call)
        self._aggregates[key] = _Aggregate(call, future)
        return _follow(future)

    def _count_among_others(self, call: Call) -> "asyncio.Future[Committed]":
        key = ("", call.status, "")
        found = self._aggregates.get(key)
        if found is None:
            return self._open(key, replace(call, key_prefix="", application="", user="", address="", actor_type="anonymous"))
        found.more += call.count
        return _follow(found.future)


def _follow(future: "asyncio.Future[Committed]") -> "asyncio.Future[Committed]":
    """A future of its own with the same end: who waits for it may be cancelled without taking the others along."""
    follower: asyncio.Future[Committed] = future.get_loop().create_future()

    def finish(done: "asyncio.Future[Committed]") -> None:
        if follower.done():
            return
        if (error := done.exception()) is not None:
            follower.set_exception(error)
        else:
            follower.set_result(done.result())

    if future.done():
        finish(future)
    else:
        future.add_done_callback(finish)
    return follower


def _retrieve(future: "asyncio.Future[Committed]") -> None:
    if not future.cancelled():
        future.exception()
