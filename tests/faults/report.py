"""What a run showed: a table of faults, the figures, the promises; printed for people and kept as JSON."""

import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.faults.checker import Books, Promise
from tests.faults.faults import DEATHS, WIPES
from tests.faults.ground import Ground
from tests.faults.naive import Control
from tests.faults.plan import Plan
from tests.faults.recovery import Struck, attempted, first_success, freed_after_death, percentile

_DEAD = "SELECT kind, code, count(*) AS n FROM deliveries WHERE state = 'dead' GROUP BY kind, code"
WIPE_LIMIT_S, DEATH_LIMIT_S = 15.0, 60.0
_console = Console(width=110)


@dataclass(frozen=True)
class FaultReport:
    """One fault that struck.

    Attributes:
        recovery_s: Until the first success of what was waiting then; None where nothing succeeded any more.
        freed_s: For each delivery that died with a worker, until it was free again.
        waiting: Deliveries never attempted before it, and how long 99 % of them then waited for their first attempt.
    """

    kind: str
    handed_over: int
    recovery_s: float | None
    freed_s: tuple[float, ...]
    waiting: int
    waiting_p99_s: float | None


@dataclass(frozen=True)
class SeedReport:
    """One seed's run.

    Attributes:
        whole: Every command was handed over and every fault struck.
        unproved: Dead deliveries for a person to look at whose effect did happen: never sent twice, not lost.
    """

    seed: int
    deliveries: int
    planned_faults: int
    whole: bool
    load_s: float
    rest_s: float
    states: dict[str, int]
    refusals: int
    repeats: int
    foreign_sent: int
    lost: int
    doubled: int
    unproved: int
    dead: dict[str, int]
    faults: tuple[FaultReport, ...]
    promises: tuple[Promise, ...]

    @property
    def kept(self) -> bool:
        """True when the run was whole and no promise broke."""
        return self.whole and not any(each.broken for each in self.promises)


def weigh(
    ground: Ground, plan: Plan, books: Books, promises: Sequence[Promise], struck: Sequence[Struck],
    *, whole: bool, load_s: float, rest_s: float,
) -> SeedReport:  # fmt: skip
    """Put the figures of one seed together; recovery beyond its limit is a broken promise too."""
    faults = tuple(_fault(ground, each) for each in struck)
    dead = [id_ for id_, state in books.rows.items() if state == "dead"]
    return SeedReport(
        seed=plan.seed, deliveries=plan.deliveries, planned_faults=len(plan.steps), whole=whole,
        load_s=round(load_s, 1), rest_s=round(rest_s, 1), states=dict(Counter(books.rows.values())),
        refusals=books.answers.refusals, repeats=books.answers.repeats, foreign_sent=ground.foreign_sent,
        lost=sum(id_ not in books.rows for id_ in books.answers.promised.values())
        + sum(state == "succeeded" and not books.effects[id_] for id_, state in books.rows.items()),
        doubled=sum(n > 1 for n in books.effects.values()),
        unproved=sum(books.effects[id_] > 0 for id_ in dead),
        dead={f"{row.kind} {row.code}": row.n for row in ground.sql(_DEAD)},
        faults=faults, promises=(*promises, *_recovery_promises(faults)),
    )  # fmt: skip


def _fault(ground: Ground, struck: Struck) -> FaultReport:
    waited = attempted(ground, struck)
    freed_s = tuple(freed_after_death(ground, struck))
    first = first_success(ground, struck)
    return FaultReport(struck.kind, struck.handed_over, first, freed_s, len(waited), percentile(waited, 0.99))


def _recovery_promises(faults: Sequence[FaultReport]) -> list[Promise]:
    slow = [
        f"{each.recovery_s:.1f} s" for each in faults if each.kind in WIPES and (each.recovery_s or 0) > WIPE_LIMIT_S
    ]
    p99 = percentile(freed(faults), 0.99) or 0.0
    late = [f"p99 {p99:.1f} s"] if p99 > DEATH_LIMIT_S else []
    return [
        Promise(f"first success within {WIPE_LIMIT_S:.0f} s of a wiped Redis", len(slow), tuple(slow[:5])),
        Promise(f"what a dead worker held is free within {DEATH_LIMIT_S:.0f} s (p99)", len(late), tuple(late)),
    ]


