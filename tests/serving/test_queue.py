"""The gateway's end: what it refuses at once, how it packs a tick, and how it ends what can't be answered."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from serving.dataplane import GROUP, Keys, Lease, NoWorker, RedisLost, encode_lease, timing_of
from serving.engine.errors import Code, DeadlinePassed, EngineError, InvalidInput, QueueFull, RunFailed, Unavailable
from serving.entries import ENTRY_BYTES, Frame, make_entries
from serving.protocol import frames
from serving.protocol.messages import InferenceRequest, InferenceResponse, Timing
from serving.queue import FrameTooLarge, QueueOptions, RequestQueue
from tests.serving.worker.plant import PREFIX, Gateway, Server, doubled, gateway, run

STREAM = f"{PREFIX}q:m@1"
KEYS = Keys(PREFIX)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(Path(tmp_path_factory.mktemp("r")))
    server.start()
    yield server
    server.kill()


def pose_as_worker(server: Server, *, worker_id: str = "w1", seconds: int = 60) -> redis.Redis:
    """A worker's lease without a worker: what is sent stays in the stream until the test answers it by hand."""
    client = server.client()
    client.sadd(KEYS.workers, worker_id)
    client.set(KEYS.worker(worker_id), encode_lease(Lease(frozenset({STREAM}))), ex=seconds)
    return client


def sent(client: redis.Redis, priority: int = 0) -> list[list[frames.RequestFrame]]:
    """The frames in the stream, entry by entry."""
    entries: Any = client.xrange(f"{STREAM}:{priority}")
    found = [fields[b"f"] for _, fields in entries]
    return [[frames.decode_request(entry, offset) for offset, *_ in frames.split_frames(entry)] for entry in found]


def cancelled(client: redis.Redis) -> bytes:
    entries: Any = client.xrange(KEYS.cancelled)
    return b"".join(fields[b"i"] for _, fields in entries)


def answer(client: redis.Redis, parts: tuple[list[frames.Buffer], int], *, times: int = 1) -> None:
    for _ in range(times):
        client.xadd(KEYS.reply("g1"), {"f": b"".join(parts[0])}, nomkstream=True)


def reply(request_id: bytes, *values: float) -> tuple[list[frames.Buffer], int]:
    return frames.encode_reply(request_id, InferenceResponse({"y": np.array(values)}, Timing(batch_size=7)))


def test_without_redis_everything_is_refused_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        queue = RequestQueue(QueueOptions(f"unix://{tmp_path}/none.sock", PREFIX, "g1"))
        await queue.start()
        assert not queue.connected
        with pytest.raises(NoWorker, match="Redis"):
            Gateway(queue).submit(1.0)
        await queue.close()

    run(main())


def test_without_a_worker_everything_is_refused_at_once(server: Server) -> None:
    async def main() -> None:
        async with gateway(server.url, workers=0) as door:
            with pytest.raises(NoWorker, match="no worker"):
                door.submit(1.0)

    run(main())


def test_when_the_last_worker_has_gone_requests_fail_after_the_grace(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url, worker_grace_s=0.0) as door:
            future = door.submit(1.0, request_id=b"r" * 16)
            await asyncio.sleep(0.05)
            client.delete(KEYS.worker("w1"))
            with pytest.raises(NoWorker):
                async with asyncio.timeout(2):
                    await future
            await door.until(lambda: cancelled(client) == b"r" * 16)

    run(main())


def test_one_tick_is_one_entry_per_priority(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url) as door:
            futures = [door.submit(float(n), priority=n % 2, caller="dbk_1", trace=b"t" * 16) for n in range(6)]
            await door.until(lambda: bool(sent(client, 1)))
            for priority in (0, 1):
                [entry] = sent(client, priority)
                assert [frame.request.inputs["x"].tolist() for frame in entry] == [[float(n)] for n in range(priority, 6, 2)]
                assert {(frame.caller, frame.trace, frame.priority) for frame in entry} == {("dbk_1", b"t" * 16, priority)}
            assert client.smembers(KEYS.streams) == {STREAM.encode()}
            await end(futures, door)

    run(main())


async def end(futures: "list[asyncio.Future[InferenceResponse]]", door: Gateway) -> None:
    """Close the queue under requests that nobody will answer."""
    await door.queue.close()
    for future in futures:
        with pytest.raises(Unavailable):
            await future


