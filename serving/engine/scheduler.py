"""What runs next: queued tasks become batches (pure: time comes in, work goes out).

Theory. Each servable has a queue, each queue has groups: tasks of one group agree in signature, output filter, dtypes and every
dimension but the first, so that their rows can be laid together. A batch comes from one group. Four rules choose it.

*Between servables* start-time fair queueing over device time: a queue's virtual time grows by the seconds that its batches took
over its weight, the ready queue with the least runs next, and one that was idle starts at the present virtual time (it neither
saves up nor pays for its absence). Source: Goyal, Vin, Cheng, "Start-time Fair Queuing", SIGCOMM 1996.
*Between groups* the group whose first task came first, once it's full or its first task has waited `batch_timeout`.
*Within a group* first come, first served; low priority fills what room normal tasks leave, and runs by itself only when no
servable has a normal task ready.
*Deadlines*: an expired task never enters a batch. Where the latency a·n + b of a model is known, a batch stops growing where its
most urgent task would miss its deadline, and a task that can't make it even alone lets the others go first.

Not thread-safe: its owner calls it under one lock, which it holds for microseconds.
"""

from collections import deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import count

from .batch import Batch, Result, Slice, Task, claim_answer, find_padded_size
from .errors import Code, DeadlinePassed, EngineError, InvalidInput, QueueFull, UnknownServable
from .latency import LatencyModel, Line
from .queues import Group, Queue, QueueOptions
from .servable import ServableKey

__all__ = ["SUSPECT_SECONDS", "QueueOptions", "Scheduler"]

SUSPECT_SECONDS = 60.0  # a caller whose input failed batches among its like for this long
MAX_SUSPECTS = 1024
MAX_IDLE_GROUPS = 256  # empty groups kept for their shapes' sake
_BLAMELESS = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED})


