"""Counters of the door, kept as plain numbers and turned into Prometheus' text only when somebody asks.

A call of `prometheus_client`'s own counters takes a lock and some 2 µs; an entry here is a list that the caller holds on to.
Label values are bounded: models that exist, everything else is `unknown`.

TensorFlow Serving's names stand on its path, for boards that exist; ours, per version and signature, on both.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

BOUNDS_US: Final = tuple(10 * 1.8**step for step in range(33))  # TensorFlow Serving's


@dataclass(slots=True)
class CallCounters:
    """Calls of one (model, version, signature, verb). Owned by the loop."""

    count: int = 0
    rows: int = 0
    total_us: int = 0
    queue_us: int = 0
    model_us: int = 0
    commit_us: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_US) + 1))

    def add(self, *, total_us: int, queue_us: int, model_us: int, commit_us: int, rows: int) -> None:
        self.count += 1
        self.rows += rows
        self.total_us += total_us
        self.queue_us += queue_us
        self.model_us += model_us
        self.commit_us += commit_us
        self.buckets[bisect_left(BOUNDS_US, total_us)] += 1


class Metrics:
    """All counters of one gateway. Owned by the loop."""

    def __init__(self) -> None:
        self.answered: dict[tuple[str, int, str, str], CallCounters] = {}  # model, version, signature, verb
        self.refused: dict[tuple[str, int, str], int] = {}  # model, status, code
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}  # name → help, value
        self.counters: dict[str, tuple[str, Callable[[], float]]] = {}

    def counters_of(self, model: str, version: int, signature: str, verb: str) -> CallCounters:
        key = (model, version, signature, verb)
        found = self.answered.get(key)
        if found is None:
            found = self.answered[key] = CallCounters()
        return found

    def refuse(self, model: str, status: int, code: str) -> None:
        key = (model, status, code)
        self.refused[key] = self.refused.get(key, 0) + 1

    def text(self) -> bytes:
        return generate_latest(_Collected(self._collect))

    def tensorflow_serving_text(self) -> bytes:
        """Its names first, then ours."""
        return "".join(self._tensorflow_serving_lines()).encode() + self.text()

    def _collect(self) -> Iterator[Metric]:
        labels = ["model", "version", "signature", "verb"]
        latency = HistogramMetricFamily("daybook_request_seconds", "From the head of a request to its answer.", labels=labels)
        sums = [
            (CounterMetricFamily(f"daybook_{name}", text, labels=labels), name)
            for name, text in (
                ("queue_seconds", "Time that answered requests waited for a batch."),
                ("model_seconds", "Time that answered requests spent in a model."),
                ("commit_seconds", "Time that answers waited for their record to be durable."),
                ("rows", "Rows answered."),
            )
        ]
        for (model, version, signature, verb), counters in self.answered.items():
            values = [model, str(version), signature, verb]
            latency.add_metric(values, list(_cumulated(counters)), counters.total_us / 1e6)
            for metric, name in sums:
                value = counters.rows if name == "rows" else getattr(counters, name.replace("seconds", "us")) / 1e6
                metric.add_metric(values, value)
        yield latency
        yield from (metric for metric, _ in sums)
        refused = CounterMetricFamily("daybook_refused", "Calls that were refused or failed.", labels=["model", "status", "code"])
        for (model, status, code), count in self.refused.items():
            refused.add_metric([model, str(status), code], count)
        yield refused
        for name, (text, value) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=value())
        for name, (text, value) in self.counters.items():
            yield CounterMetricFamily(name, text, value=value())

    def _tensorflow_serving_lines(self) -> Iterator[str]:
        counts: dict[tuple[str, str], int] = {}
        latencies: dict[tuple[str, str], CallCounters] = {}
        for (model, _, _, verb), counters in self.answered.items():
            counts[model, "OK"] = counts.get((model, "OK"), 0) + counters.count
            sum_of = latencies.setdefault((model, verb), CallCounters())
            sum_of.count += counters.count
            sum_of.total_us += counters.total_us
            sum_of.buckets = [a + b for a, b in zip(sum_of.buckets, counters.buckets, strict=True)]
        for (model, _, code), count in self.refused.items():
            counts[model, code] = counts.get((model, code), 0) + count
        yield "# TYPE :tensorflow:serving:request_count counter\n"
        for (model, code), count in counts.items():
            yield f':tensorflow:serving:request_count{{model_name="{_escape(model)}",status="{code}"}} {count}\n'
        name = ":tensorflow:serving:request_latency"
        yield f"# TYPE {name} histogram\n"
        for (model, verb), counters in latencies.items():
            labels = f'model_name="{_escape(model)}",API="{verb}",entrypoint="REST"'
            seen = 0
            for bound, count in zip((*BOUNDS_US, float("inf")), counters.buckets, strict=True):
                seen += count
                yield f'{name}_bucket{{{labels},le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"}} {seen}\n'
            yield f"{name}_sum{{{labels}}} {counters.total_us}\n{name}_count{{{labels}}} {counters.count}\n"


class _Collected(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def _cumulated(counters: CallCounters) -> Iterator[tuple[str, float]]:
    seen = 0
    for bound, count in zip((*BOUNDS_US, None), counters.buckets, strict=True):
        seen += count
        yield ("+Inf" if bound is None else f"{bound / 1e6:.3g}"), seen


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
