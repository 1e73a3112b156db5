"""Versions come and go under the requests."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.engine.errors import Unavailable, UnknownServable
from serving.engine.options import Latest, Specific
from tests.serving.worker.plant import PREFIX, Server, Worker, desired, doubled, gateway, run, wait_until
from tests.serving.worker.scripted import make_version


def test_a_version_that_nobody_knows_is_not_found(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    make_worker().serve(desired(base))

    async def main() -> None:
        async with gateway(server.url) as door:
            with pytest.raises(UnknownServable, match=r"Specific\(m, 9\)"):
                await door.submit(1.0, version=9)

    run(main())


def test_a_version_that_failed_is_unavailable(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    broken = base.parent / "broken"
    (broken / "1").mkdir(parents=True)
    worker = make_worker()
    worker.manager.set_desired([desired(base), desired(broken, max_retries=0)])
    worker.loop.settle()

    async def main() -> None:
        async with gateway(server.url) as door:
            with pytest.raises(Unavailable, match=r"options\.json"):
                await door.submit(1.0, model="broken")

    run(main())


def test_nothing_is_refused_before_the_desired_state_is_known(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    worker = make_worker()

    async def main() -> None:
        async with gateway(server.url) as door:
            future = door.submit(1.0)
            await asyncio.sleep(2.5)
            assert not future.done()
            await asyncio.to_thread(worker.serve, desired(base))
            assert doubled(await future) == [2.0]

    run(main())


def test_unloading_waits_for_the_gateways_and_for_what_is_queued(
    server: Server, make_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    base = tmp_path / "m"
    make_version(base, 1, delay=0.05)
    make_version(base, 2)
    worker = make_worker(waits_for_report=True)
    worker.serve(desired(base, policy=Specific((1, 2))))

    async def main() -> None:
        async with gateway(server.url) as door:
            door.queue.report_snapshot(1)
            assert doubled(await door.submit(1.0, version=1)) == [2.0]
            worker.manager.set_desired([desired(base, policy=Latest(1))])
            server.client().set(f"{PREFIX}snapshot:version", 2)
            await asyncio.sleep(0.7)
            assert doubled(await door.submit(1.0, version=1)) == [2.0], "not reported yet"
            worker.loop.reported(worker.manager.generation)
            await asyncio.sleep(0.7)
            assert doubled(await door.submit(1.0, version=1)) == [2.0], "this gateway still routes by snapshot 1"
            queued = [door.submit(float(n), version=1) for n in range(200)]
            door.queue.report_snapshot(2)
            for n, future in enumerate(queued):
                assert doubled(await future) == [2.0 * n]
            await door.until(lambda: worker.manager.status()["m"].available == (2,) and not unloading(worker))

    run(main())


def unloading(worker: Worker) -> bool:
    return any(version.state == "UNLOADING" for version in worker.manager.status()["m"].versions)


def test_low_priority_is_served_too(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    make_worker().serve(desired(base))

    async def main() -> None:
        async with gateway(server.url) as door:
            futures = [door.submit(float(n), priority=n % 2) for n in range(20)]
            assert [doubled(await future) for future in futures] == [[2.0 * n] for n in range(20)]

    run(main())


def test_a_drained_worker_reads_no_more_until_told(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    first, second = make_worker("first"), make_worker("second")
    first.serve(desired(base))
    second.serve(desired(base))

    async def main() -> None:
        async with gateway(server.url, workers=2) as door:
            first.loop.drain(True)
            await asyncio.to_thread(wait_until, lambda: not first.loop.streams)
            assert {(await door.submit(1.0)).timing.worker for _ in range(40)} == {"second"}
            first.loop.drain(False)
            second.loop.drain(True)
            await asyncio.to_thread(wait_until, lambda: bool(first.loop.streams) and not second.loop.streams)
            assert (await door.submit(1.0)).timing.worker == "first"

    run(main())


def test_unused_streams_of_versions_that_are_gone_are_deleted(
    server: Server, make_worker: Callable[..., Worker], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.worker.claims.SWEEP_SECONDS", 0.05)
    make_worker().serve(desired(base))

    async def main() -> None:
        async with gateway(server.url) as door:
            with pytest.raises(UnknownServable):
                await door.submit(1.0, version=9)

    run(main())
    client = server.client()
    wait_until(lambda: client.smembers(f"{PREFIX}streams") == {f"{PREFIX}q:m@1".encode()})
    assert not client.exists(f"{PREFIX}q:m@9:0")
