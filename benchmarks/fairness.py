"""How long a message waits behind a bulk of 100,000: from its acceptance to the first byte at the provider.

`make bench-fairness` hands over the bulk in sets of 500, as `POST /v1/bulk` does; then two workers deliver it, and
meanwhile come, one by one and in turns, urgent messages of the same producer and account, messages of another account,
and messages of another producer. Goal: no urgent one waits longer than a second. Most of the bulk is never delivered.

    python -m benchmarks.fairness --waiting 100000 --messages 30
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.page import machine, markdown, write_section
from benchmarks.rivals.cases import CASES, Shape
from benchmarks.rivals.measuring import Numbers, begin
from benchmarks.rivals.stage import Stage, staged
from config.account import own_variables
from config.settings import Settings, load_settings
from delivery.intake import Item
from tasks.app import Entrega

GOAL_MS = 1000
_RESULTS = Path(__file__).parent / "results" / "fairness.json"
_CASE = next(each for each in CASES if each.name == "entrega-bulk")
_SHAPE = Shape(processes=2, threads=16)
_OTHER_ACCOUNT = "whatsapp:other"
_SET = 500
_EVERY_S = 0.2
_LOOK_EVERY_S = 2.0
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Late:
    """A kind of message that comes after the bulk.

    Attributes:
        goal_ms: What none of them may wait longer than; None where only the order was promised.
    """

    what: str
    producer: str
    options: Mapping[str, str]
    goal_ms: int | None = None


_LATE = (
    Late("urgent, same producer and account", "bulk", {"priority": "high"}, GOAL_MS),
    Late("another account, same producer", "bulk", {"account": _OTHER_ACCOUNT}),
    Late("another producer, same account", "another", {}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill, measure, print, keep; return 0 when the goal is met."""
    parser = argparse.ArgumentParser(description="How long a message waits behind a bulk.")
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--messages", type=int, default=30, help="of each kind")
    parser.add_argument("--quick", action="store_true", help="behind 3,000; keeps nothing")
    asked = parser.parse_args(arguments)
    if asked.quick:
        asked.waiting, asked.messages = 3_000, 3
    load_before = os.getloadavg()[0]
    with staged(_CASE, _SHAPE, Path(sys.executable)) as stage:
        figures, left = _run(stage, asked.waiting, asked.messages)
    kept = {**machine(load_before), "waiting": asked.waiting, "left": left, "goal_ms": GOAL_MS, "figures": figures}
    _print(kept)
    if not asked.quick:
        _RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        write_section("fairness", "make bench-fairness", kept, _section(kept))
    return 0 if all(_is_well(each) for each in figures) else 1


def _run(stage: Stage, waiting: int, messages: int) -> tuple[list[dict[str, Any]], int]:
    """Return the figures, and how much of the bulk was still to come when the last message was accepted."""
    begin(stage, Numbers())
    stage.provider.reset(0)
    app = _producer(stage)
    spec = app.specs["whatsapp"]
    values = {name: stage.variables[name] for name in own_variables(spec) if name in stage.variables}
    app.accounts.put(_OTHER_ACCOUNT, values, actor="bench", reason="benchmark")
    with _stood_still(stage):
        for first in range(0, waiting, _SET):
            app.intake.submit_many([_item(n) for n in range(first, min(waiting, first + _SET))], producer="bulk")
    accepted = _hand_over(app, range(waiting, waiting + messages * len(_LATE)))
    left = waiting - stage.provider.count()
    app.database.dispose()
    arrivals = _arrivals(stage, accepted)
    return [_figures(late, [arrivals[id_] - at for id_, at in accepted[late.what].items()]) for late in _LATE], left


@contextmanager
def _stood_still(stage: Stage) -> Iterator[None]:
    """Stop the workers for the while of a block, so that all of the bulk waits at its end."""
    workers = [psutil.Process(pid) for pid in stage.roles["workers"]]
    for each in workers:
        each.suspend()
    try:
        yield
    finally:
        for each in workers:
            each.resume()


def _producer(stage: Stage) -> Entrega:
    app = Entrega("bench")
    ours = {name.lower(): value for name, value in stage.variables.items() if name.lower() in Settings.model_fields}
    app.settings = load_settings(ours)
    return app


def _item(n: int, options: Mapping[str, str] | None = None) -> Item:
    body = {"to": f"+55119{90_000_000 + n}", "text": f"Seu pedido {n} foi enviado."}
    return Item("send_whatsapp", {**body, "options": dict(options or {})})


def _hand_over(app: Entrega, numbers: Sequence[int]) -> dict[str, dict[str, float]]:
    """Hand over one after the other, in turns; return when each was accepted, by kind and id."""
    accepted: dict[str, dict[str, float]] = {late.what: {} for late in _LATE}
    for n in numbers:
        late = _LATE[n % len(_LATE)]
        item = _item(n, late.options)
        id_ = app.intake.submit(item.kind, item.body, producer=late.producer).id
        accepted[late.what][id_] = time.monotonic()
        time.sleep(_EVERY_S)
    return accepted


def _arrivals(stage: Stage, accepted: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    wanted = {id_ for ids in accepted.values() for id_ in ids}
    deadline = time.monotonic() + _PATIENCE_S
    # A report of so many is long, and the provider answers nobody meanwhile: few looks.
    while wanted - (arrivals := stage.provider.report()["arrivals"]).keys():
        stage.check()
        if time.monotonic() > deadline:
            raise SystemExit(f"{len(wanted - arrivals.keys())} messages did not come in {_PATIENCE_S:.0f} s")
        time.sleep(_LOOK_EVERY_S)
    found: Mapping[str, float] = arrivals
    return found


def _figures(late: Late, waits: Sequence[float]) -> dict[str, Any]:
    ms = sorted(each * 1000 for each in waits)
    return {
        "what": late.what,
        "goal_ms": late.goal_ms,
        "messages": len(ms),
        "p50_ms": round(median(ms), 1),
        "max_ms": round(ms[-1], 1),
    }


def _is_well(one: Mapping[str, Any]) -> bool:
    return one["goal_ms"] is None or one["max_ms"] <= one["goal_ms"]


_COLUMNS = ("message", "how many", "p50 ms", "longest ms", "goal ms")


def _rows(figures: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            each["what"], f"{each['messages']}", f"{each['p50_ms']:.0f}", f"{each['max_ms']:.0f}",
            f"{each['goal_ms'] or ''}",
        )
        for each in figures
    ]  # fmt: skip


def _print(kept: Mapping[str, Any]) -> None:
    table = Table(*_COLUMNS, box=None, header_style="dim")
    for row in _rows(kept["figures"]):
        table.add_row(*row)
    Console(width=120).print(table, _said(kept), sep="\n")


def _said(kept: Mapping[str, Any]) -> str:
    return (
        f"{kept['left']:,} of the bulk's {kept['waiting']:,} were still to come when the last message was accepted.\n"
    )


def _section(kept: Mapping[str, Any]) -> str:
    return f"{_said(kept)}\n{markdown(_COLUMNS, _rows(kept['figures']))}"


if __name__ == "__main__":
    sys.exit(main())
