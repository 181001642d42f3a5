"""What is measured of one system at one latency: how fast a backlog goes, what it costs, and latency at half load."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.rivals.stage import CaseFailedError, Stage
from benchmarks.rivals.usage import MemoryWatch, cpu_s

_FIRST_WITHIN_S = 60.0
_PATIENCE_S = 20.0
# What is settled after the last answer belongs to the cost as well.
_AFTERWARDS_S = 0.5
_LEAST, _MOST = 60, 30_000


@dataclass
class Numbers:
    """Numbers that no message of this stage has had yet."""

    next: int = 0

    def take(self, count: int) -> int:
        """Return the first of so many."""
        self.next += count
        return self.next - count


@dataclass(frozen=True)
class Times:
    """How long it took until the first byte reached the provider, in ms.

    Attributes:
        accepted: From the moment the submit returned; negative where the worker was quicker than the answer.
        called: From the moment the submit was called.
    """

    accepted: Mapping[str, float]
    called: Mapping[str, float]


@dataclass(frozen=True)
class Load:
    """Messages that were sent and what became of them.

    Attributes:
        sent: Messages.
        per_s: From the first submit to the last answer.
        submits_per_s: While workers work on the same machine.
        cpu: CPU seconds for 1,000 messages, by role.
        at_once: The most calls that the provider saw at the same time.
        lost: Messages that did not come within the patience.
        double: Calls beyond the first of a message.
    """

    sent: int
    per_s: float
    submits_per_s: float
    cpu: Mapping[str, float]
    at_once: int
    lost: int
    double: int
    times: Times


@dataclass(frozen=True)
class Figures:
    """One system at one latency in one round.

    Attributes:
        backlog: Everything submitted as fast as it goes.
        memory: MiB by role at the moment with the most, during the backlog.
        half: Submits at fixed instants, half as many in a second as the backlog showed to be possible.
        machine_load: The machine's load average of a minute before it began; other work makes figures worse.
    """

    case: str
    latency_ms: int
    backlog: Load
    memory: Mapping[str, float]
    half: Load
    machine_load: float
    round: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)


def measure(stage: Stage, latency_ms: int, seconds: float, numbers: Numbers, machine_load: float) -> Figures:
    """Warm up, then measure a backlog and half its rate, each for about so many seconds.

    Raises:
        CaseFailedError: The system did not deliver its first message, or one of its programs ended.
    """
    stage.provider.reset(latency_ms)
    begin(stage, numbers)
    warm = load(stage, latency_ms, numbers, 4 * _LEAST, None)
    watch = MemoryWatch({role: pids for role, pids in stage.roles.items() if role != "producer"})
    watch.start()
    backlog = load(stage, latency_ms, numbers, _count(warm.per_s, seconds), None)
    memory = watch.end()
    rate = min(backlog.per_s, backlog.submits_per_s) / 2
    half = load(stage, latency_ms, numbers, _count(rate, seconds), rate)
    return Figures(stage.case.name, latency_ms, backlog, _rounded(memory, 1), half, machine_load)


def begin(stage: Stage, numbers: Numbers) -> None:
    """Have a few messages delivered: connections are made, modules loaded.

    Raises:
        CaseFailedError: They did not come in a minute.
    """
    told = stage.producer.ask(do="submit", first=numbers.take(8), count=8, per_second=None, at_once=1)
    wanted = set(told["ids"])
    came = stage.await_messages(wanted, _FIRST_WITHIN_S)["arrivals"]
    if not wanted <= came.keys():
        raise CaseFailedError(f"{len(wanted - came.keys())} of the first 8 messages did not come in a minute")


def _count(per_s: float, seconds: float) -> int:
    return int(min(_MOST, max(_LEAST, per_s * seconds)))


def load(  # noqa: PLR0913, PLR0917 - what a load is made of
    stage: Stage,
    latency_ms: int,
    numbers: Numbers,
    count: int,
    per_s: float | None,
    patience_s: float = _PATIENCE_S,
) -> Load:
    """Submit so many messages, wait until they came, and return what it cost.

    Args:
        per_s: How many become due in a second; None means as fast as it goes.
    """
    stage.provider.reset(latency_ms)
    before = _cpu(stage)
    asked = {"count": count, "per_second": per_s, "at_once": stage.case.at_once}
    threads = stage.shape.submitters if stage.case.at_once == 1 else 1
    told = stage.producer.ask(do="submit", first=numbers.take(count), threads=threads, **asked)
    report = stage.await_messages(set(told["ids"]), patience_s)
    time.sleep(_AFTERWARDS_S)
    after = _cpu(stage)
    spent = {role: (after[role] - before[role]) / count * 1000 for role in after}
    return _judged(told, report, spent)


def _cpu(stage: Stage) -> dict[str, float]:
    return {role: cpu_s(pids) for role, pids in stage.roles.items()}


def _judged(told: Mapping[str, Any], report: Mapping[str, Any], spent: Mapping[str, float]) -> Load:
    ids, arrivals = told["ids"], report["arrivals"]
    came = [id_ for id_ in ids if id_ in arrivals]
    start = told["began"][0]
    return Load(
        sent=len(ids),
        per_s=round(len(came) / max(1e-3, report["last_answer"] - start), 1),
        submits_per_s=round(len(ids) / max(1e-3, max(told["accepted"]) - start), 1),
        cpu=_rounded(spent, 3),
        at_once=report["most_at_once"],
        lost=len(ids) - len(came),
        double=report["doubles"],
        times=Times(_spread(told, arrivals, "accepted"), _spread(told, arrivals, "began")),
    )


def _spread(told: Mapping[str, Any], arrivals: Mapping[str, float], since: str) -> Mapping[str, float]:
    pairs = zip(told["ids"], told[since], strict=True)
    waits = sorted((arrivals[id_] - at) * 1000 for id_, at in pairs if id_ in arrivals)
    return {f"p{share}": round(_at(waits, share), 1) for share in (50, 95, 99)}


def _at(ordered: Sequence[float], share: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] if ordered else 0.0


def _rounded(numbers: Mapping[str, float], places: int) -> dict[str, float]:
    return {name: round(number, places) for name, number in numbers.items()}


def medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the median of each number, whatever it lies in; the rounds must have the same shape."""
    return {name: _median([each[name] for each in rounds]) for name in rounds[0] if name != "round"}


def _median(values: Sequence[Any]) -> Any:
    kinds: Mapping[type, Callable[[Sequence[Any]], Any]] = {dict: medians, str: lambda texts: texts[0]}
    return kinds.get(type(values[0]), lambda numbers: round(statistics.median(numbers), 3))(values)
