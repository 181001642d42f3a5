"""Whether memory stays flat over 200,000 deliveries, and how many bytes of disk and log a delivery takes.

`make bench-soak` runs two workers for about half an hour. After each batch it looks at the memory of every worker; the
slope is a straight line through all looks but the first quarter, while caches fill. Goal: over the rest of the run that
line rises by at most a twentieth of what the worker held at its beginning. Nothing may be lost or sent twice.

    python -m benchmarks.soak --deliveries 200000 --batch 2000
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import Engine, text

from benchmarks.page import machine, markdown, write_section
from benchmarks.rivals.cases import CASES, Shape
from benchmarks.rivals.measuring import Load, Numbers, begin, load
from benchmarks.rivals.showing import total
from benchmarks.rivals.stage import Stage, staged
from ledger.database import connect

GOAL = 0.05
_RESULTS = Path(__file__).parent / "results" / "soak.json"
_CASE = next(each for each in CASES if each.name == "entrega-bulk")
_SHAPE = Shape(processes=2, threads=16)
_PATIENCE_S = 300.0
_MIB = 2**20
_PER = 100_000
_DISK = text("""
    SELECT sum(pg_table_size(relid))::bigint AS tables, sum(pg_indexes_size(relid))::bigint AS indexes,
           pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS log
    FROM pg_stat_user_tables
""")


@dataclass(frozen=True)
class Look:
    """What was seen after a batch.

    Attributes:
        done: Deliveries so far.
        rss: MiB by process: "worker1", "worker2", "beat".
        cpu_s: CPU seconds for 1,000 deliveries of the batch.
    """

    done: int
    rss: Mapping[str, float]
    cpu_s: float
    per_s: float
    lost: int
    double: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, keep; return 0 when memory is flat and nothing was lost or sent twice."""
    parser = argparse.ArgumentParser(description="Whether memory stays flat, and what a delivery takes on disk.")
    parser.add_argument("--deliveries", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=2_000)
    parser.add_argument("--most-minutes", type=float, default=90.0, help="then it ends with what it has")
    parser.add_argument("--quick", action="store_true", help="1,600 deliveries; keeps nothing")
    asked = parser.parse_args(arguments)
    if asked.quick:
        asked.deliveries, asked.batch = 1_600, 200
    load_before = os.getloadavg()[0]
    with staged(_CASE, _SHAPE, Path(sys.executable)) as stage:
        looks, disk = _run(stage, asked.deliveries, asked.batch, asked.most_minutes * 60)
    kept = {**machine(load_before), **_kept(looks, disk)}
    _print(kept)
    if not asked.quick:
        _RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        write_section("soak", "make bench-soak", kept, _section(kept))
    return 0 if kept["flat"] and not kept["lost"] and not kept["double"] else 1


def _run(stage: Stage, deliveries: int, batch: int, most_s: float) -> tuple[list[Look], Mapping[str, float]]:
    numbers = Numbers()
    begin(stage, numbers)
    engine = connect(stage.variables["DATABASE_URL"], name="bench")
    before, end = _disk(engine), time.monotonic() + most_s
    looks: list[Look] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("delivering", total=deliveries)
        while (done := looks[-1].done if looks else 0) < deliveries and time.monotonic() < end:
            looks.append(_look(stage, done + batch, load(stage, 0, numbers, batch, None, _PATIENCE_S)))
            progress.update(bar, completed=done + batch)
    after = _disk(engine)
    engine.dispose()
    return looks, {name: (after[name] - before[name]) / looks[-1].done for name in after}


def _look(stage: Stage, done: int, cost: Load) -> Look:
    rss = {name: psutil.Process(child.pid).memory_info().rss / _MIB for name, child in stage.children.items()}
    return Look(done, rss, total(cost.cpu), cost.per_s, cost.lost, cost.double)


def _disk(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return dict(connection.execute(_DISK).one()._mapping)  # noqa: SLF001 - SQLAlchemy's public name


def _kept(looks: Sequence[Look], disk: Mapping[str, float]) -> dict[str, Any]:
    memory = {name: _memory(looks, name) for name in looks[0].rss}
    half = len(looks) // 2
    return {
        "deliveries": looks[-1].done,
        "goal": GOAL,
        "flat": all(each["rise"] <= GOAL for each in memory.values()),
        "memory": memory,
        "bytes_per_delivery": {name: round(size) for name, size in disk.items()},
        "cpu_s_for_1000": {
            "first_half": round(median(each.cpu_s for each in looks[:half]), 2),
            "second_half": round(median(each.cpu_s for each in looks[half:]), 2),
        },
        "per_s": round(median(each.per_s for each in looks), 1),
        "lost": sum(each.lost for each in looks),
        "double": sum(each.double for each in looks),
        "rss_mib": [{"done": each.done, **{name: round(mib, 1) for name, mib in each.rss.items()}} for each in looks],
    }


def _memory(looks: Sequence[Look], name: str) -> dict[str, float]:
    """Return one process's memory at begin and end, its slope for 100,000 deliveries, and its relative rise."""
    settled = looks[len(looks) // 4 :]
    line = linear_regression([each.done for each in settled], [each.rss[name] for each in settled])
    rise = line.slope * (settled[-1].done - settled[0].done)
    return {
        "first_mib": round(looks[0].rss[name], 1),
        "settled_mib": round(settled[0].rss[name], 1),
        "last_mib": round(looks[-1].rss[name], 1),
        "slope_mib": round(line.slope * _PER, 2),
        "rise": round(rise / settled[0].rss[name], 4),
    }


_COLUMNS = ("process", "MiB at first", "after a quarter", "at the end", "MiB more for 100,000", "rise")


def _rows(kept: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name, f"{each['first_mib']:.0f}", f"{each['settled_mib']:.0f}", f"{each['last_mib']:.0f}",
            f"{each['slope_mib']:+.1f}", f"{each['rise']:+.1%}",
        )
        for name, each in kept["memory"].items()
    ]  # fmt: skip


def _said(kept: Mapping[str, Any]) -> str:
    disk, cpu = kept["bytes_per_delivery"], kept["cpu_s_for_1000"]
    return (
        f"{kept['deliveries']:,} deliveries, {kept['lost']} lost, {kept['double']} sent twice. A delivery takes "
        f"{disk['tables']:,} bytes in tables, {disk['indexes']:,} in indexes, and {disk['log']:,} in the write-ahead "
        f"log. CPU for 1,000: {cpu['first_half']:.2f} s in the first half, {cpu['second_half']:.2f} s in the second."
    )


def _print(kept: Mapping[str, Any]) -> None:
    table = Table(*_COLUMNS, box=None, header_style="dim")
    for row in _rows(kept):
        table.add_row(*row)
    console = Console(width=120, highlight=False)
    console.print(table)
    console.print(_said(kept))


def _section(kept: Mapping[str, Any]) -> str:
    return _said(kept) + "\n\n" + markdown(_COLUMNS, _rows(kept))


if __name__ == "__main__":
    sys.exit(main())
