"""Workers die: what they held is run once more, alone, and whoever kills a second worker is refused."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.dataplane import RedisLost, WorkerLost
from tests.serving.worker.plant import Server, Worker, WorkerProcess, desired, doubled, gateway, run, wait_until
from tests.serving.worker.scripted import ABORT, forget_runs, make_version, runs


def test_another_worker_takes_over_after_kill_9(server: Server, start_process: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    base = tmp_path / "m"
    make_version(base, delay=0.3)
    first = start_process("first", base)

    async def main() -> None:
        async with gateway(server.url) as door:
            await door.submit(0.0)
            forget_runs(base)
            futures = [door.submit(float(n)) for n in range(1, 9)]
            await door.until(lambda: bool(runs(base)))
            first.kill()
            start_process("second", base)
            for n, future in enumerate(futures, 1):
                response = await future
                assert doubled(response) == [2.0 * n]
                assert response.timing.worker == "second"

    run(main())
    again = runs(base)[1:]
    assert sorted(values for values in again) == sorted([float(n)] for n in range(1, 9)), "each alone, once"
    assert not server.client().keys("daybook-test:tried:*")


def test_what_many_small_entries_carried_is_taken_over_without_pause(
    server: Server, start_process: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    base = tmp_path / "m"
    directory = make_version(base, delay=30.0)
    first = start_process("first", base)

    async def main() -> None:
        async with gateway(server.url) as door:
            futures = []
            for n in range(60):
                futures.append(door.submit(float(n)))
                await asyncio.sleep(0.01)  # another tick, another entry
            client = server.client()
            await door.until(lambda: client.xpending("daybook-test:q:m@1:0", "workers")["pending"] == 60)
            first.kill()
            (directory / "options.json").write_text("{}")
            start_process("second", base)
            await futures[0]
            begun = time.monotonic()
            for n, future in enumerate(futures):
                assert doubled(await future) == [2.0 * n]
            assert time.monotonic() - begun < 8.0, "not four entries a second"

    run(main())


def test_a_request_that_kills_is_refused_and_nobody_else(
    server: Server, start_process: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    base = tmp_path / "m"
    make_version(base)
    workers = [start_process("w0", base)]

    async def supervise() -> None:
        """Start a new worker whenever one dies, as the supervisor does."""
        while True:
            if workers[-1].process.poll() is not None:
                workers.append(start_process(f"w{len(workers)}", base))
            await asyncio.sleep(0.05)

    async def main() -> None:
        async with gateway(server.url) as door:
            await door.submit(0.0)
            supervisor = asyncio.create_task(supervise())
            good = [door.submit(float(n)) for n in range(1, 11)]
            guilty = door.submit(ABORT)
            good += [door.submit(float(n)) for n in range(11, 21)]
            with pytest.raises(WorkerLost, match="worker lost"):
                await guilty
            assert [doubled(await future) for future in good] == [[2.0 * n] for n in range(1, 21)]
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervisor

    run(main())
    assert len(workers) == 3, "two restarts"


def test_stateful_requests_are_not_run_again(server: Server, start_process: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    base = tmp_path / "m"
    make_version(base, delay=0.3)
    first = start_process("first", base, stateful=True)

    async def main() -> None:
        async with gateway(server.url) as door:
            await door.submit(0.0)
            forget_runs(base)
            future = door.submit(1.0)
            await door.until(lambda: bool(runs(base)))
            first.kill()
            start_process("second", base, stateful=True)
            with pytest.raises(WorkerLost):
                await future

    run(main())
    assert runs(base) == [[1.0]]


def test_a_clean_stop_answers_what_it_held_and_leaves_the_rest(server: Server, make_worker: Callable[..., Worker], tmp_path: Path) -> None:
    base = tmp_path / "m"
    make_version(base, delay=0.1)
    first = make_worker("first")
    first.serve(desired(base))

    async def main() -> None:
        async with gateway(server.url) as door:
            await door.submit(0.0)
            futures = []
            for n in range(30):
                futures.append(door.submit(*[float(n)] * 40))
                await asyncio.sleep(0.002)
            second = await asyncio.to_thread(make_worker, "second")
            await asyncio.to_thread(second.serve, desired(base))
            assert await asyncio.to_thread(first.loop.stop, 10.0)
            workers = set()
            for n, future in enumerate(futures):
                response = await future
                assert doubled(response) == [2.0 * n] * 40
                workers.add(response.timing.worker)
            assert workers == {"first", "second"}

    run(main())
    client = server.client()
    assert client.smembers("daybook-test:workers") == {b"second"}


def test_redis_restarted_fails_what_was_under_way_and_then_all_goes_on(
    server: Server, make_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    base = tmp_path / "m"
    make_version(base, delay=1.0)
    make_worker().serve(desired(base))

    async def main() -> None:
        async with gateway(server.url) as door:
            await door.submit(0.0)
            forget_runs(base)
            futures = [door.submit(1.0)]
            await door.until(lambda: len(runs(base)) == 1)
            futures.append(door.submit(2.0))
            await door.until(lambda: len(runs(base)) == 2)  # both callers are busy
            futures += [door.submit(7.0) for n in range(5)]
            await asyncio.sleep(0.05)
            await asyncio.to_thread(server.kill)
            for future in futures:
                with pytest.raises(RedisLost):
                    async with asyncio.timeout(1):
                        await future
            await asyncio.to_thread(server.start)
            await door.until(lambda: door.queue.connected and door.queue.live_workers == 1)
            assert doubled(await door.submit(4.0)) == [8.0]

    run(main())
    assert not any(7.0 in values for values in runs(base)), "what waited at the worker went with its server"


def test_a_lost_connection_is_mended_without_losing_a_request(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    make_worker().serve(desired(base))

    async def main() -> None:
        async with gateway(server.url) as door:
            client = server.client()
            stop = asyncio.Event()

            async def cut() -> None:
                while not stop.is_set():
                    for connection in client.client_list():
                        if connection["name"].startswith(("reader:", "answers:", "cancelled:", "claims:", "keeper:", "lease:")):
                            client.client_kill_filter(_id=connection["id"])
                    await asyncio.sleep(0.15)

            cutting = asyncio.create_task(cut())
            for n in range(60):
                assert doubled(await door.submit(float(n), timeout=10)) == [2.0 * n]
            stop.set()
            await cutting

    run(main())
    wait_until(lambda: not server.client().xlen("daybook-test:q:m@1:0"))
