"""Who takes part: each system with its producer and its processes. How a rival is set up stands in its own module.

Every system gets the same number of calls in flight: so many processes with so many threads (or places of an event
loop) each. Nothing is left out here because somebody else wins.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """How many calls may be in flight.

    Attributes:
        processes: Worker processes.
        threads: Calls in flight in each.
        submitters: Threads of the producer that submit side by side, where messages are submitted one by one.
    """

    processes: int
    threads: int
    submitters: int = 1

    @property
    def in_flight(self) -> int:
        """Calls in flight in all."""
        return self.processes * self.threads


@dataclass(frozen=True)
class Part:
    """One program of a system.

    Attributes:
        name: Unique within the system.
        role: Whose CPU time and memory it is: "workers" or "beat".
        arguments: What follows `python`.
    """

    name: str
    role: str
    arguments: tuple[str, ...]
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True)
class Case:
    """One system.

    Attributes:
        module: The producer's module in `benchmarks.rivals`.
        ours: It runs in the project's own environment; a rival runs in that of `requirements/bench.txt`.
        at_once: The most that the producer submits in one call; 1 where the system knows no such call.
        parts: Its programs, for a shape.
    """

    name: str
    module: str
    needs: frozenset[str]
    parts: Callable[[Shape], tuple[Part, ...]]
    ours: bool = False
    at_once: int = 1


_POSTGRES, _VALKEY = frozenset({"postgres"}), frozenset({"valkey"})
BASELINE = "celery-careful"
_QUIET = ("--without-gossip", "--without-mingle")


def _entrega(shape: Shape) -> tuple[Part, ...]:
    """Return what `entrega up` starts, without the web page: nobody submits through it here.

    A lane keeps `delivery.lane.Lanes.at_once` calls in flight in each process, whatever the shape says.
    """
    process = ("-m", "ingress.process")
    names = [f"worker{n}" for n in range(1, shape.processes + 1)]
    workers = [Part(name, "workers", (*process, "worker", name)) for name in names]
    return (*workers, Part("beat", "beat", (*process, "beat", "beat")))


def _celery_plain(shape: Shape) -> tuple[Part, ...]:
    app = ("-m", "celery", "-A", "benchmarks.rivals.celery_plain", "worker")
    return (Part("worker", "workers", (*app, "--loglevel=INFO", f"--concurrency={shape.in_flight}")),)


def _celery_careful(shape: Shape) -> tuple[Part, ...]:
    app = ("-m", "celery", "-A", "benchmarks.rivals.celery_careful", "worker", "--loglevel=INFO", *_QUIET)
    pool = ("--pool=threads", f"--concurrency={shape.threads}")
    return tuple(
        Part(f"worker{n}", "workers", (*app, *pool, f"--hostname=worker{n}@%h")) for n in range(shape.processes)
    )


def _dramatiq(shape: Shape) -> tuple[Part, ...]:
    counts = ("--processes", str(shape.processes), "--threads", str(shape.threads))
    return (Part("worker", "workers", ("-m", "dramatiq", "benchmarks.rivals.dramatiq_pooled", *counts)),)


def _taskiq(shape: Shape) -> tuple[Part, ...]:
    counts = ("--workers", str(shape.processes), "--max-async-tasks", str(shape.threads))
    broker = "benchmarks.rivals.taskiq_pooled:broker"
    prefetch = ("--max-prefetch", str(shape.threads))
    return (Part("worker", "workers", ("-m", "taskiq", "worker", broker, *counts, *prefetch)),)


def _huey(shape: Shape) -> tuple[Part, ...]:
    consumer = ("-m", "huey.bin.huey_consumer", "benchmarks.rivals.huey_pooled.huey")
    options = ("-k", "thread", "-w", str(shape.threads))
    return tuple(
        Part(f"worker{n}", "workers", (*consumer, *options, *(("-n",) if n else ())), signal.SIGINT)
        for n in range(shape.processes)
    )


def _procrastinate(shape: Shape) -> tuple[Part, ...]:
    worker = ("-m", "procrastinate", "--app=benchmarks.rivals.procrastinate_pooled.app", "worker")
    options = (*worker, f"--concurrency={shape.threads}")
    return tuple(Part(f"worker{n}", "workers", (*options, f"--name=worker{n}")) for n in range(shape.processes))


def _dbos(shape: Shape) -> tuple[Part, ...]:
    program = ("-m", "benchmarks.rivals.dbos_pooled")
    return tuple(Part(f"worker{n}", "workers", (*program, f"worker{n}")) for n in range(shape.processes))


CASES = (
    Case("entrega-bulk", "entrega_bulk", _POSTGRES | _VALKEY, _entrega, ours=True, at_once=500),
    Case("entrega-single", "entrega_single", _POSTGRES | _VALKEY, _entrega, ours=True),
    Case("celery-plain", "celery_plain", _VALKEY, _celery_plain),
    Case(BASELINE, "celery_careful", _VALKEY, _celery_careful),
    Case("dramatiq", "dramatiq_pooled", _VALKEY, _dramatiq),
    Case("taskiq", "taskiq_pooled", _VALKEY, _taskiq, at_once=500),
    Case("huey", "huey_pooled", _VALKEY, _huey),
    Case("procrastinate", "procrastinate_pooled", _POSTGRES, _procrastinate, at_once=500),
    Case("dbos", "dbos_pooled", _POSTGRES, _dbos),
)
