"""Entry point of the gateway process: `python -m config.gateway`. Nothing here or below imports Django or TensorFlow."""

import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable

from audit.keys import ensure_master_key
from audit.recorder import Recorder, RecorderOptions
from config import environment
from config.files import kept_secret
from config.logs import LineFormatter
from serving.gateway.app import Gateway
from serving.gateway.options import GatewayOptions

_MB = 1 << 20


def read_options() -> GatewayOptions:
    """The gateway's options from the environment. Raises BadEnvironment with a sentence that names the variable."""
    var_dir = environment.path("VAR_DIR", environment.ROOT / "var")
    environment.adopt_running(var_dir)
    node = environment.text("NODE", socket.gethostname())
    gateway_port = environment.port("GATEWAY_PORT", 8501)
    gateway_id = f"{node}-{os.getpid()}-{secrets.token_hex(4)}"
    return GatewayOptions(
        recorder=RecorderOptions(
            directory=environment.path("JOURNAL_DIR", var_dir / "journal"),
            node=node,
            # In development the settings keep a made-up origin in the same file; in production the variable is a must.
            origin=environment.text("LOG_ORIGIN", "")
            or kept_secret(var_dir / "keys" / "log.origin", lambda: f"daybook.local/{node}/{secrets.token_hex(4)}"),
            master_key=ensure_master_key(environment.path("MASTER_KEY_FILE", var_dir / "keys" / "master.key")),
            stall_s=environment.seconds("JOURNAL_STALL_S", 5.0, low=0.1),
            max_bytes=environment.integer("JOURNAL_MAX_MB", 4096, low=64) * _MB,
            merge_delay_s=environment.integer("MERGE_DELAY_S", 86_400, low=60),
        ),
        redis_url=environment.url("REDIS_URL", "redis://127.0.0.1:6379/0", schemes=("redis", "rediss", "unix")),
        prefix=environment.text("REDIS_PREFIX", "daybook:"),
        gateway_id=gateway_id,
        snapshot_file=var_dir / "run" / f"snapshot-{gateway_port}.json",
        host=environment.text("HOST", "127.0.0.1"),
        port=gateway_port,
        gateway_url=environment.url("GATEWAY_URL", f"http://127.0.0.1:{gateway_port}"),
        max_body_bytes=environment.integer("MAX_BODY_MB", 64, low=1) * _MB,
        max_frame_bytes=environment.integer("MAX_FRAME_MB", 64, low=1) * _MB,
        max_open_bytes=environment.integer("GATEWAY_MAX_OPEN_MB", 512, low=1) * _MB,
        max_connections=environment.integer("GATEWAY_MAX_CONNECTIONS", 4096, low=1),
        max_in_flight=environment.integer("GATEWAY_MAX_IN_FLIGHT", 896, low=1),
        max_in_flight_per_model=environment.integer("GATEWAY_MAX_IN_FLIGHT_PER_MODEL", 640, low=1),
        grace_s=environment.seconds("GATEWAY_GRACE_S", 10.0),
        core=environment.integer("GATEWAY_CORE", max(os.sched_getaffinity(0)), low=-1) if hasattr(os, "sched_getaffinity") else -1,
        body_timeout_s=environment.seconds("BODY_TIMEOUT_S", 30.0, low=0.1),
    )


def _set_up_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(environment.text("LOG_LEVEL", "INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR")))


def main(make_recorder: Callable[[RecorderOptions], Recorder] = Recorder) -> None:
    """Serve until told to stop; what prevents it is said in a sentence."""
    _set_up_logging()
    try:
        Gateway(read_options(), make_recorder).run()
    except (environment.BadEnvironment, OSError) as error:
        sys.exit(f"gateway: {error}")


if __name__ == "__main__":
    main()
