"""Requests under way at a gateway: who waits for which reply, until when, and what room each takes."""

import asyncio
import heapq
from collections.abc import Callable, Iterator
from typing import Protocol

from .engine.errors import DeadlinePassed, EngineError
from .entries import Lane
from .protocol.messages import InferenceResponse

GRACE_US = 60_000_000  # an expired request gives its room back after this long even when no worker has said a word


class Waits(Protocol):
    """Who waits for a reply: a future, or something that takes the end as one does."""

    def done(self) -> bool: ...
    def set_result(self, response: InferenceResponse, /) -> None: ...
    def set_exception(self, error: BaseException, /) -> None: ...
    def cancel(self) -> object: ...


class Pending:
    """One request. `future` is None once it has ended here while its frame may still be queued."""

    __slots__ = ("ahead", "future", "in_grace", "lane", "rows", "sent", "size", "submitted_us")

    def __init__(self, future: Waits, lane: Lane, rows: int, size: int, now_us: int) -> None:
        self.future: Waits | None = future
        self.lane = lane
        self.rows = rows
        self.size = size
        self.submitted_us = now_us
        self.ahead = lane.rows + rows  # under way in front of its reply
        self.sent = False
        self.in_grace = False

    def fail(self, error: EngineError) -> None:
        """End it for its caller, once."""
        future, self.future = self.future, None
        if future is not None and not future.done():
            future.set_exception(error)


class PendingRequests:
    """By request id, with one timer for all their deadlines. Belongs to one loop."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._requests: dict[bytes, Pending] = {}
        self._deadlines: list[tuple[int, bytes]] = []  # heap; also holds those that have ended
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us = 0
        self.find = self._requests.get

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[tuple[bytes, Pending]]:
        return iter(list(self._requests.items()))

    def add(self, request_id: bytes, pending: Pending, deadline_us: int) -> None:
        self._requests[request_id] = pending
        lane = pending.lane
        lane.rows += pending.rows
        lane.bytes += pending.size
        heapq.heappush(self._deadlines, (deadline_us, request_id))
        if self._timer is None or deadline_us < self._timer_us:
            self._arm()

    def release(self, request_id: bytes) -> Pending | None:
        """The frame is out of the stream: its room is free. None when that was known already."""
        pending = self._requests.pop(request_id, None)
        if pending is not None:
            pending.lane.rows -= pending.rows
            pending.lane.bytes -= pending.size
        return pending

    def tidy(self) -> None:
        """Forget the deadlines of requests that have ended, when they are most of the heap."""
        if len(self._deadlines) > 2 * len(self._requests) + 1024:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._requests]
            heapq.heapify(self._deadlines)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        """Set the timer to the first deadline that still matters."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][1] not in self._requests:
            heapq.heappop(deadlines)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadlines:
            self._timer_us = deadlines[0][0]
            delay = (self._timer_us - self._now_us()) / 1e6
            self._timer = asyncio.get_running_loop().call_later(max(delay, 0.001), self._expire)

    def _expire(self) -> None:
        now_us = self._now_us()
        while self._deadlines and self._deadlines[0][0] <= now_us:
            deadline_us, request_id = heapq.heappop(self._deadlines)
            pending = self._requests.get(request_id)
            if pending is None:
                continue
            if pending.in_grace:
                self.release(request_id)
                continue
            pending.lane.learn_late(pending.ahead, pending.submitted_us, now_us)
            if pending.future is not None:
                pending.fail(DeadlinePassed(f"deadline passed {(now_us - deadline_us) // 1000} ms ago"))
            pending.in_grace = True
            heapq.heappush(self._deadlines, (deadline_us + GRACE_US, request_id))
        self._arm()
