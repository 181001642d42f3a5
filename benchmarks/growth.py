"""What a delivery costs when the system grows: rows in the ledger, worker processes, accounts.

`make bench-growth` measures each size with everything else alike, all sizes of one kind alive at the same time and
measured in turns, so that whatever else the machine does meets all of them. The cost is CPU time for 1,000 deliveries
(bulk submits, a provider that answers at once). Goal: at most 1.2 times the cost with the most rows in the ledger as
with the fewest. The large ledger is filled by SQL; five million rows take some minutes and about 10 GB in TMPDIR.

    python -m benchmarks.growth --rows 1000 100000 5000000 --deliveries 2000 --rounds 3
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from benchmarks.filling import fill
from benchmarks.page import machine, markdown, write_section
from benchmarks.rivals.cases import CASES, Case, Shape
from benchmarks.rivals.measuring import Load, Numbers, begin, load
from benchmarks.rivals.showing import total
from benchmarks.rivals.stage import Stage, staged
from ledger.database import connect

GOAL = 1.2
_RESULTS = Path(__file__).parent / "results" / "growth.json"
_ONE = next(each for each in CASES if each.name == "entrega-bulk")
_PATIENCE_S = 300.0
_THREADS = 16
_COLUMNS = (
    "what grows", "size", "CPU s for 1,000", "ratio", "workers", "Postgres", "Valkey", "quickest", "dearest",
    "deliveries/s", "lost", "double",
)  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """One size.

    Attributes:
        kind: What grows: "rows", "processes" or "accounts".
        size: How far.
    """

    kind: str
    size: int
    rows: int
    processes: int = 2
    accounts: int = 1


@dataclass
class Ground:
    """One size that runs."""

    setup: Setup
    stage: Stage
    numbers: Numbers = field(default_factory=Numbers)
    loads: list[Load] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; return 0 when the goal is met and nothing was lost or sent twice."""
    asked = _asked(arguments)
    load_before = os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    for setups in _setups(asked.rows, asked.kinds):
        with _grounds(setups) as grounds:
            for number in range(asked.rounds):
                for each in grounds if number % 2 else reversed(grounds):
                    each.loads.append(load(each.stage, 0, each.numbers, asked.deliveries, None, _PATIENCE_S))
            rows += [_kept(each, grounds[0]) for each in grounds]
    kept = {**machine(load_before), "goal": GOAL, "deliveries": asked.deliveries, "rounds": asked.rounds, "sizes": rows}
    _print(rows)
    if asked.keep:
        _RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        write_section("growth", "make bench-growth", kept, _section(kept))
    return 0 if all(_is_well(each) for each in rows) else 1


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a delivery costs when the system grows.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 100_000, 5_000_000], help="in the ledger")
    parser.add_argument(
        "--kinds", nargs="+", choices=["rows", "processes", "accounts"], help="only these; keeps nothing"
    )
    parser.add_argument("--deliveries", type=int, default=2_000, help="in each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two small ledgers, one round; keeps nothing")
    asked = parser.parse_args(arguments)
    asked.keep = not asked.quick and asked.kinds is None
    asked.kinds = asked.kinds or ["rows", "processes", "accounts"]
    if asked.quick:
        asked.rows, asked.deliveries, asked.rounds = [1_000, 20_000], 300, 1
    return asked


def _setups(rows: Sequence[int], kinds: Sequence[str]) -> list[list[Setup]]:
    few = min(rows)
    all_of_them = {
        "rows": [Setup("rows", each, each) for each in sorted(rows)],
        "processes": [Setup("processes", each, few, processes=each) for each in (1, 2, 4)],
        "accounts": [Setup("accounts", each, few, accounts=each) for each in (1, 50)],
    }
    return [all_of_them[kind] for kind in kinds]


@contextmanager
def _grounds(setups: Sequence[Setup]) -> Iterator[list[Ground]]:
    with ExitStack() as stack:
        grounds = []
        for each in setups:
            shape = Shape(each.processes, _THREADS)
            stage = stack.enter_context(staged(_case(each.accounts), shape, Path(sys.executable)))
            grounds.append(Ground(each, stage))
            _fill(stage, each)
        for ground in grounds:
            begin(ground.stage, ground.numbers)
            load(ground.stage, 0, ground.numbers, 500, None, _PATIENCE_S)  # warms up
        yield grounds


def _case(accounts: int) -> Case:
    return _ONE if accounts == 1 else replace(_ONE, module="entrega_accounts")


def _fill(stage: Stage, setup: Setup) -> None:
    began = time.monotonic()
    engine = connect(stage.variables["DATABASE_URL"], name="bench")
    fill(engine, setup.rows)
    with engine.connect() as connection:
        size: int = connection.scalar(text("SELECT pg_database_size(current_database())")) or 0
    engine.dispose()
    said = f"{setup.rows:,} rows filled in {time.monotonic() - began:.0f} s: {size / 2**20:,.0f} MiB"
    Console(stderr=True, highlight=False).print(said)


def _kept(ground: Ground, least: Ground) -> dict[str, Any]:
    costs = [total(each.cpu) for each in ground.loads]
    roles = ground.loads[0].cpu
    return {
        "kind": ground.setup.kind,
        "size": ground.setup.size,
        "rows": ground.setup.rows,
        "processes": ground.setup.processes,
        "accounts": ground.setup.accounts,
        "cpu_s": round(median(costs), 2),
        "ratio": round(median(costs) / median(total(each.cpu) for each in least.loads), 2),
        "cpu_s_of_each_round": [round(each, 2) for each in costs],
        "cpu_s_by_role": {role: round(median(each.cpu[role] for each in ground.loads), 2) for role in roles},
        "per_s": round(median(each.per_s for each in ground.loads), 1),
        "lost": sum(each.lost for each in ground.loads),
        "double": sum(each.double for each in ground.loads),
    }


def _is_well(one: Mapping[str, Any]) -> bool:
    within = one["kind"] != "rows" or one["ratio"] <= GOAL
    return within and not one["lost"] and not one["double"]


def _rows(sizes: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            each["kind"], f"{each['size']:,}", f"{each['cpu_s']:.2f}", f"{each['ratio']:.2f}",
            f"{each['cpu_s_by_role']['workers'] + each['cpu_s_by_role']['beat']:.2f}",
            f"{each['cpu_s_by_role']['postgres']:.2f}", f"{each['cpu_s_by_role']['valkey']:.2f}",
            f"{min(each['cpu_s_of_each_round']):.2f}", f"{max(each['cpu_s_of_each_round']):.2f}",
            f"{each['per_s']:.0f}", f"{each['lost']}", f"{each['double']}",
        )
        for each in sizes
    ]  # fmt: skip


def _print(sizes: Sequence[Mapping[str, Any]]) -> None:
    table = Table(*_COLUMNS, box=None, header_style="dim")
    for row in _rows(sizes):
        table.add_row(*row)
    Console(width=140).print(table)


def _section(kept: Mapping[str, Any]) -> str:
    said = (
        f"Medians of {kept['rounds']} rounds of {kept['deliveries']:,} deliveries, the sizes of one kind in turns. "
        "CPU: seconds for 1,000 deliveries, workers with beat, without the producer. Ratio: to the smallest size of "
        "its kind.\n\n"
    )
    return said + markdown(_COLUMNS, _rows(kept["sizes"]))


if __name__ == "__main__":
    sys.exit(main())
