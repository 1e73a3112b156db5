"""What waits for one servable: its options, and its tasks in groups that may share a run.

The scheduler moves tasks through these; nothing here decides what runs next.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from .batch import BatchRule, Task
from .latency import LatencyModel, Line
from .options import BatchingOptions
from .servable import ServableKey

_ALONE = BatchRule(False, "unknown signature")


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How one servable's tasks are queued. `rules` by signature; a signature without one runs a request at a time."""

    batching: BatchingOptions = field(default_factory=BatchingOptions)
    weight: float = 1.0
    rules: Mapping[str, BatchRule] = field(default_factory=dict)


class Group:
    """Tasks that may share a run. Deques may hold tasks that have left (expired, cancelled): their `arrival` is 0."""

    __slots__ = ("batched", "deques", "output_filter", "queue", "rows", "rule", "signature", "ticket")

    def __init__(self, queue: "Queue", task: Task, rule: BatchRule) -> None:
        self.queue = queue
        self.signature = task.signature
        self.output_filter = task.output_filter
        self.rule = rule
        self.batched = rule.batched
        # normal, low, and those predicted to miss their deadlines, which run when nothing else of the group waits
        self.deques: tuple[deque[Task], deque[Task], deque[Task]] = (deque(), deque(), deque())
        self.rows = 0  # what waits; a task that runs alone counts as 1
        self.ticket: Ticket | None = None  # its valid entry in the queue's heap

    def find_head(self) -> Task | None:
        """The task to take next. Drops those that have left."""
        for tasks in self.deques:
            while tasks:
                if tasks[0].arrival:
                    return tasks[0]
                tasks.popleft()
        return None


Ticket = tuple[int, int, int]  # (priority, arrival) of a group's first task: who goes first within a queue; a number of its own


class Queue:
    """One servable's groups."""

    __slots__ = (
        "capacity",
        "groups",
        "heap",
        "key",
        "latency",
        "max_task_rows",
        "num_normal",
        "num_tasks",
        "options",
        "rows",
        "suspects",
        "virtual_time",
    )

    def __init__(self, key: ServableKey, options: QueueOptions) -> None:
        self.key = key
        self.follow(options)
        self.groups: dict[tuple[object, ...], Group] = {}
        self.heap: list[tuple[Ticket, Group]] = []
        self.latency: dict[str, LatencyModel] = {}
        self.suspects: dict[str, float] = {}  # caller → until
        self.rows = 0
        self.num_tasks = 0
        self.num_normal = 0
        self.virtual_time = 0.0

    def follow(self, options: QueueOptions) -> None:
        batching = options.batching
        self.options = options
        self.capacity = batching.max_batch_size * batching.max_enqueued_batches
        self.max_task_rows = float("inf") if batching.split_large else batching.max_batch_size

    def rule_for(self, task: Task) -> BatchRule:
        rule = self.options.rules.get(task.signature, _ALONE)
        if not rule.batched:
            return rule
        if not _share_rows(task):
            return BatchRule(False, "inputs don't share dimension 0", rerun=rule.rerun)
        if not rule.accepts(task.inputs):
            return BatchRule(False, "fed otherwise than probed", rerun=rule.rerun)
        return rule

    def find_line(self, signature: str) -> Line | None:
        model = self.latency.get(signature)
        return model.find_line() if model is not None else None

    def max_rows(self, line: Line | None) -> int:
        """Rows that a batch may hold, by `max_batch_size` and by `max_batch_time` where the latency is known."""
        batching = self.options.batching
        if not batching.max_batch_time or line is None or not line.per_row:
            return batching.max_batch_size
        affordable = int((batching.max_batch_time - line.fixed) / line.per_row)
        return min(max(affordable, 1), batching.max_batch_size)


def _share_rows(task: Task) -> bool:
    return task.rows > 0 and all(array.ndim and array.shape[0] == task.rows for array in task.inputs.values())
