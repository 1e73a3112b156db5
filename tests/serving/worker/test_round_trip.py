"""Requests through Redis, the worker and back, with nothing going wrong."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.engine.errors import Code, EngineError, RunFailed
from serving.engine.options import BatchingOptions
from tests.serving.worker.plant import Server, Worker, desired, doubled, gateway, run
from tests.serving.worker.scripted import FAIL


def test_an_answer_comes_back_to_who_asked(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    make_worker().serve(desired(base))

    async def main() -> None:
        async with gateway(server.url) as door:
            response = await door.submit(1.0, 2.0)
            assert doubled(response) == [2.0, 4.0]
            assert response.timing.worker == "w1"
            assert response.timing.device == "CPU"

    run(main())


def test_many_at_once_get_their_own_answers(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    make_worker().serve(desired(base))

    async def main() -> None:
        async with gateway(server.url) as door, gateway(server.url, "g2") as other:
            futures = [(n, (door if n % 2 else other).submit(float(n))) for n in range(500)]
            for n, future in futures:
                assert doubled(await future) == [2.0 * n]

    run(main())
    assert not server.client().xlen("daybook-test:q:m@1:0")


def test_one_bad_request_fails_alone(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    make_worker().serve(desired(base))

    async def main() -> None:
        async with gateway(server.url) as door:
            good = [door.submit(float(n)) for n in range(50)]
            bad = [door.submit(FAIL) for _ in range(5)]
            for n, future in enumerate(good):
                assert doubled(await future) == [2.0 * n]
            for future in bad:
                with pytest.raises(RunFailed, match="must not be -1"):
                    await future
            await asyncio.sleep(0)

    run(main())


def test_an_answer_too_large_to_carry_is_an_error(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    make_worker(max_frame_bytes=4096).serve(desired(base))

    async def main() -> None:
        async with gateway(server.url) as door:
            with pytest.raises(EngineError, match="at most 4096 are sent") as failed:
                await door.submit(*[1.0] * 2000)
            assert failed.value.code is Code.OUT_OF_RANGE

    run(main())


def test_a_long_answer_travels_in_parts(server: Server, make_worker: Callable[..., Worker], base: Path) -> None:
    make_worker().serve(desired(base, batching=BatchingOptions(mode="off")))
    values = np.arange(700_000, dtype=np.float32)

    async def main() -> None:
        async with gateway(server.url) as door:
            response = await door.submit(*values.tolist())
            np.testing.assert_array_equal(response.outputs["y"], values * 2)

    run(main())
