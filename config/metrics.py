"""What the site knows of the whole, for Prometheus: the log, the journal of this node, the workers. The gateway has its own figures.

Read at each scrape from where the pages read it too; nothing is counted here.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.db import Error
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from audit.backlog import read_backlog
from audit.figures import tree_state
from serving.models import VersionState, WorkerState

STATES = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")


def exposition() -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Daybook())
    return generate_latest(registry)


class _Daybook(Collector):
    def collect(self) -> Iterator[Metric]:
        yield from _journal()
        up = GaugeMetricFamily("daybook_database_up", "Whether the site reaches PostgreSQL.")
        try:
            families = [*_log(), *_serving()]
        except Error:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from families


def _journal() -> Iterator[Metric]:
    backlog = read_backlog(Path(settings.JOURNAL_DIR))
    if backlog is None:
        return
    now_us = time.time_ns() // 1000
    yield _gauge("daybook_journal_backlog_bytes", "Journal of this node that isn't in PostgreSQL yet.", backlog.bytes)
    yield _gauge("daybook_journal_backlog_records", "Records of this node that aren't in PostgreSQL yet.", backlog.records)
    oldest = (now_us - backlog.oldest_us) / 1e6 if backlog.oldest_us else 0.0
    yield _gauge("daybook_journal_oldest_seconds", "Age of the oldest record of this node that isn't in PostgreSQL.", oldest)
    yield _gauge(
        "daybook_scribe_silent_seconds", "Since the scribe of this node last said how far it is.", (now_us - backlog.time_us) / 1e6
    )
    yield _gauge("daybook_scribe_alarms", "Faults in the journal that somebody should look at.", len(backlog.alarms))


def _log() -> Iterator[Metric]:
    tree = tree_state(datetime.now(UTC))
    yield _gauge("daybook_log_leaves", "Leaves in the log.", tree.size)
    yield _gauge("daybook_log_signed_leaves", "Leaves under the last checkpoint.", tree.signed_size)
    yield _gauge("daybook_log_unsealed_records", "Records in PostgreSQL that aren't sealed yet, counted up to a bound.", tree.unsealed)
    if tree.checkpoint_age_s is not None:
        yield _gauge("daybook_log_checkpoint_age_seconds", "Age of the last checkpoint.", tree.checkpoint_age_s)


def _serving() -> Iterator[Metric]:
    live = list(WorkerState.objects.live().values_list("pk", flat=True))
    yield _gauge("daybook_workers_live", "Serving workers that reported lately.", len(live))
    versions = GaugeMetricFamily(
        "daybook_version_state", "1 for the state that a live worker reports of a version.", labels=("model", "version", "state")
    )
    for state in VersionState.objects.filter(worker__in=live).select_related("deployment"):
        for word in STATES:
            versions.add_metric([state.deployment.name, str(state.version), word], float(state.state == word))
    yield versions


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
