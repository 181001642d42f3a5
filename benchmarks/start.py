"""How long it takes until help is printed, a command has answered, a worker is ready, and the whole system is.

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
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import cast

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.page import machine, markdown, write_section
from benchmarks.rivals.usage import cpu_s
from config.running import child_environment
from config.settings import load_settings
from ingress.entry import SOCKET
from ingress.system import Plan, System
from ledger.database import connect
from ledger.schema import migrate
from sandbox.children import Child
from sandbox.doors import log_tail
from sandbox.postgres import PostgresServer
from sandbox.valkey import ValkeyServer

_RESULTS = Path(__file__).parent / "results" / "start.json"
_PATIENCE_S = 120.0
_POLL_S = 0.01
_ENTREGA = ("-c", "from ingress.entry import main; main()")
_LEAD = ("submit", "create_lead", "nome=Ana Teste", "email=ana.teste@exemplo.com.br", "interesse=produto_a", "--json")
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
        goal_s: Wall seconds that it may take.
        wall_s: Of each start.
        cpu_s: Of each start, with all children that were alive at its end.
        goal_cpu_s: CPU seconds that it may take; None where nothing was promised.
    """

    what: str
    goal_s: float
    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    goal_cpu_s: float | None = None

    @property
    def met(self) -> bool:
        """Whether the medians keep the goals."""
        within = median(self.wall_s) <= self.goal_s
        return within and (self.goal_cpu_s is None or median(self.cpu_s) <= self.goal_cpu_s)


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
    found += _commands(rounds)
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


def _figures(
    what: str, goal_s: float, starts: Sequence[tuple[float, float]], goal_cpu_s: float | None = None
) -> Figures:
    walls, cpus = zip(*starts, strict=True)
    rounded = (tuple(round(each, 2) for each in found) for found in (walls, cpus))
    return Figures(what, goal_s, *rounded, goal_cpu_s=goal_cpu_s)


def _help() -> tuple[float, float]:
    return _run(_environment({}), "--help")


def _run(environment: Mapping[str, str], *words: str) -> tuple[float, float]:
    before, began = os.times(), time.monotonic()
    command = (sys.executable, *_ENTREGA, *words)
    subprocess.run(command, stdout=subprocess.DEVNULL, env=dict(environment), check=True)  # noqa: S603 - ours
    wall, after = time.monotonic() - began, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def _commands(rounds: int) -> list[Figures]:
    """Measure commands beside a running `entrega up`; their CPU is the caller's and the command server's together."""
    with TemporaryDirectory(prefix="entrega-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        settings = load_settings({"entrega_env": "sandbox", "entrega_data": folder / "data", "entrega_port": 0})
        system = System(Plan(settings, sandbox=True, commands=True), lambda _: None)
        try:
            system.start()
            environment = _environment({"ENTREGA_DATA": str(system.data)})
            _await_file(system.data / SOCKET)
            id_ = subprocess.run(  # noqa: S603 - ours
                (sys.executable, *_ENTREGA, *_LEAD), env=environment, stdout=subprocess.PIPE, check=True
            )
            shown = ("show", json.loads(id_.stdout)["id"])
            server = psutil.Process(cast("Child", system.parts["commands"]).pid)
            return [
                _figures(f"entrega {words[0]}", 0.8, [_served(server, environment, words) for _ in range(rounds)], 0.6)
                for words in (("deliveries",), shown, _LEAD, ("doctor",))
            ]
        finally:
            system.stop()


def _served(server: psutil.Process, environment: Mapping[str, str], words: Sequence[str]) -> tuple[float, float]:
    before = _children_s(server)
    wall, cpu = _run(environment, *words)
    deadline = time.monotonic() + _PATIENCE_S
    while _children_s(server) == before and time.monotonic() < deadline:  # until the server has reaped its child
        time.sleep(_POLL_S)
    return wall, cpu + _children_s(server) - before


def _children_s(process: psutil.Process) -> float:
    found = process.cpu_times()
    return float(found.children_user + found.children_system)


def _await_file(path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"{path.name} did not appear")
        time.sleep(_POLL_S)


@contextmanager
def _servers() -> Iterator[tuple[Path, Mapping[str, str]]]:
    with TemporaryDirectory(prefix="entrega-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        postgres, valkey = PostgresServer(folder), ValkeyServer(folder)
        try:
            variables = {
                "DATABASE_URL": postgres.start(),
                "REDIS_URL": valkey.start(),
                "ENTREGA_DATA": name,
                "ENTREGA_MASTER_KEYS": b64encode(bytes(32)).decode(),
            }
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


_COLUMNS = ("start", "goal s", "median s", "quickest s", "slowest s", "CPU goal s", "CPU s, median")


def _rows(figures: Sequence[Figures]) -> list[tuple[str, ...]]:
    return [
        (
            each.what, f"{each.goal_s}", f"{median(each.wall_s):.2f}", f"{min(each.wall_s):.2f}",
            f"{max(each.wall_s):.2f}", f"{each.goal_cpu_s or ''}", f"{median(each.cpu_s):.2f}",
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
