"""The fault suite: load, faults by a printed seed, then the books are compared. `make faults` starts it.

The same `--seed` gives the same commands and the same faults at the same places among them, as long as deliveries and
faults are as many. Times differ from run to run, because threads, processes and the machine decide them; what the
promises say must hold in every one.
"""

import argparse
import logging
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import structlog

from delivery.errors import LedgerUnavailable
from delivery.ports import Hint
from tests.faults.checker import check, read_books
from tests.faults.faults import KINDS, LOSSES, WIPES
from tests.faults.ground import Ground, ground
from tests.faults.load import Load
from tests.faults.naive import run_control
from tests.faults.pace import paces
from tests.faults.plan import Plan, Step, make_plan
from tests.faults.processes import stood_still
from tests.faults.recovery import Struck, is_recovered, untouched, works_now
from tests.faults.report import Course, SeedReport, keep, print_all, print_start, weigh
from tests.faults.secrecy import flower_pages, has_heard
from tests.faults.wires import resume

_REST_S = 300.0
_TICK_S = 0.1
_CALM_S = 25.0
_ENOUGH_OPEN, _FEW_OPEN = 60, 20
_CONTROL_S = 45.0  # what the control takes, out of the time of the whole run
_FLOWER_S = 120.0  # it may have been started a moment ago
_FLOWER_FROM = 0.75  # of the commands; Flower keeps every task it hears of in memory
_ANY_LEAD = "SELECT id FROM deliveries WHERE kind = 'create_lead' LIMIT 1"
_EVENTS = "SELECT count(*) FROM inbound_events WHERE kind = 'status'"
_AT_REST = "SELECT count(*) FROM deliveries WHERE state IN ('ready', 'attempting', 'waiting', 'uncertain', 'held')"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every seed and the control; return 0 when every promise was kept and the control broke one."""
    asked = _parser().parse_args(arguments)
    seeds = asked.seed or [secrets.randbelow(2**31) for _ in range(asked.seeds)]
    deadline = time.monotonic() + asked.minutes * 60 - _CONTROL_S
    reports = []
    for n, seed in enumerate(seeds):
        share = (deadline - time.monotonic()) / (len(seeds) - n)
        kinds = tuple(asked.kind or KINDS)
        plan = make_plan(seed, deliveries=asked.deliveries, faults=asked.faults, kinds=kinds)
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
    began = time.monotonic()
    with _folder() as data, ground(Path(data)) as found:
        load = Load(found, plan)
        course = _Course(found, load, plan)
        course.run(began + seconds)
        loaded = time.monotonic() - began
        found.lift()
        rested = _rest(found)
        whole = load.handed_over == plan.deliveries and len(course.struck) == len(plan.steps)
        losses = [each.at.timestamp() for each in course.struck if each.kind in LOSSES]
        _until(found, lambda: _flower_has_heard(found), seconds=_FLOWER_S)
        books = read_books(found, load.answers, paces(found, losses), flower_pages(found))
        promises = check(found, books)
        taken = Course(whole, time.monotonic() - began, loaded, rested, events=found.sql(_EVENTS)[0][0])
        return weigh(found, plan, books, promises, course.struck, taken)


@dataclass
class _Course:
    """The load and the faults of one plan, under way."""

    found: Ground
    load: Load
    plan: Plan
    struck: list[Struck] = field(default_factory=list)

    def run(self, deadline: float) -> None:
        """Hand over and strike until all is done, or the time is over."""
        coming = list(self.plan.steps)
        self.load.start()
        while not self.load.is_over and time.monotonic() < deadline:
            # The load runs on to the fault after the next, and never past the last one that has not struck.
            self.load.gate = coming[:2][-1].at if coming else self.plan.deliveries
            if coming and self.load.handed_over >= min(coming[0].at, self.plan.deliveries):
                self._strike(coming.pop(0))
            if self.load.handed_over >= _FLOWER_FROM * self.plan.deliveries:
                self.found.system.start_flower()
            self.found.tick()
            time.sleep(_TICK_S)
        self.load.end()
        self.found.system.start_flower()  # also where the time was over before

    def _strike(self, step: Step) -> None:
        with self._backlog(step.at) if step.kind in WIPES else nullcontext(()) as waiting:
            dead, armed = len(self.found.dead), len(self.found.armed)
            at = datetime.now(UTC)
            target = KINDS[step.kind](self.found, random.Random(step.seed))
        note = self.found.armed[armed] if len(self.found.armed) > armed else None
        handed_over, died = self.load.handed_over, tuple(self.found.dead[dead:])
        self.struck.append(Struck(step.kind, at, handed_over, target, died, note, waiting))
        if waiting:
            _until(self.found, lambda: is_recovered(self.found, self.struck[-1]))

    @contextmanager
    def _backlog(self, at: int) -> Iterator[tuple[UUID, ...]]:
        """Let earlier faults end, then let fresh work wait for workers that stand still: what a wipe can take away."""
        load, found = self.load, self.found
        load.gate = at
        _until(found, lambda: not found.is_hurt and (load.open < _FEW_OPEN or works_now(found, _now(-1.0))))
        _until(found, lambda: load.open < _FEW_OPEN)
        with stood_still(found):
            load.gate = at + 2 * _ENOUGH_OPEN
            _until(found, lambda: load.open > _ENOUGH_OPEN, seconds=2.5)
            yield untouched(found)


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
            resume(found)
        time.sleep(0.3)
    return time.monotonic() - began


def _flower_has_heard(found: Ground) -> bool:
    """Tell whether Flower shows a delivery; on a slow machine it comes when all are done, and hears of one again."""
    if has_heard(flower_pages(found)):
        return True
    found.app.hints.send([Hint(row.id, "create_lead", "normal") for row in found.sql(_ANY_LEAD)])
    return False


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="entrega-faults-", ignore_cleanup_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds to draw")
    parser.add_argument("--seed", type=int, action="append", help="use this seed; may be given several times")
    parser.add_argument("--deliveries", type=int, default=20_000, help="commands for each seed")
    parser.add_argument("--faults", type=int, default=21, help="faults for each seed")
    parser.add_argument(
        "--kind", action="append", choices=tuple(KINDS), help="only this kind; may be given several times"
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="hand nothing more over after this long in all")
    parser.add_argument("--control", type=int, default=200, help="tasks of the naive worker")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where JSON is kept")
    return parser


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    sys.exit(main())
