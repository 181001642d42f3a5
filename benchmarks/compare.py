"""Entrega and its rivals side by side: one run, one machine, the same calls in flight, the same provider, in turns.

`make bench` runs it in full, prints medians and ratios, keeps them in `benchmarks/results/rivals.json` and draws them
in `docs/performance.md`. `make bench-quick` shows in three minutes that every system runs; it keeps nothing. How each
rival is set up, and after which page of its documentation, stands in `benchmarks/rivals/`. A system that fails is
shown with its reason. Compare figures of one run with each other only: other work on the machine moves them all.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.page import machine
from benchmarks.rivals.cases import CASES, Case, Shape
from benchmarks.rivals.measuring import Figures, Numbers, measure, medians
from benchmarks.rivals.showing import draw, show
from benchmarks.rivals.stage import ROOT, CaseFailedError, staged
from delivery.lane import Lanes
from sandbox.doors import SandboxError

_RESULTS = Path(__file__).parent / "results" / "rivals.json"
_PAGE = ROOT / "docs" / "performance.md"
_RIVALS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
_QUICK_SECONDS = 0.5


@dataclass(frozen=True)
class Run:
    """What is to be run.

    Attributes:
        seconds: How long a backlog, and then half its rate, should go on.
        rivals_python: The interpreter that has the rivals' packages.
        keep: Write the results and draw the page.
    """

    cases: tuple[Case, ...]
    shape: Shape
    latencies_ms: tuple[int, ...]
    rounds: int
    seconds: float
    rivals_python: Path
    keep: bool


@dataclass
class Found:
    """What was found so far."""

    figures: list[Figures] = field(default_factory=list)
    failures: list[Mapping[str, Any]] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, keep; return 0 when every system ran, and Entrega lost and doubled nothing."""
    run = _run(arguments)
    load_before = round(os.getloadavg()[0], 2)
    found = Found()
    for number in range(1, run.rounds + 1):
        # Back and forth, so that a machine that gets warmer or busier does not favour the first.
        for case in run.cases if number % 2 else reversed(run.cases):
            _try(run, case, number, found)
    kept = _kept(run, found, load_before)
    show(kept)
    if run.keep:
        _RESULTS.parent.mkdir(exist_ok=True)
        _RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        draw(kept, _PAGE)
    return 1 if found.failures or _broken(found.figures) else 0


def _run(arguments: Sequence[str] | None) -> Run:
    names = [each.name for each in CASES]
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small counts, one round, keeps nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--processes", type=int, default=2, help="worker processes of each system")
    parser.add_argument("--threads", type=int, default=Lanes.at_once, help="calls in flight in each process")
    parser.add_argument("--submitters", type=int, default=1, help="threads that submit one by one; more keep nothing")
    parser.add_argument("--latencies", type=int, nargs="+", default=[0, 100], help="of the provider, in ms")
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="only these; keeps nothing")
    parser.add_argument("--python", type=Path, default=_RIVALS_PYTHON, help="with the packages of the rivals")
    asked = parser.parse_args(arguments)
    return Run(
        cases=tuple(each for each in CASES if each.name in asked.cases),
        shape=Shape(asked.processes, asked.threads, asked.submitters),
        latencies_ms=tuple(asked.latencies),
        rounds=1 if asked.quick else asked.rounds,
        seconds=_QUICK_SECONDS if asked.quick else asked.seconds,
        rivals_python=asked.python,
        keep=not asked.quick and set(asked.cases) == set(names) and asked.submitters == 1,
    )


def _try(run: Run, case: Case, number: int, found: Found) -> None:
    say = Console(stderr=True, highlight=False).print
    began, load = time.monotonic(), round(os.getloadavg()[0], 2)
    try:
        figures = _measured(run, case, number, load)
    except (CaseFailedError, SandboxError, OSError, subprocess.SubprocessError) as err:
        found.failures.append({"case": case.name, "round": number, "reason": str(err)})
        say(f"round {number}, {case.name}: failed: {err}", markup=False)
        return
    found.figures += figures
    speeds = ", ".join(f"{each.backlog.per_s:.0f}/s at {each.latency_ms} ms" for each in figures)
    say(f"round {number}, {case.name}: {speeds} ({time.monotonic() - began:.0f} s, load {load})")


def _measured(run: Run, case: Case, number: int, load: float) -> list[Figures]:
    with staged(case, run.shape, run.rivals_python) as stage:
        numbers = Numbers()
        figures = [measure(stage, latency, run.seconds, numbers, load) for latency in run.latencies_ms]
        return [replace(each, round=number, versions=stage.versions) for each in figures]


def _broken(figures: Sequence[Figures]) -> bool:
    loads = [load for each in figures if each.case.startswith("entrega") for load in (each.backlog, each.half)]
    return any(load.lost or load.double for load in loads)


def _kept(run: Run, found: Found, load_before: float) -> dict[str, Any]:
    runs = [asdict(each) for each in found.figures]
    versions = {each["case"]: each.pop("versions") for each in runs}
    return {
        **machine(load_before),
        "setup": {
            "cases": [each.name for each in run.cases],
            "rounds": run.rounds,
            "seconds": run.seconds,
            "processes": run.shape.processes,
            "in_flight": run.shape.in_flight,
            "submitters": run.shape.submitters,
            "latencies_ms": list(run.latencies_ms),
        },
        "versions": versions,
        "medians": _medians(run, runs),
        "runs": runs,
        "failures": found.failures,
    }


def _medians(run: Run, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    groups = [
        [each for each in runs if (each["case"], each["latency_ms"]) == (case.name, latency)]
        for latency in run.latencies_ms
        for case in run.cases
    ]
    return [medians(group) for group in groups if group]


if __name__ == "__main__":
    sys.exit(main())
