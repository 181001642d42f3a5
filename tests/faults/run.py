"""The fault suite: load, faults by a printed seed, then the books are compared. `make faults` starts it.

The same `--seed` gives the same commands and the same faults at the same places among them. Times differ from run to
run, because threads, processes and the machine decide them; what the promises say must hold in every one.
"""

import argparse
import logging
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from delivery.errors import LedgerUnavailable
from tests.faults.checker import check, read_books
from tests.faults.faults import KINDS, WIPES
from tests.faults.ground import Ground, ground
from tests.faults.load import Load
from tests.faults.naive import run_control
from tests.faults.plan import Plan, make_plan
from tests.faults.recovery import Struck, is_recovered, works_now
from tests.faults.report import SeedReport, keep, print_all, print_start, weigh

_REST_S = 240.0
_TICK_S = 0.1
_CALM_S = 25.0
_ENOUGH_OPEN = 10
_AT_REST = "SELECT count(*) FROM deliveries WHERE state IN ('ready', 'attempting', 'waiting', 'uncertain')"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every seed and the control; return 0 when every promise was kept and the control broke one."""
    asked = _parser().parse_args(arguments)
    seeds = asked.seed or [secrets.randbelow(2**31) for _ in range(asked.seeds)]
    deadline = time.monotonic() + asked.minutes * 60
    reports = []
    for n, seed in enumerate(seeds):
        share = (deadline - time.monotonic()) / (len(seeds) - n)
        plan = make_plan(seed, deliveries=asked.deliveries, faults=asked.faults, kinds=tuple(KINDS))
        print_start(plan)
        reports.append(run_seed(plan, seconds=share))
    with _folder() as data:
        control = run_control(Path(data), seeds[0], tasks=asked.control)
    good = print_all(reports, control)
    keep(reports, control, asked.results)
    return 0 if good else 1


def run_seed(plan: Plan, *, seconds: float) -> SeedReport:
    """Carry one plan out on a fresh system and return what was found.

    Args:
        plan: Commands and faults.
        seconds: Hand nothing more over after this; what was handed over is still checked.
    """
    with _folder() as data, ground(Path(data)) as found:
        began = time.monotonic()
        load = Load(found, plan)
        struck = _carry_out(found, load, plan, began + seconds)
        loaded = time.monotonic() - began
        found.lift()
        rested = _rest(found)
        whole = load.handed_over == plan.deliveries and len(struck) == len(plan.steps)
        books = read_books(found, load.answers)
        promises = check(found, books)
        return weigh(
            found, plan, books, promises, struck, whole=whole, load_s=loaded, rest_s=rested,
        )  # fmt: skip


def _carry_out(found: Ground, load: Load, plan: Plan, deadline: float) -> list[Struck]:
    struck: list[Struck] = []
    coming = list(plan.steps)
    load.start()
    while not load.is_over and time.monotonic() < deadline:
        load.gate = coming[1].at if len(coming) > 1 else plan.deliveries
        if coming and load.handed_over >= min(coming[0].at, plan.deliveries):
            step = coming.pop(0)
            if step.kind in WIPES:
                _calm(found, load, step.at)
            before = len(found.dead)
            at = _now()
            KINDS[step.kind](found, random.Random(step.seed))
            struck.append(Struck(step.kind, at, load.handed_over, tuple(found.dead[before:])))
            if step.kind in WIPES:
                _recover(found, struck[-1])
        found.tick()
        time.sleep(_TICK_S)
    load.end()
    return struck


def _calm(found: Ground, load: Load, at: int) -> None:
    """Let earlier faults end, then let fresh work come in: the recovery from a wipe is measured by itself."""
    gate, load.gate = load.gate, at
    _until(found, lambda: not found.is_hurt and (load.open == 0 or works_now(found, _now(-1.0))))
    load.gate = gate
    _until(found, lambda: load.open > _ENOUGH_OPEN, seconds=1.5)


def _recover(found: Ground, struck: Struck) -> None:
    _until(found, lambda: is_recovered(found, struck))


def _until(found: Ground, condition: Callable[[], bool], seconds: float = _CALM_S) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found.tick()
        with suppress(LedgerUnavailable):
            if condition():
                return
        time.sleep(_TICK_S)


def _now(shift_s: float = 0.0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=shift_s)


def _rest(found: Ground) -> float:
    """Wait, within bounds, until nothing is on its way; return the seconds it took."""
    began = time.monotonic()
    while time.monotonic() - began < _REST_S:
        found.tick()
        with suppress(LedgerUnavailable):  # Postgres may have been killed a moment ago
            if found.sql(_AT_REST)[0][0] == 0:
                break
        time.sleep(0.3)
    return time.monotonic() - began


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="entrega-faults-", ignore_cleanup_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds to draw")
    parser.add_argument("--seed", type=int, action="append", help="use this seed; may be given several times")
    parser.add_argument("--deliveries", type=int, default=20_000, help="commands for each seed")
    parser.add_argument("--faults", type=int, default=60, help="faults for each seed")
    parser.add_argument("--minutes", type=float, default=60.0, help="hand nothing more over after this long in all")
    parser.add_argument("--control", type=int, default=200, help="tasks of the naive worker")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where JSON is kept")
    return parser


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    sys.exit(main())
