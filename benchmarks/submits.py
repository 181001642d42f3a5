"""How many durable submits one producer process makes in a second while nobody delivers: single ones, and sets.

`make bench-submits` measures them in turns, single ones from one thread and from many, beside the same producer handing
plain Celery tasks to the broker, which keeps no row. Goals: 1,500 a second one by one, 20,000 in sets.

    python -m benchmarks.submits --rounds 7
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.page import machine, markdown, write_section
from benchmarks.rivals.cases import BASELINE, CASES, Shape
from benchmarks.rivals.measuring import Numbers
from benchmarks.rivals.stage import Stage, staged
from benchmarks.rivals.usage import cpu_s

_RESULTS = Path(__file__).parent / "results" / "submits.json"


@dataclass(frozen=True)
class Way:
    """A way to submit.

    Attributes:
        case: The system's name in `benchmarks.rivals.cases`; its workers are not started.
        count: Submits in one measurement.
        goal: Submits in a second; None where the way is there to compare with.
    """

    what: str
    case: str
    count: int
    goal: int | None = None
    threads: int = 1


_WAYS = (
    Way("one by one", "entrega-single", 1_000),
    Way("one by one, 32 threads", "entrega-single", 4_000, 1_500, threads=32),
    Way("in sets of 500", "entrega-bulk", 10_000, 20_000),
    Way("plain Celery, to the broker only", BASELINE, 1_000),
    Way("plain Celery, to the broker only, 32 threads", BASELINE, 4_000, threads=32),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; return 0 when the goals are met."""
    parser = argparse.ArgumentParser(description="How many durable submits one producer makes in a second.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one round; keeps nothing")
    asked = parser.parse_args(arguments)
    load_before = os.getloadavg()[0]
    figures = _measured(1 if asked.quick else asked.rounds)
    kept = {**machine(load_before), "rounds": asked.rounds, "figures": figures}
    _print(figures)
    if not asked.quick:
        _RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        write_section("submits", "make bench-submits", kept, markdown(_COLUMNS, _rows(figures)))
    return 0 if all(each["goal"] is None or each["per_s"] >= each["goal"] for each in figures) else 1


def _measured(rounds: int) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        stages = [stack.enter_context(_staged(each)) for each in _WAYS]
        numbers = [Numbers() for _ in _WAYS]
        found: list[list[Mapping[str, float]]] = [[] for _ in _WAYS]
        for number in range(rounds + 1):  # the first one warms up
            for place, way in enumerate(_WAYS):
                one = _one(stages[place], way, numbers[place])
                if number or rounds == 1:
                    found[place].append(one)
    return [_medians(way, some) for way, some in zip(_WAYS, found, strict=True)]


def _staged(way: Way) -> Any:
    case = next(each for each in CASES if each.name == way.case)
    return staged(replace(case, parts=lambda _: ()), Shape(processes=1, threads=1), Path(sys.executable))


def _one(stage: Stage, way: Way, numbers: Numbers) -> Mapping[str, float]:
    before = {role: cpu_s(pids) for role, pids in stage.roles.items()}
    first = numbers.take(way.count)
    asked = {"first": first, "count": way.count, "per_second": None, "at_once": stage.case.at_once}
    told = stage.producer.ask(do="submit", threads=way.threads, **asked)
    spent = {role: (cpu_s(pids) - before[role]) / way.count * 1000 for role, pids in stage.roles.items()}
    seconds = max(told["accepted"]) - told["began"][0]
    return {"per_s": way.count / seconds, "producer_ms": spent["producer"], "postgres_ms": spent.get("postgres", 0.0)}


def _medians(way: Way, found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    middle = {name: round(median(each[name] for each in found), 3) for name in found[0]}
    return {"what": way.what, "goal": way.goal, **middle, "quickest": round(max(each["per_s"] for each in found), 1)}


_COLUMNS = ("submits", "goal /s", "median /s", "quickest /s", "CPU ms, producer", "Postgres")


def _rows(figures: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            each["what"], f"{each['goal'] or ''}", f"{each['per_s']:.0f}", f"{each['quickest']:.0f}",
            f"{each['producer_ms']:.2f}", f"{each['postgres_ms']:.2f}",
        )
        for each in figures
    ]  # fmt: skip


def _print(figures: Sequence[Mapping[str, Any]]) -> None:
    table = Table(*_COLUMNS, box=None, header_style="dim")
    for row in _rows(figures):
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
