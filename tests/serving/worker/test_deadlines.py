"""What nobody waits for any more never reaches a model."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.engine.errors import DeadlinePassed
from serving.engine.options import BatchingOptions
from tests.serving.worker.plant import Server, Worker, desired, doubled, gateway, run
from tests.serving.worker.scripted import forget_runs, make_version, runs


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A model whose every run takes 0.6 s."""
    path = tmp_path / "m"
    make_version(path, delay=0.6)
    return path


def test_expired_requests_fail_in_time_and_never_run(server: Server, make_worker: Callable[..., Worker], slow: Path) -> None:
    make_worker().serve(desired(slow))
    forget_runs(slow)

    async def main() -> None:
        async with gateway(server.url) as door:
            busy = [door.submit(1.0)]
            await door.until(lambda: len(runs(slow)) == 1)
            busy.append(door.submit(1.5))
            await door.until(lambda: len(runs(slow)) == 2)  # both callers are busy
            started = time.monotonic()
            late = [door.submit(7.0, timeout=0.15) for _ in range(40)]
            for future in late:
                with pytest.raises(DeadlinePassed):
                    await future
            assert time.monotonic() - started < 0.4
            assert [doubled(await future) for future in busy] == [[2.0], [3.0]]
            assert doubled(await door.submit(2.0)) == [4.0]

    run(main())
    assert not any(7.0 in values for values in runs(slow))


def test_cancelled_requests_never_run(server: Server, make_worker: Callable[..., Worker], slow: Path) -> None:
    make_worker().serve(desired(slow, batching=BatchingOptions(mode="off")))
    forget_runs(slow)

    async def main() -> None:
        async with gateway(server.url) as door:
            busy = [door.submit(1.0), door.submit(1.5)]
            await door.until(lambda: len(runs(slow)) == 2)
            ids = [bytes([n]) * 16 for n in range(6)]
            gone = [door.submit(7.0, request_id=request_id) for request_id in ids]
            kept = door.submit(3.0)
            await asyncio.sleep(0.1)
            for request_id in ids:
                door.queue.cancel(request_id)
            assert all(future.cancelled() for future in gone)
            await asyncio.gather(*busy)
            assert doubled(await kept) == [6.0]
            await door.until(lambda: door.queue.room_taken("daybook-test:q:m@1") == 0)

    run(main())
    assert not any(7.0 in values for values in runs(slow))


def test_cancelled_within_the_tick_is_never_sent(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    make_worker().serve(desired(base))
    forget_runs(base)

    async def main() -> None:
        async with gateway(server.url) as door:
            gone = door.submit(7.0, request_id=b"g" * 16)
            kept = door.submit(1.0)
            door.queue.cancel(b"g" * 16)
            assert gone.cancelled()
            assert doubled(await kept) == [2.0]

    run(main())
    assert runs(base) == [[1.0]]


def test_a_run_past_twice_its_timeout_is_found(server: Server, make_worker: Callable[..., Worker], slow: Path) -> None:
    stuck: list[tuple[str, float]] = []
    worker = make_worker(on_stuck=lambda servable, seconds: stuck.append((servable, seconds)))
    worker.serve(desired(slow, timeout=0.02))

    async def main() -> None:
        async with gateway(server.url) as door:
            await asyncio.gather(*[door.submit(1.0) for _ in range(3)])

    run(main())
    assert stuck
    assert stuck[0][0] == "m@1"
    assert stuck[0][1] > 0.04
