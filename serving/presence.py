"""Who is there, as a gateway sees it: workers by their leases, other gateways, and Redis' clock. Refreshed twice a second."""

import time

from .dataplane import GATEWAY_LEASE_MS, REPLY_TTL_S, Keys, Lease, decode_lease
from .resp import Command, LoopConnection, ServerClock


class Presence:
    """One gateway's view, and its own sign of life. Belongs to the gateway's loop.

    `snapshot_version` is what this gateway tells workers that it routes by: they unload a version only when no live gateway
    routes to it any more (RULES 4.5).
    """

    def __init__(self, prefix: str, gateway_id: str) -> None:
        self.clock = ServerClock()
        self.workers: dict[str, Lease] = {}
        self.num_gateways = 1
        self.snapshot_version = 0
        self._keys = Keys(prefix)
        self._gateway_id = gateway_id
        self._serving: dict[str, int] = {}

    def num_serving(self, stream: str) -> int:
        """How many live workers read this stream; all of them when none says so (its lease is older than its models)."""
        return self._serving.get(stream) or len(self.workers)

    def lease(self) -> list[Command]:
        """The commands that renew this gateway's sign of life and its reply stream's."""
        return [
            ("SET", self._keys.gateway(self._gateway_id), self.snapshot_version, "PX", GATEWAY_LEASE_MS),
            ("SADD", self._keys.gateways, self._gateway_id),
            ("EXPIRE", self._keys.reply(self._gateway_id), REPLY_TTL_S),
        ]

    async def beat(self, connection: LoopConnection) -> bool:
        """Renew and look round. Returns whether our reply stream is still there. Raises RedisGone, ReplyError, TimeoutError."""
        sent = time.monotonic()
        commands: list[Command] = [*self.lease(), ("TIME",), ("SMEMBERS", self._keys.workers), ("SMEMBERS", self._keys.gateways)]
        _, _, has_reply_stream, now, workers, gateways = await connection.call_all(commands)
        self.clock.add(sent, time.monotonic(), now)
        worker_ids = [member.decode() for member in workers]
        gateway_ids = [member.decode() for member in gateways]
        leases = await connection.call_all(
            [
                ("MGET", self._keys.workers, *map(self._keys.worker, worker_ids)),  # a set reads as None: MGET wants one key at least
                ("MGET", self._keys.gateways, *map(self._keys.gateway, gateway_ids)),
            ]
        )
        self.workers = {
            worker_id: decode_lease(value) for worker_id, value in zip(worker_ids, leases[0][1:], strict=True) if value is not None
        }
        self._serving = {}
        for lease in self.workers.values():
            for stream in lease.serving:
                self._serving[stream] = self._serving.get(stream, 0) + 1
        gone = [gateway_id for gateway_id, value in zip(gateway_ids, leases[1][1:], strict=True) if value is None]
        self.num_gateways = max(1, len(gateway_ids) - len(gone))
        if gone:
            await connection.call_all([("SREM", self._keys.gateways, *gone)])
        return bool(has_reply_stream)

    def forget(self) -> None:
        """The connection is gone: nobody is known to be there."""
        self.workers = {}
        self._serving = {}
