"""Counts what the workers do, and renders it for Prometheus together with the ledger's own figures.

Workers count into memory-mapped files, one set for each process, so that a process that was killed keeps its counts;
the web process adds the files up. What must survive restarts (queue depth, age, dead letters) is never counted here but
measured in the ledger at scrape time. Labels carry words of the spec only, never an id or a person.

`PROMETHEUS_MULTIPROC_DIR` must be in the environment before `prometheus_client` is first imported; the process starter
puts it there. Without it one process counts in memory, which is enough for a single process and for tests.

Source: prometheus_client 0.26.0, values.py, mmap_dict.py and multiprocess.py, read 2026-11-22.
"""

import os
import re
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

# From a fast CRM answer to the longest total deadline of a spec; 5 s is the user's alert threshold for the p95.
_Answer = TypeVar("_Answer")
_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
_WORD = re.compile(r"(?!.*\d{5})[A-Za-z][A-Za-z0-9_.-]{0,47}")


class Recorder(Protocol):
    """Where the workers count. Every call is cheap, and safe from many threads."""

    def answered(self, *, service: str, operation: str, outcome: str, code: str, took: timedelta) -> None:
        """Count one request that was made, and how long it took."""
        ...

    def retried(self, *, service: str, operation: str) -> None:
        """Count one request that repeats an earlier one of the same delivery."""
        ...

    def turned_back(self, *, service: str, operation: str, code: str) -> None:
        """Count one attempt that a closed gate (limiter, breaker, pause) stopped before any byte left."""
        ...

    def token_renewed(self, *, service: str) -> None:
        """Count one renewed access token."""
        ...

    def message_rejected(self, *, reason: str) -> None:
        """Count one broker message that no task could take, e.g. reason "unknown_kind"."""
        ...

    def alerted(self, *, severity: str, service: str, code: str) -> None:
        """Count one alert that operators were told."""
        ...

    def usage_unreadable(self, *, service: str) -> None:
        """Count one answer with a usage header that nobody can read."""
        ...

    def upkeep_failed(self, *, work: str) -> None:
        """Count one row or step of upkeep that failed, e.g. work "inbound_events"."""
        ...


class SilentRecorder:
    """Counts nothing: `ENABLE_METRICS=false`."""

    def answered(self, *, service: str, operation: str, outcome: str, code: str, took: timedelta) -> None:
        """Do nothing."""

    def retried(self, *, service: str, operation: str) -> None:
        """Do nothing."""

    def turned_back(self, *, service: str, operation: str, code: str) -> None:
        """Do nothing."""

    def token_renewed(self, *, service: str) -> None:
        """Do nothing."""

    def message_rejected(self, *, reason: str) -> None:
        """Do nothing."""

    def alerted(self, *, severity: str, service: str, code: str) -> None:
        """Do nothing."""

    def usage_unreadable(self, *, service: str) -> None:
        """Do nothing."""

    def upkeep_failed(self, *, work: str) -> None:
        """Do nothing."""


