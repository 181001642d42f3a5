"""How long it takes until help is printed, a worker is ready, and the whole system is: programs as they are shipped.

`make bench-start` prints the figures, keeps them and writes them into `docs/performance.md`. Wall time is what a person
waits, and other work on the machine makes it longer; the CPU seconds beside it move less.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.page import machine, markdown, write_section
from benchmarks.rivals.usage import cpu_s
from config.running import child_environment
from ledger.database import connect
from ledger.schema import migrate
from sandbox.doors import log_tail
from sandbox.postgres import PostgresServer
from sandbox.valkey import ValkeyServer

_RESULTS = Path(__file__).parent / "results" / "start.json"
_PATIENCE_S = 120.0
_POLL_S = 0.01
_ENTREGA = ("-c", "from ingress.cli import main; main()")
# As `entrega up` starts it, and by Celery's own command line.
_WORKERS = {
    "a worker": ("-m", "ingress.process", "worker", "worker1"),
    "celery -A worker worker": (
        "-m", "celery", "-A", "worker", "worker", "--loglevel=INFO", "--without-gossip", "--without-mingle",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """One kind of start.

    Attributes:
        goal_s: Wall seconds that it may take; None where nothing was promised.
        wall_s: Of each start.
        cpu_s: Of each start, with all children that were alive at its end.
    """

    what: str
    goal_s: float | None
    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]

    @property
    def met(self) -> bool:
        """Whether the median keeps the goal."""
        return self.goal_s is None or median(self.wall_s) <= self.goal_s


def main() -> int:
    """Measure, print, keep; return 0 when every goal is met."""
    parser = argparse.ArgumentParser(description="How long help, a worker and the whole system take to start.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round; keeps nothing")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    figures = _measure(1 if asked.quick else asked.rounds)
    kept = {**machine(load), "figures": [asdict(each) for each in figures]}
    _print(figures)
    if not asked.quick:
        _RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        write_section("start", "make bench-start", kept, markdown(_COLUMNS, _rows(figures)))
    return 0 if all(each.met for each in figures) else 1


def _measure(rounds: int) -> list[Figures]:
    _help()  # the first start of all compiles the modules, which happens once after an installation
    found = [_figures("entrega --help", 0.3, [_help() for _ in range(rounds)])]
    with _servers() as (folder, variables):
        for what, command in _WORKERS.items():
            _worker(command, folder, variables)
            starts = [_worker(command, folder, variables) for _ in range(rounds)]
            found.append(_figures(what, 2.0, starts))
    for what, options in (("entrega up", ()), ("entrega up --sandbox", ("--sandbox",))):
        first, later = zip(*(_two_starts(options) for _ in range(rounds)), strict=True)
        found.append(_figures(f"{what}, new folder", 6.0, first))
        found.append(_figures(f"{what}, again", 6.0, later))
    return found


def _figures(what: str, goal_s: float, starts: Sequence[tuple[float, float]]) -> Figures:
    walls, cpus = zip(*starts, strict=True)
    return Figures(what, goal_s, tuple(round(each, 2) for each in walls), tuple(round(each, 2) for each in cpus))


def _help() -> tuple[float, float]:
    before, began = os.times(), time.monotonic()
    command = (sys.executable, *_ENTREGA, "--help")
    subprocess.run(command, stdout=subprocess.DEVNULL, env=_environment({}), check=True)  # noqa: S603 - ours
    wall, after = time.monotonic() - began, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


@contextmanager
def _servers() -> Iterator[tuple[Path, Mapping[str, str]]]:
    with TemporaryDirectory(prefix="entrega-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        postgres, valkey = PostgresServer(folder), ValkeyServer(folder)
        try:
            variables = {"DATABASE_URL": postgres.start(), "REDIS_URL": valkey.start(), "ENTREGA_DATA": name}
            engine = connect(variables["DATABASE_URL"])
            migrate(engine)
            engine.dispose()
            yield folder, variables
        finally:
            valkey.stop()
            postgres.remove()


def _worker(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> tuple[float, float]:
    log = folder / "worker.log"
    log.unlink(missing_ok=True)
    return _started(command, log, _environment(variables), lambda: "worker_ready" in log.read_text())


def _two_starts(options: Sequence[str]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the start in a new data folder, where Postgres is prepared first, and the next one in the same folder."""
    with TemporaryDirectory(prefix="entrega-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        environment = _environment(
            {"ENTREGA_DATA": str(folder / "data"), "ENTREGA_PORT": "0", "ENTREGA_ENV": "sandbox"}
        )
        first, later = (_up(folder / f"{word}.log", environment, options) for word in ("first", "later"))
    return first, later


def _up(log: Path, environment: Mapping[str, str], options: Sequence[str]) -> tuple[float, float]:
    # It prints its addresses, one line of JSON, once `/health/ready` has answered 200.
    command = (*_ENTREGA, "up", "--json", *options)
    return _started(command, log, environment, lambda: '"ingress"' in log.read_text())


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    left_out = {"DATABASE_URL", "REDIS_URL", "PYTHONDONTWRITEBYTECODE"}
    return {name: value for name, value in child_environment({}).items() if name not in left_out} | dict(variables)


def _started(
    command: Sequence[str], log: Path, environment: Mapping[str, str], is_ready: Callable[[], bool]
) -> tuple[float, float]:
    """Start a program, end it when it is ready, and return the wall and CPU seconds that it took until then."""
    with log.open("w") as out:
        began = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - ours
            (sys.executable, *command), stdout=out, stderr=out, env=dict(environment), cwd=log.parent
        )
    try:
        while not is_ready():
            if process.poll() is not None or time.monotonic() - began > _PATIENCE_S:
                raise SystemExit(f"{command[-1]} did not start:\n{log_tail(log)}")
            time.sleep(_POLL_S)
        return time.monotonic() - began, cpu_s([process.pid])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_PATIENCE_S)


_COLUMNS = ("start", "goal s", "median s", "quickest s", "slowest s", "CPU s, median")


def _rows(figures: Sequence[Figures]) -> list[tuple[str, ...]]:
    return [
        (
            each.what, f"{each.goal_s}", f"{median(each.wall_s):.2f}", f"{min(each.wall_s):.2f}",
            f"{max(each.wall_s):.2f}", f"{median(each.cpu_s):.2f}",
        )
        for each in figures
    ]  # fmt: skip


def _print(figures: Sequence[Figures]) -> None:
    table = Table(*_COLUMNS, box=None, header_style="dim")
    for row in _rows(figures):
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
