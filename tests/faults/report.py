"""What a run showed: a table of faults, the figures, the promises; printed for people and kept as JSON."""

import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.faults.checker import Books, Promise, both_unproved
from tests.faults.ground import Ground
from tests.faults.naive import Control
from tests.faults.pace import Pace
from tests.faults.plan import Plan
from tests.faults.recovery import Struck, attempted, freed_after_death, in_hand, next_success, percentile

_BY_EVIDENCE = """
    SELECT count(DISTINCT d.id) FROM deliveries d JOIN attempts a ON a.delivery_id = d.id
    WHERE d.kind = 'send_whatsapp' AND d.state = 'succeeded' AND (a.outcome = 'uncertain' OR a.code = 'confirmed')
"""
_DEAD = "SELECT kind, code, count(*) AS n FROM deliveries WHERE state = 'dead' GROUP BY kind, code"
WIPE_LIMIT_S, DEATH_LIMIT_S = 15.0, 60.0
_FIGURES = (
    "deliveries", "seconds", "load_s", "rest_s", "refusals", "repeats", "canceled", "foreign_sent", "events",
    "by_evidence", "held", "fallbacks", "lost", "doubled", "unproved", "both_unproved",
)  # fmt: skip
_console = Console(width=120)


@dataclass(frozen=True)
class FaultReport:
    """One fault that came.

    Attributes:
        target: What it struck; None when nothing was there to strike.
        struck: False when nothing was struck: a part was down already, or nobody passed a failpoint.
        in_hand: Attempts under way at that moment.
        recovery_s: Until an attempt that began after it succeeded; None where nothing succeeded any more.
        wiped_s: For each delivery that a wipe of Redis left without a hint, until its first attempt.
        freed_s: For each delivery that died with a worker, until it was free again or uncertain.
    """

    kind: str
    handed_over: int
    target: str | None
    struck: bool
    in_hand: int
    recovery_s: float | None
    wiped_s: tuple[float, ...]
    freed_s: tuple[float, ...]


@dataclass(frozen=True)
class SeedReport:
    """One seed's run.

    Attributes:
        whole: Every command was handed over and every fault came.
        seconds: From the start of the system to the last check.
        by_evidence: WhatsApp messages whose answer was lost or late, and that a status event settled.
        held: How often a wrong certificate held an account.
        unproved: Dead deliveries for a person to look at whose effect did happen: never sent twice, not lost.
        both_unproved: Fallbacks that took effect for a command of which nobody could know that it had.
        paces: By account and span: the limit, the fullest span, the fullest one touched by a loss of Redis's memory.
    """

    seed: int
    deliveries: int
    planned_faults: int
    whole: bool
    seconds: float
    load_s: float
    rest_s: float
    states: dict[str, int]
    refusals: int
    repeats: int
    canceled: int
    foreign_sent: int
    events: int
    by_evidence: int
    held: int
    fallbacks: int
    lost: int
    doubled: int
    unproved: int
    both_unproved: int
    dead: dict[str, int]
    paces: dict[str, dict[str, int]]
    faults: tuple[FaultReport, ...]
    promises: tuple[Promise, ...]

    @property
    def kept(self) -> bool:
        """True when the run was whole and no promise broke."""
        return self.whole and not any(each.broken for each in self.promises)


@dataclass(frozen=True)
class Course:
    """How a run went, apart from its books.

    Attributes:
        whole: Every command was handed over and every fault came.
        events: Status events that came by webhook, repeats aside.
    """

    whole: bool
    seconds: float
    load_s: float
    rest_s: float
    events: int


def weigh(
    ground: Ground, plan: Plan, books: Books, promises: Sequence[Promise], struck: Sequence[Struck], course: Course
) -> SeedReport:
    """Put the figures of one seed together; recovery beyond its limit is a broken promise too."""
    faults = tuple(_fault(ground, each) for each in struck)
    dead = [id_ for id_, row in books.rows.items() if row.state == "dead"]
    return SeedReport(
        seed=plan.seed, deliveries=plan.deliveries, planned_faults=len(plan.steps), whole=course.whole,
        seconds=round(course.seconds, 1), load_s=round(course.load_s, 1), rest_s=round(course.rest_s, 1),
        states=dict(Counter(books.states.values())), refusals=books.answers.refusals, repeats=books.answers.repeats,
        canceled=len(books.answers.canceled), foreign_sent=ground.foreign_sent, events=course.events,
        by_evidence=ground.sql(_BY_EVIDENCE)[0][0],
        held=len(ground.held), fallbacks=sum(row.fallback_of is not None for row in books.rows.values()),
        lost=sum(id_ not in books.rows for id_ in books.answers.promised.values())
        + sum(row.state == "succeeded" and not books.effects[id_] for id_, row in books.rows.items()),
        doubled=sum(n > 1 for n in books.effects.values()),
        unproved=sum(books.effects[id_] > 0 for id_ in dead), both_unproved=both_unproved(books),
        dead={f"{row.kind} {row.code}": row.n for row in ground.sql(_DEAD)},
        paces={f"{each.account} in {each.span_s:g} s": _pace(each) for each in books.paces},
        faults=faults, promises=(*promises, *_recovery_promises(faults)),
    )  # fmt: skip