class Scheduler:
    """The queues of one device. See the module's theory; every method takes the present instant of one monotonic clock."""

    def __init__(self) -> None:
        self._queues: dict[ServableKey, Queue] = {}
        self._active: dict[ServableKey, Queue] = {}  # those with waiting tasks
        self._deadlines: list[tuple[float, int, bytes]] = []  # heap of (deadline, arrival, id); no tensors, so those that left may stay
        self._tasks: dict[bytes, Task] = {}
        self._expired: list[Task] = []  # found while a batch was formed, for the next `expire`
        self._virtual_time = 0.0
        self._arrivals = 0
        self._tickets = count(1)
        self._batch_ids = count(1)

    # Queues

    def configure(self, key: ServableKey, options: QueueOptions) -> None:
        """Add a servable's queue, or change its options; what waits stays and follows the new ones."""
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = Queue(key, options)
            return
        waiting = self._drain(queue)
        queue.follow(options)
        for task in waiting:
            self._insert(self._group_for(queue, task), task)

    def remove(self, key: ServableKey) -> list[Task]:
        """Drop a servable's queue; gives the tasks that still waited in it, to be answered by the caller."""
        queue = self._queues.pop(key, None)
        if queue is None:
            return []
        return [task for task in self._drain(queue) if claim_answer(task)]

    def waiting(self, key: ServableKey) -> tuple[int, int]:
        """(tasks, rows) in a servable's queue; (0, 0) when there is none."""
        queue = self._queues.get(key)
        return (queue.num_tasks, queue.rows) if queue else (0, 0)

    def find_line(self, key: ServableKey, signature: str) -> Line | None:
        """The learned latency of a signature's runs; None while too few were seen."""
        queue = self._queues.get(key)
        return queue.find_line(signature) if queue else None

    def __len__(self) -> int:
        return len(self._tasks)

    # Tasks

    def enqueue(self, task: Task, now: float) -> None:
        """Let a task wait for its batch.

        Raises UnknownServable, DeadlinePassed, QueueFull, and InvalidInput for a task above `max_batch_size` where tasks aren't split.
        """
        queue = self._queues.get(task.key)
        if queue is None:
            raise UnknownServable(f"Servable not found for request: {task.key}")
        if task.deadline <= now:
            raise DeadlinePassed(f"deadline passed {(now - task.deadline) * 1e3:.0f} ms ago")
        if task.id in self._tasks:
            raise EngineError(f"request {task.id.hex()} is already queued", Code.ALREADY_EXISTS)
        task.enqueued = now
        group = self._group_for(queue, task)
        rows = 1
        if group.batched:
            rows = task.rows
            if rows > queue.max_task_rows:
                raise InvalidInput(f"Task size {rows} is larger than maximum input batch size {queue.max_task_rows}")
        if queue.rows and queue.rows + rows > queue.capacity:
            batching = queue.options.batching
            num_batches = -(-queue.rows // batching.max_batch_size)
            raise QueueFull(
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{num_batches} batches enqueued and max_enqueued_batches is {batching.max_enqueued_batches}"
            )
        self._insert(group, task)

    def cancel(self, ids: Iterable[bytes]) -> list[Task]:
        """Take tasks out of their queues; gives those that were there and may be answered."""
        tasks = [task for task_id in ids if (task := self._tasks.get(task_id)) is not None]
        for task in tasks:
            self._withdraw(task)
        return [task for task in tasks if claim_answer(task)]

    def expire(self, now: float) -> list[Task]:
        """Take out the tasks whose deadline has passed, to be answered DEADLINE_EXCEEDED."""
        deadlines = self._deadlines
        expired, self._expired = self._expired, []
        while deadlines and deadlines[0][0] <= now:
            _, arrival, task_id = heappop(deadlines)
            task = self._tasks.get(task_id)
            if task is not None and task.arrival == arrival:
                self._withdraw(task)
                expired.append(task)
        return [task for task in expired if claim_answer(task)]

    def next_batch(self, now: float) -> Batch | float | None:
        """Form a batch: the batch to run now, or the instant to ask again at, or None when nothing waits.

        A caller that gets a batch runs it and then calls `finished`. Several may be under way at once.
        """
        while True:
            choice: tuple[int, float] | None = None
            chosen: tuple[Queue, Group] | None = None
            wake = float("inf")
            for queue in self._active.values():
                group, ready_at = self._next_group(queue, now)
                if group is None:
                    wake = min(wake, ready_at)
                    continue
                rank = (0 if queue.num_normal else 1, queue.virtual_time)
                if choice is None or rank < choice:
                    choice, chosen = rank, (queue, group)
            if chosen is None:
                return self._wake(wake)
            batch = self._form(*chosen, now)
            if batch is not None:
                return batch

    def finished(self, batch: Batch, now: float, results: Iterable[Result] = ()) -> None:
        """Account for a batch that has run: device time, latency, callers whose input failed, the rest of failed split tasks."""
        apart = False
        queue = self._queues.get(batch.key)
        for result in results:
            if result.task.arrival:  # a part of a split task failed: the other parts needn't run
                self._withdraw(result.task)
            if result.error is not None:
                apart = True
                if queue is not None and result.guilty and result.error.code not in _BLAMELESS:
                    self._suspect(queue, result.task.caller, now)
        if queue is None:
            return
        seconds = max(now - batch.started, 0.0)
        queue.virtual_time += (seconds - batch.cost) / queue.options.weight
        if not apart:
            model = queue.latency.setdefault(batch.signature, LatencyModel())
            model.observe(batch.padded_size or max(batch.size, 1), seconds)

    # How a task gets in and out

    def _group_for(self, queue: Queue, task: Task) -> Group:
        rows, inputs = task.rows, task.inputs
        suspect = bool(queue.suspects) and queue.suspects.get(task.caller, 0.0) > task.enqueued
        shape: tuple[object, ...]
        if len(inputs) == 1:  # the same as below, at half the price
            ((name, array),) = inputs.items()
            dims = array.shape
            shape = (task.signature, task.output_filter, suspect, name, array.dtype.num, dims[1:], dims[:1] == (rows,))
        else:
            parts = [(name, array.dtype.num, array.shape[1:], array.shape[:1] == (rows,)) for name, array in inputs.items()]
            shape = (task.signature, task.output_filter, suspect, *parts)
        group = queue.groups.get(shape)
        if group is None:
            if len(queue.groups) >= MAX_IDLE_GROUPS:
                queue.groups = {shape: group for shape, group in queue.groups.items() if group.rows}
            group = queue.groups[shape] = Group(queue, task, queue.rule_for(task))
        return group

    def _insert(self, group: Group, task: Task) -> None:
        queue = group.queue
        self._arrivals = arrival = self._arrivals + 1
        heappush(self._deadlines, (task.deadline, arrival, task.id))
        task.arrival = arrival
        task.group = group
        self._tasks[task.id] = task
        rows = task.rows - task.taken if group.batched else 1
        if not queue.num_tasks:
            self._active[queue.key] = queue
            queue.virtual_time = max(queue.virtual_time, self._virtual_time)
        queue.num_tasks += 1
        queue.rows += rows
        group.rows += rows
        priority = 1
        if not task.priority:
            priority = 0
            queue.num_normal += 1
        group.deques[priority].append(task)
        if group.ticket is None or priority < group.ticket[0]:
            group.ticket = (priority, arrival, next(self._tickets))
            heappush(queue.heap, (group.ticket, group))

    def _withdraw(self, task: Task) -> None:
        """Forget a task that leaves without having been taken; its group's turn may change with it."""
        group, arrival = task.group, task.arrival
        self._leave(task)
        if isinstance(group, Group) and group.ticket is not None and group.ticket[1] == arrival:
            self._renew_ticket(group)

    def _renew_ticket(self, group: Group) -> None:
        head = group.find_head()
        if head is None:
            group.ticket = None
        else:
            group.ticket = (1 if head.priority else 0, head.arrival, next(self._tickets))
            heappush(group.queue.heap, (group.ticket, group))

    def _leave(self, task: Task) -> None:
        """Forget a waiting task. Its deque drops it later."""
        group = task.group
        if isinstance(group, Group):
            rows = task.rows - task.taken if group.batched else 1
            task.arrival = 0
            task.group = None
            del self._tasks[task.id]
            self._account(group, 1, 0 if task.priority else 1, rows)

    def _account(self, group: Group, num_tasks: int, num_normal: int, rows: int) -> None:
        """Tasks have left a group, or rows of one that stays."""
        queue = group.queue
        group.rows -= rows
        queue.rows -= rows
        queue.num_tasks -= num_tasks
        queue.num_normal -= num_normal
        if not group.rows:
            group.ticket = None
            for tasks in group.deques:
                tasks.clear()
        if not queue.num_tasks:
            self._active.pop(queue.key, None)
            queue.heap.clear()
        if len(self._deadlines) > 2 * len(self._tasks) + 4096:
            self._deadlines = [entry for entry in self._deadlines if entry[2] in self._tasks]
            heapify(self._deadlines)

    def _drain(self, queue: Queue) -> list[Task]:
        """Take all tasks out of a queue, in the order of their arrival."""
        tasks = [task for task in self._tasks.values() if task.key == queue.key]
        for task in tasks:
            self._leave(task)
        queue.groups.clear()
        return tasks

    # How a batch is formed

    def _next_group(self, queue: Queue, now: float) -> tuple[Group | None, float]:
        """The group whose turn it is, or None and the instant at which one will be ready."""
        heap = queue.heap
        while heap and heap[0][0] is not heap[0][1].ticket:
            heappop(heap)
        timeout = queue.options.batching.batch_timeout
        if not timeout and heap:
            return heap[0][1], now
        first: Group | None = None
        wake = float("inf")
        for group in queue.groups.values():
            head = group.find_head()
            if head is None or group.ticket is None:
                continue
            line = queue.find_line(group.signature)
            ready_at = head.enqueued + timeout
            if line is not None:
                ready_at = min(ready_at, head.deadline - line.seconds(group.rows))
            if group.batched and group.rows < queue.max_rows(line) and ready_at > now:
                wake = min(wake, ready_at)
            elif first is None or first.ticket is None or group.ticket < first.ticket:
                first = group
        return first, wake

    def _form(self, queue: Queue, group: Group, now: float) -> Batch | None:
        """Take the next batch out of a group; None when all its tasks had expired."""
        line = queue.find_line(group.signature)
        slices = self._take(group, queue.max_rows(line) if group.batched else 0, line, now)
        self._renew_ticket(group)
        if not slices:
            return None
        size = padded_size = 0
        for _, start, stop in slices:
            size += stop - start
        allowed = queue.options.batching.allowed_batch_sizes
        if group.batched:
            padded_size = find_padded_size(size, allowed) if allowed else size
        cost = line.seconds(padded_size or max(size, 1)) if line is not None else 0.0
        if queue.virtual_time > self._virtual_time:
            self._virtual_time = queue.virtual_time
        queue.virtual_time += cost / queue.options.weight
        batch_id = next(self._batch_ids)
        rerun = group.rule.rerun
        return Batch(batch_id, queue.key, group.signature, group.output_filter, slices, size, padded_size, rerun, now, cost, allowed)

    def _take(self, group: Group, limit: int, line: Line | None, now: float) -> list[Slice]:
        """Take up to `limit` rows out of a group; with limit 0 one whole task."""
        if not limit:
            task = self._take_one(group, line, now)
            return [] if task is None else [Slice(task, 0, task.rows)]
        slices: list[Slice] = []
        waiting = self._tasks
        size = num_normal = num_whole = 0
        until = float("inf")  # the most urgent deadline among those taken
        split = group.queue.options.batching.split_large
        late = group.deques[2]
        begin, per_row = (now + line.fixed, line.per_row) if line is not None else (-until, 0.0)  # unknown: nothing is late
        for tasks in group.deques:
            if tasks is late and slices:
                break
            while tasks and size < limit:
                task = tasks[0]
                deadline = task.deadline
                if not task.arrival or deadline <= now:
                    self._drop_head(tasks, now)
                    continue
                start, rows = task.taken, task.rows - task.taken
                if rows > limit - size:
                    if split and task.rows > limit:
                        rows = limit - size
                    elif slices:
                        break
                end = begin + per_row * (size + rows)
                if (end > deadline or end > until) and tasks is not late and not start:
                    if begin + per_row * rows > deadline:
                        late.append(tasks.popleft())
                        continue
                    if slices:
                        break
                if deadline < until:
                    until = deadline
                stop = start + rows
                slices.append(Slice(task, start, stop))
                size += rows
                if stop == task.rows:
                    tasks.popleft()
                    task.arrival = 0
                    task.group = None
                    del waiting[task.id]
                    num_whole += 1
                    if not task.priority:
                        num_normal += 1
                else:
                    task.taken = stop
            else:
                continue
            break
        if slices:
            self._account(group, num_whole, num_normal, size)
        return slices

    def _take_one(self, group: Group, line: Line | None, now: float) -> Task | None:
        late = group.deques[2]
        for tasks in group.deques:
            while tasks:
                task = tasks[0]
                if not task.arrival or task.deadline <= now:
                    self._drop_head(tasks, now)
                elif line is not None and tasks is not late and now + line.seconds(max(task.rows, 1)) > task.deadline:
                    late.append(tasks.popleft())
                else:
                    self._leave(task)
                    return task
        return None

    def _drop_head(self, tasks: "deque[Task]", now: float) -> None:
        """Take off a task that has left or has just expired."""
        task = tasks.popleft()
        if task.arrival:
            self._leave(task)
            self._expired.append(task)

    def _wake(self, wake: float) -> float | None:
        """When to ask again: a group is ready or a deadline passes."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][2] not in self._tasks:
            heappop(deadlines)
        if deadlines:
            wake = min(wake, deadlines[0][0])
        return wake if wake != float("inf") else None

    # Callers whose input failed

    def _suspect(self, queue: Queue, caller: str, now: float) -> None:
        for suspect in [name for name, until in queue.suspects.items() if until <= now]:
            del queue.suspects[suspect]
        if len(queue.suspects) < MAX_SUSPECTS or caller in queue.suspects:
            queue.suspects[caller] = now + SUSPECT_SECONDS
