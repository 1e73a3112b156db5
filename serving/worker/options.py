"""What a serving worker is told at its start."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """worker_id: new with each start, for a lease and pending entries belong to one life of a process.

    max_frame_bytes: a longer answer is an error.
    num_callers: batches that run at once; with one-thread sessions, two use two cores best.
    """

    redis_url: str
    prefix: str
    worker_id: str
    node: str = ""
    num_callers: int = 2
    max_frame_bytes: int = 64 << 20