def _pace(pace: Pace) -> dict[str, int]:
    return {"limit": pace.limit, "most": pace.most, "after_loss": pace.after_loss}


def _fault(ground: Ground, struck: Struck) -> FaultReport:
    hit = struck.target is not None and (struck.note is None or struck.note in ground.struck_at_points())
    return FaultReport(
        kind=struck.kind, handed_over=struck.handed_over, target=struck.target, struck=hit,
        in_hand=in_hand(ground, struck), recovery_s=next_success(ground, struck),
        wiped_s=tuple(attempted(ground, struck)), freed_s=tuple(freed_after_death(ground, struck)),
    )  # fmt: skip


def _recovery_promises(faults: Sequence[FaultReport]) -> list[Promise]:
    wiped = percentile([s for each in faults for s in each.wiped_s], 0.99) or 0.0
    freed = percentile([s for each in faults for s in each.freed_s], 0.99) or 0.0
    slow = [f"p99 {wiped:.1f} s"] if wiped > WIPE_LIMIT_S else []
    late = [f"p99 {freed:.1f} s"] if freed > DEATH_LIMIT_S else []
    return [
        Promise(f"after a wiped Redis a first attempt within {WIPE_LIMIT_S:.0f} s (p99)", len(slow), tuple(slow)),
        Promise(f"what a dead worker held is free within {DEATH_LIMIT_S:.0f} s (p99)", len(late), tuple(late)),
    ]


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
    names = ("fault", "count", "struck", "in hand", "next success p50 / max s", "wiped p99 s", "freed p99 s")
    table = Table(*names, box=None, header_style="dim")
    for kind in sorted({each.kind for each in faults}):
        ours = [each for each in faults if each.kind == kind]
        table.add_row(
            kind, str(len(ours)), str(sum(each.struck for each in ours)), str(sum(each.in_hand for each in ours)),
            percentile_words([each.recovery_s for each in ours if each.recovery_s is not None], (0.5, 1.0)),
            percentile_words([s for each in ours for s in each.wiped_s], (0.99,)),
            percentile_words([s for each in ours for s in each.freed_s], (0.99,)),
        )  # fmt: skip
    _console.print(table)


def _print_figures(reports: Sequence[SeedReport]) -> None:
    table = Table("figure", *(f"seed {each.seed}" for each in reports), box=None, header_style="dim")
    for name in _FIGURES:
        table.add_row(name, *(str(getattr(each, name)) for each in reports))
    _add_rows(table, "state", [each.states for each in reports])
    _add_rows(table, "dead", [each.dead for each in reports])
    _add_rows(table, "most calls", [{k: _pace_words(v) for k, v in each.paces.items()} for each in reports])
    for name, field in (("after a wipe, first attempt", "wiped_s"), ("worker death, freed after", "freed_s")):
        times = [[s for fault in each.faults for s in getattr(fault, field)] for each in reports]
        cells = [f"{percentile_words(each, (0.5, 0.99, 1.0))} of {len(each)}" for each in times]
        table.add_row(f"{name}: p50 / p99 / max s", *cells)
    _console.print(table)


def _add_rows(table: Table, title: str, columns: Sequence[Mapping[str, object]]) -> None:
    for name in sorted({name for each in columns for name in each}):
        table.add_row(f"{title} {name}", *(str(each.get(name, 0)) for each in columns))


def _pace_words(pace: Mapping[str, int]) -> str:
    after = f", {pace['after_loss']} after a wipe" if pace["after_loss"] else ""
    return f"{pace['most']} of {pace['limit']}{after}"


def percentile_words(values: Sequence[float], shares: Sequence[float]) -> str:
    """Return these percentiles as one cell."""
    return " / ".join(_shown(percentile(values, share)) for share in shares)


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