def test_a_burst_is_divided_between_the_workers_of_its_servable(server: Server) -> None:
    client = pose_as_worker(server)
    pose_as_worker(server, worker_id="w2")

    async def main() -> None:
        async with gateway(server.url, workers=2) as door:
            futures = [door.submit(float(n)) for n in range(7)]
            await door.until(lambda: bool(sent(client)))
            assert [len(entry) for entry in sent(client)] == [4, 3]
            await end(futures, door)

    run(main())


def frame(size: int, rows: int = 1) -> Frame:
    return Frame(os.urandom(16), [bytes(size)], size, rows)


def test_entries_are_bounded_in_bytes_unless_one_frame_is_larger() -> None:
    entries = make_entries([frame(ENTRY_BYTES // 2), frame(ENTRY_BYTES // 2), frame(ENTRY_BYTES * 3), frame(8), frame(8)], 1)
    assert [entry.size for entry in entries] == [ENTRY_BYTES, ENTRY_BYTES * 3, 16]


def test_replies_find_their_requests_once_and_in_any_order(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url) as door:
            ids = [bytes([n]) * 16 for n in range(3)]
            futures = [door.submit(float(n), request_id=request_id) for n, request_id in enumerate(ids)]
            for n in (2, 0, 1):
                answer(client, reply(ids[n], n), times=2)
            answer(client, reply(b"x" * 16, 9))
            assert [doubled(await future) for future in futures] == [[0.0], [1.0], [2.0]]
            assert (await futures[0]).timing.batch_size == 7
            assert door.queue.room_taken(STREAM) == 0
            await door.until(lambda: not client.xlen(KEYS.reply("g1")))

    run(main())


def test_a_reply_in_many_parts_arrives_whole(server: Server) -> None:
    client = pose_as_worker(server)
    values = np.arange(400_000, dtype=np.float64)

    async def main() -> None:
        async with gateway(server.url) as door:
            future = door.submit(1.0, request_id=b"r" * 16)
            whole = b"".join(frames.encode_reply(b"r" * 16, InferenceResponse({"y": values}))[0])
            for prefix, piece in frames.cut_reply(b"r" * 16, 1, whole):
                client.xadd(KEYS.reply("g1"), {"p": prefix + bytes(piece)})
            np.testing.assert_array_equal((await future).outputs["y"], values)

    run(main())


def test_an_error_comes_back_as_what_it_was(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url) as door:
            model = door.submit(1.0, request_id=b"a" * 16)
            unknown = door.submit(1.0, request_id=b"b" * 16)
            answer(client, frames.encode_error(b"a" * 16, Code.OUT_OF_RANGE, "RunFailed", "too far", Timing(model_us=5)))
            answer(client, frames.encode_error(b"b" * 16, 77, "FromTheFuture", "what?"))
            with pytest.raises(RunFailed, match="too far") as failed:
                await model
            assert failed.value.code is Code.OUT_OF_RANGE
            assert timing_of(failed.value).model_us == 5
            with pytest.raises(EngineError, match="what") as odd:
                await unknown
            assert odd.value.code is Code.UNKNOWN

    run(main())


def test_an_unreadable_reply_costs_nobody_else(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url) as door:
            future = door.submit(1.0, request_id=b"a" * 16)
            client.xadd(KEYS.reply("g1"), {"f": b"nonsense"})
            client.xadd(KEYS.reply("g1"), {"p": b"nonsense"})
            answer(client, reply(b"a" * 16, 1))
            assert doubled(await future) == [1.0]

    run(main())


def test_a_deadline_ends_the_wait_but_keeps_the_room_until_the_worker_has_spoken(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url) as door:
            late = door.submit(1.0, request_id=b"a" * 16, timeout=0.05)
            patient = door.submit(1.0, request_id=b"b" * 16, timeout=10)
            with pytest.raises(DeadlinePassed):
                async with asyncio.timeout(1):
                    await late
            assert door.queue.room_taken(STREAM) == 2
            answer(client, frames.encode_error(b"a" * 16, Code.DEADLINE_EXCEEDED, "DeadlinePassed", "late"))
            answer(client, reply(b"b" * 16, 1))
            await patient
            assert door.queue.room_taken(STREAM) == 0
            with pytest.raises(DeadlinePassed):
                door.submit(1.0, timeout=-0.001)

    run(main())


def test_what_is_too_much_is_refused(server: Server) -> None:
    pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url, max_queued_rows=10, max_queued_bytes=4096, max_frame_bytes=2048) as door:
            futures = [door.submit(1.0, 2.0, 3.0, 4.0) for _ in range(2)]
            with pytest.raises(QueueFull, match="8 rows wait for m, 4 more") as full:
                door.submit(1.0, 2.0, 3.0, 4.0)
            assert 0 < door.queue.retry_after(STREAM, full.value) <= 30
            with pytest.raises(FrameTooLarge):
                door.submit(*[1.0] * 1000, model="other")
            futures.append(door.submit(*[1.0] * 400, model="other"))  # above the rows, but nothing else waits
            futures.append(door.submit(1.0, 2.0))
            with pytest.raises(EngineError, match="under way already"):
                [door.submit(1.0, model="third", request_id=b"a" * 16) for _ in range(2)]
            with pytest.raises(InvalidInput, match="dtype"):
                door.queue.submit(
                    InferenceRequest("m", 1, "s", {"x": np.array(["text"])}, 1),
                    request_id=os.urandom(16),
                    stream=STREAM + "2",
                    deadline_us=door.queue.server_now_us() + 10**6,
                )
            await end(futures, door)

    run(main())


def test_who_would_miss_the_deadline_is_refused_at_once(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url) as door:
            ids = [n.to_bytes(16, "big") for n in range(200)]
            futures = [door.submit(1.0, request_id=request_id) for request_id in ids]
            await asyncio.sleep(0.5)
            for request_id in ids[:100]:
                answer(client, reply(request_id, 1))
            await asyncio.gather(*futures[:100])  # 64 to 100 rows in half a second: the other 100 take some time
            with pytest.raises(QueueFull, match=r"100 rows wait for m and take"):
                door.submit(1.0, timeout=0.3)
            futures.append(door.submit(1.0, timeout=30))
            await end(futures[100:], door)

    run(main())


def test_the_share_of_a_servable_is_divided_between_gateways(server: Server) -> None:
    pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url, "g2"), gateway(server.url, max_queued_rows=10) as door:
            assert door.queue.num_gateways == 2
            futures = [door.submit(1.0) for _ in range(5)]
            with pytest.raises(QueueFull):
                door.submit(1.0)
            await end(futures, door)

    run(main())


def test_a_full_redis_is_a_full_queue(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url) as door:
            used: Any = client.info("memory")
            client.config_set("maxmemory", used["used_memory"])
            with pytest.raises(QueueFull):
                await door.submit(1.0)
            client.config_set("maxmemory", 0)
            future = door.submit(1.0, request_id=b"a" * 16)
            await door.until(lambda: bool(sent(client)))
            answer(client, reply(b"a" * 16, 1))
            await future

    run(main())


def test_a_lost_connection_fails_what_is_under_way_and_cancels_it(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url) as door:
            future = door.submit(1.0, request_id=b"a" * 16)
            await door.until(lambda: bool(sent(client)))
            for connection in client.client_list():
                if connection["name"] == "gateway:g1":
                    client.client_kill_filter(_id=connection["id"])
            with pytest.raises(RedisLost):
                async with asyncio.timeout(1):
                    await future
            await door.until(lambda: door.queue.connected)
            await door.until(lambda: cancelled(client) == b"a" * 16)
            again = door.submit(2.0, request_id=b"b" * 16)
            await door.until(lambda: len(sent(client)) == 2)
            answer(client, reply(b"a" * 16, 1))
            answer(client, reply(b"b" * 16, 2))
            assert doubled(await again) == [2.0]

    run(main())


def test_a_reply_stream_that_was_deleted_is_made_again(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url) as door:
            client.delete(KEYS.reply("g1"))
            await door.until(lambda: bool(client.exists(KEYS.reply("g1"))))
            future = door.submit(1.0, request_id=b"a" * 16)
            answer(client, reply(b"a" * 16, 1))
            assert doubled(await future) == [1.0]

    run(main())


def test_a_closed_gateway_leaves_nothing_behind(server: Server) -> None:
    client = pose_as_worker(server)

    async def main() -> None:
        async with gateway(server.url) as door:
            door.queue.report_snapshot(12)
            await door.until(lambda: client.get(KEYS.gateway("g1")) == b"12")
            future = door.submit(1.0, request_id=b"a" * 16)
            await door.until(lambda: bool(sent(client)))
            await door.queue.close()
            with pytest.raises(Unavailable, match="stopping"):
                await future

    run(main())
    assert not client.exists(KEYS.reply("g1"), KEYS.gateway("g1"))
    assert not client.smembers(KEYS.gateways)
    assert cancelled(client) == b"a" * 16


def test_groups_are_named_as_workers_expect() -> None:
    assert (GROUP, KEYS.stream("m", 1), KEYS.find_servable(f"{PREFIX}q:a@b@3")) == ("workers", STREAM, ("a@b", 3))
    assert KEYS.find_servable(f"{PREFIX}q:nothing") is None
