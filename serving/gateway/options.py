"""Everything that the gateway must be told. `config/gateway.py` builds it from the environment; tests build their own."""

from dataclasses import dataclass, field
from pathlib import Path

from audit.recorder import RecorderOptions


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """recorder: the journal's. redis_url may carry a password, so it isn't shown."""

    recorder: RecorderOptions
    redis_url: str = field(repr=False)
    prefix: str  # of all Redis keys, "daybook:"
    gateway_id: str  # unique per start
    snapshot_file: Path  # the last snapshot, 0600
    host: str = "127.0.0.1"
    port: int = 8501
    gateway_url: str = ""  # as callers reach it; for generated descriptions
    max_body_bytes: int = 64 << 20  # MAX_BODY_MB, also after decompression
    max_open_bytes: int = 512 << 20  # of all bodies held at one time
    body_timeout_s: float = 30.0  # BODY_TIMEOUT_S, from the request's head to the body's end
    max_frame_bytes: int = 64 << 20  # MAX_FRAME_MB
    max_connections: int = 4096
    max_in_flight: int = 896
    max_in_flight_per_model: int = 640  # so that one model's callers can't take all places
    stale_after_s: float = 300.0  # a snapshot unconfirmed for longer opens no key
    grace_s: float = 10.0  # after SIGTERM, for what is under way
    core: int = -1  # the processor core that the process keeps to; -1 = any