class PrometheusRecorder:
    """Counts into Prometheus metrics.

    Attributes:
        registry: Holds the counts of this process; with a multiprocess folder the files hold them too.
    """

    def __init__(self) -> None:
        _count_by_host_and_pid()
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests made", "service", "operation", "outcome", "code")
        self._retries = self._counter("retries", "Requests that repeat an earlier one", "service", "operation")
        self._gates = self._counter(
            "gates_closed", "Attempts stopped before any byte left", "service", "operation", "code"
        )
        self._renewals = self._counter("token_renewals", "Access tokens renewed", "service")
        self._rejected = self._counter("messages_rejected", "Broker messages that no task could take", "reason")
        self._alerts = self._counter("alerts", "Alerts that operators were told", "severity", "service", "code")
        self._unreadable = self._counter("usage_unreadable", "Answers with a usage header of no sense", "service")
        self._upkeep = self._counter("upkeep_failures", "Rows and steps of upkeep that failed", "work")
        self._durations = Histogram(
            "entrega_request_duration_seconds",
            "Time from the first byte to the provider's answer",
            ("service", "operation"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"entrega_{name}", meaning, labels, registry=self.registry)

    def answered(self, *, service: str, operation: str, outcome: str, code: str, took: timedelta) -> None:
        """Count one request that was made, and how long it took."""
        requests, durations = self._answers(service, operation, outcome, code)
        requests.inc()
        durations.observe(took.total_seconds())

    @lru_cache(1024)  # noqa: B019 - a process has one recorder; finding the two took half of counting them
    def _answers(self, service: str, operation: str, outcome: str, code: str) -> tuple[Counter, Histogram]:
        where = _word(service), _word(operation)
        return self._requests.labels(*where, _word(outcome), _word(code)), self._durations.labels(*where)

    def retried(self, *, service: str, operation: str) -> None:
        """Count one request that repeats an earlier one of the same delivery."""
        self._retries.labels(_word(service), _word(operation)).inc()

    def turned_back(self, *, service: str, operation: str, code: str) -> None:
        """Count one attempt that a closed gate stopped before any byte left."""
        self._gates.labels(*map(_word, (service, operation, code))).inc()

    def token_renewed(self, *, service: str) -> None:
        """Count one renewed access token."""
        self._renewals.labels(_word(service)).inc()

    def message_rejected(self, *, reason: str) -> None:
        """Count one broker message that no task could take."""
        self._rejected.labels(_word(reason)).inc()

    def alerted(self, *, severity: str, service: str, code: str) -> None:
        """Count one alert that operators were told."""
        self._alerts.labels(*map(_word, (severity, service, code))).inc()

    def usage_unreadable(self, *, service: str) -> None:
        """Count one answer with a usage header that nobody can read."""
        self._unreadable.labels(_word(service)).inc()

    def upkeep_failed(self, *, work: str) -> None:
        """Count one row or step of upkeep that failed."""
        self._upkeep.labels(_word(work)).inc()


@dataclass(frozen=True)
class LedgerFigures:
    """What the ledger says at one instant.

    Attributes:
        deliveries: Rows by (state, kind); open states and "dead" at least.
        oldest_due: How long the most overdue delivery has waited for a worker; zero when none is due.
        accounts_held: Accounts that wait for a person.
        set_aside: Events that could not be worked on and wait for a person.
    """

    deliveries: Mapping[tuple[str, str], int] = field(default_factory=dict)
    oldest_due: timedelta = timedelta()
    accounts_held: int = 0
    set_aside: int = 0


class LedgerCollector(Collector):
    """Measures the ledger and the broker when Prometheus asks; an absent one leaves its figures out.

    Args:
        figures: Asks the ledger, e.g. one aggregate query over the open states.
        backlog: Asks the broker how many hints wait; None when it cannot be asked.
    """

    def __init__(self, figures: Callable[[], LedgerFigures], backlog: Callable[[], int | None]) -> None:
        self._figures = figures
        self._backlog = backlog

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges; `entrega_ledger_up` tells whether the ledger could be asked."""
        figures = _asked(self._figures)
        yield _gauge("ledger_up", "1 when the ledger answered this scrape", int(figures is not None))
        if figures is not None:
            yield from _ledger_gauges(figures)
        backlog = _asked(self._backlog)
        if backlog is not None:
            yield _gauge("hints_backlog", "Hints waiting for a worker in the broker", backlog)


def make_recorder(*, enabled: bool) -> PrometheusRecorder | SilentRecorder:
    """Return the recorder that `ENABLE_METRICS` asks for. Make one for each process."""
    return PrometheusRecorder() if enabled else SilentRecorder()


def render_metrics(
    *,
    recorder: PrometheusRecorder | SilentRecorder | None = None,
    folder: Path | None = None,
    ledger: LedgerCollector | None = None,
) -> bytes:
    """Return everything in Prometheus' text format (content type `prometheus_client.CONTENT_TYPE_LATEST`).

    Args:
        recorder: This process's own counts; used only when there is no folder.
        folder: The multiprocess folder that all processes write to.
        ledger: Figures measured now.
    """
    registry = CollectorRegistry()
    if folder is not None:
        registry.register(_Folder(folder))
    elif isinstance(recorder, PrometheusRecorder):
        registry.register(_Memory(recorder.registry))
    if ledger is not None:
        registry.register(ledger)
    return generate_latest(registry)


class _Folder(Collector):
    """Adds up the files of all processes, dead ones included."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        files = [str(each) for each in sorted(self._folder.glob("*.db"))]
        try:
            return _merged(files)
        except _UNREADABLE:
            return _merged([each for each in files if _is_readable(each)])


class _Memory(Collector):
    """The counts of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        return self._registry.collect()


# A process killed while it made its file leaves an empty or torn one; it must not take the whole scrape away.
_UNREADABLE = (OSError, RuntimeError, ValueError, struct.error)


def _merged(files: list[str]) -> list[Metric]:
    return list(MultiProcessCollector.merge(files))


def _is_readable(file: str) -> bool:
    try:
        _merged([file])
    except _UNREADABLE:
        return False
    return True


@cache  # once for each process: two classes would each map, and tear, the same files
def _count_by_host_and_pid() -> None:
    """Name this process's files by host and pid: two containers both have a process 1.

    The library reads `values.ValueClass` whenever a metric is made, and the class it chose tells whether the
    environment asked for files.
    """
    if getattr(values.ValueClass, "_multiprocess", False):
        # No "_" in the name: the reader splits file names there.
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
        # The pid is asked for at every count, as the library does, because a fork must not share its parent's file.
        by_host_and_pid = values.MultiProcessValue(lambda: f"{host}-{os.getpid()}")
        values.ValueClass = by_host_and_pid


def _word(value: str) -> str:
    return value if _WORD.fullmatch(value) else "other"


def _asked(question: Callable[[], _Answer]) -> _Answer | None:
    try:
        return question()
    except Exception:  # noqa: BLE001 - a scrape goes on without the ledger, and the missing gauge says so
        return None


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"entrega_{name}", meaning, value=value)


def _ledger_gauges(figures: LedgerFigures) -> Iterable[Metric]:
    deliveries = GaugeMetricFamily("entrega_deliveries", "Deliveries in the ledger", labels=("state", "kind"))
    dead = GaugeMetricFamily("entrega_dead_letters", "Deliveries that only a person can move on", labels=("kind",))
    for (state, kind), rows in sorted(figures.deliveries.items()):
        deliveries.add_metric((_word(state), _word(kind)), rows)
        if state == "dead":
            dead.add_metric((_word(kind),), rows)
    yield deliveries
    yield dead
    yield _gauge("oldest_due_seconds", "Wait of the most overdue delivery", figures.oldest_due.total_seconds())
    yield _gauge("accounts_held", "Accounts that wait for a person", figures.accounts_held)
    yield _gauge("events_set_aside", "Events that could not be worked on and wait for a person", figures.set_aside)