def freed(faults: Sequence[FaultReport]) -> list[float]:
    """Return how long each delivery that died with a worker was out of reach, in seconds."""
    return [seconds for each in faults if each.kind in DEATHS for seconds in each.freed_s]


def print_start(plan: Plan) -> None:
    """Say which seed runs."""
    _console.print(
        f"seed [bold]{plan.seed}[/]: {plan.deliveries} deliveries, {len(plan.steps)} faults of "
        f"{len({each.kind for each in plan.steps})} kinds"
    )


def print_all(reports: Sequence[SeedReport], control: Control) -> bool:
    """Print everything; return True when all promises were kept and the control broke one."""
    _print_faults([fault for each in reports for fault in each.faults])
    _print_figures(reports)
    _print_promises(reports)
    words = f"naive worker: {control.lost} of {control.tasks} lost, {control.doubled} doubled"
    _console.print(words + ("" if control.sees else "; [red]this run cannot see loss or duplicates[/]"))
    good = all(each.kept for each in reports) and control.sees
    _console.print("[green]every promise was kept[/]" if good else "[red]not every promise was kept[/]")
    return good


def _print_faults(faults: Sequence[FaultReport]) -> None:
    table = Table(
        "fault",
        "count",
        "first success p50 s",
        "max s",
        "waiting then",
        "their first attempt p99 s",
        box=None,
        header_style="dim",
    )
    for kind, count in sorted(Counter(each.kind for each in faults).items()):
        times = [each.recovery_s for each in faults if each.kind == kind and each.recovery_s is not None]
        table.add_row(
            kind,
            str(count),
            _shown(percentile(times, 0.5)),
            _shown(max(times, default=None)),
            str(sum(each.waiting for each in faults if each.kind == kind)),
            _shown(
                max((each.waiting_p99_s or 0 for each in faults if each.kind == kind and each.waiting), default=None)
            ),
        )
    _console.print(table)


def _print_figures(reports: Sequence[SeedReport]) -> None:
    table = Table("figure", *(f"seed {each.seed}" for each in reports), box=None, header_style="dim")
    for name in (
        "deliveries",
        "load_s",
        "rest_s",
        "refusals",
        "repeats",
        "foreign_sent",
        "lost",
        "doubled",
        "unproved",
    ):
        table.add_row(name, *(str(getattr(each, name)) for each in reports))
    for state in sorted({state for each in reports for state in each.states}):
        table.add_row(f"state {state}", *(str(each.states.get(state, 0)) for each in reports))
    for cause in sorted({cause for each in reports for cause in each.dead}):
        table.add_row(f"dead {cause}", *(str(each.dead.get(cause, 0)) for each in reports))
    times = [percentile_words(freed(each.faults)) for each in reports]
    table.add_row("worker death: freed after, p50 / p99 / max s", *times)
    _console.print(table)


def percentile_words(values: Sequence[float]) -> str:
    """Return p50, p99 and the longest, as one cell."""
    return " / ".join(_shown(percentile(values, share)) for share in (0.5, 0.99, 1.0))


def _print_promises(reports: Sequence[SeedReport]) -> None:
    for each in reports:
        if not each.whole:
            _console.print(
                f"[red]seed {each.seed} was not whole: {len(each.faults)} of {each.planned_faults} faults[/]"
            )
        for promise in each.promises:
            if promise.broken:
                _console.print(
                    f"[red]seed {each.seed} broke: {promise.name}: {promise.broken}[/]", *promise.examples, sep="\n  "
                )


def _shown(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def keep(reports: Sequence[SeedReport], control: Control, folder: Path) -> None:
    """Write the run as JSON, under its time and as `last-run.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    machine = {"cores": psutil.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    kept = {
        "at": now.isoformat(timespec="seconds"), "machine": machine, "kept": all(each.kept for each in reports),
        "control": asdict(control), "seeds": [asdict(each) for each in reports],
    }  # fmt: skip
    text = json.dumps(kept, indent=1, ensure_ascii=False) + "\n"
    for name in (f"run-{now:%Y%m%d-%H%M%S}.json", "last-run.json"):
        (folder / name).write_text(text, encoding="utf-8")
