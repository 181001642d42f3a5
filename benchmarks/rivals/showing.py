"""The figures as a table on the terminal, and as a page with charts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rivals.cases import BASELINE

BEGIN, END = "<!-- rivals: begin -->", "<!-- rivals: end -->"
_NEEDED = ("workers", "beat", "postgres", "valkey")
_COLUMNS = (
    "system", "deliveries/s", "ratio", "CPU all", "ratio", "workers", "Postgres", "Valkey", "memory", "submits/s",
    "in flight", "half load", "p50", "p95", "p99", "lost", "double",
)  # fmt: skip
_AGAINST = ("against", "entrega", "deliveries/s", "CPU of workers", "p50", "p99", "p50 of call")
_LEGEND = (
    "deliveries/s: from the first submit to the last answer, all submitted as fast as it goes. CPU: seconds for 1,000 "
    "deliveries, without the producer; workers with beat. Ratio: to the careful Celery task, taken in each round and "
    "then the median, because a machine changes between rounds. Memory: MiB of the same "
    "processes at their most (shared pages once). In flight: the most that the provider saw. Half load: deliveries/s "
    "submitted at fixed instants; p50, p95, p99: ms from accepted to the provider's socket then; p50 of call: from the "
    "call of submit, because who accepts late has less to wait for afterwards."
)
_OURS = ("entrega-bulk", "entrega-single")


def total(by_role: Mapping[str, float]) -> float:
    """Add up what the system needs; the producer is a part of none."""
    return sum(by_role.get(role, 0.0) for role in _NEEDED)


def show(kept: Mapping[str, Any]) -> None:
    """Print the figures and the ratios of each latency, and what failed."""
    console = Console(width=160)
    for latency in kept["setup"]["latencies_ms"]:
        _show_table(console, f"The provider answers after {latency} ms", _COLUMNS, table_rows(kept, latency))
        _show_table(console, f"Entrega against each, {latency} ms", _AGAINST, ratio_rows(kept, latency))
    console.print(_LEGEND, style="dim")
    for each in kept["failures"]:
        console.print(f"failed: {each['case']}, round {each['round']}: {each['reason']}", style="red", markup=False)
    for name, versions in kept["versions"].items():
        console.print(f"{name}: " + ", ".join(f"{package} {version}" for package, version in versions.items()))


def _show_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns, title=title, title_justify="left", box=None, header_style="dim")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def table_rows(kept: Mapping[str, Any], latency: int) -> list[tuple[str, ...]]:
    """Return the rows of the table of one latency; a system without figures says so."""
    found = {each["case"]: each for each in kept["medians"] if each["latency_ms"] == latency}
    return [_row(kept, found[name]) if name in found else _failed(name) for name in kept["setup"]["cases"]]


def _failed(name: str) -> tuple[str, ...]:
    return (name, "failed", *[""] * (len(_COLUMNS) - 2))


def _row(kept: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[str, ...]:
    backlog, half, cpu = one["backlog"], one["half"], one["backlog"]["cpu"]
    pair = (one["case"], BASELINE)
    speed, cost = (_ratio(kept, one["latency_ms"], pair, of) for of in (_speed, _cpu_of_all))
    parts = (cpu.get("workers", 0) + cpu.get("beat", 0), cpu.get("postgres", 0), cpu.get("valkey", 0))
    waits = half["times"]["accepted"]
    return (
        one["case"], f"{backlog['per_s']:.0f}", speed, f"{total(cpu):.2f}", cost, *(f"{each:.2f}" for each in parts),
        f"{total(one['memory']):.0f}", f"{backlog['submits_per_s']:.0f}", f"{backlog['at_once']:.0f}",
        f"{half['per_s']:.0f}", *(f"{waits[name]:.1f}" for name in ("p50", "p95", "p99")),
        f"{backlog['lost'] + half['lost']:.0f}", f"{backlog['double'] + half['double']:.0f}",
    )  # fmt: skip


def _speed(run: Mapping[str, Any]) -> float:
    return run["backlog"]["per_s"]


def _cpu_of_all(run: Mapping[str, Any]) -> float:
    return total(run["backlog"]["cpu"])


def _cpu_of_workers(run: Mapping[str, Any]) -> float:
    return run["backlog"]["cpu"]["workers"]


def _p50(run: Mapping[str, Any]) -> float:
    return run["half"]["times"]["accepted"]["p50"]


def _p50_of_call(run: Mapping[str, Any]) -> float:
    return run["half"]["times"]["called"]["p50"]


def _p99(run: Mapping[str, Any]) -> float:
    return run["half"]["times"]["accepted"]["p99"]


def _ratio(
    kept: Mapping[str, Any], latency: int, pair: tuple[str, str], of: Callable[[Mapping[str, Any]], float]
) -> str:
    """Return the median of the ratios within each round, in which both ran shortly after each other."""
    one, other = ({run["round"]: of(run) for run in _runs(kept, name, latency)} for name in pair)
    ratios = [one[n] / other[n] for n in sorted(one.keys() & other.keys()) if one[n] > 0 and other[n] > 0]
    return f"{median(ratios):.2f}" if ratios else "-"


def _runs(kept: Mapping[str, Any], case: str, latency: int) -> list[Mapping[str, Any]]:
    return [run for run in kept["runs"] if (run["case"], run["latency_ms"]) == (case, latency)]


_COMPARED = (_speed, _cpu_of_workers, _p50, _p99, _p50_of_call)


def ratio_rows(kept: Mapping[str, Any], latency: int) -> list[tuple[str, ...]]:
    """Return Entrega against each rival: deliveries a second (more is better), CPU and waiting (less is better)."""
    found = [each["case"] for each in kept["medians"] if each["latency_ms"] == latency]
    mine, rivals = ([name for name in found if (name in _OURS) is ours] for ours in (True, False))
    return [
        (rival, name, *(_ratio(kept, latency, (name, rival), of) for of in _COMPARED))
        for name in mine
        for rival in rivals
    ]


def draw(kept: Mapping[str, Any], page: Path) -> None:
    """Put tables and charts into the page, between its two marks; what stands around them stays."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Speed\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + BEGIN + "\n" + _drawn(kept) + END + after, encoding="utf-8")


def _drawn(kept: Mapping[str, Any]) -> str:
    setup, machine = kept["setup"], kept["machine"]
    said = (
        f"Measured {kept['at'][:10]} with `make bench`: {machine['cores']} cores, Python {machine['python']}, load "
        f"average {machine['load_before']} before and {machine['load_after']} after; medians of {setup['rounds']} "
        f"rounds, {setup['in_flight']} calls in flight ({setup['processes']} processes). {_LEGEND}\n\n"
    )
    return said + "".join(_drawn_latency(kept, latency) for latency in setup["latencies_ms"]) + _drawn_rest(kept)


def _drawn_latency(kept: Mapping[str, Any], latency: int) -> str:
    rows = table_rows(kept, latency)
    figures = _drawn_table(_COLUMNS, rows)
    against = _drawn_table(_AGAINST, ratio_rows(kept, latency))
    worked = [row for row in rows if row[1] != "failed"]
    title = f"### The provider answers after {latency} ms"
    speed = _chart(f"Deliveries per second, {latency} ms", [(row[0], row[1]) for row in worked])
    cost = _chart(f"CPU seconds for 1,000 deliveries, {latency} ms", [(row[0], row[3]) for row in worked])
    return "\n".join(
        (
            title,
            "",
            *figures,
            "",
            "Entrega divided by each, the median of the rounds' ratios:",
            "",
            *against,
            "",
            *speed,
            "",
            *cost,
            "",
            "",
        )
    )


def _drawn_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (columns, ("---",) * len(columns), *rows)]


def _chart(title: str, bars: Sequence[tuple[str, str]]) -> list[str]:
    names = ", ".join(f'"{name}"' for name, _ in bars)
    values = ", ".join(value for _, value in bars)
    return ["```mermaid", "xychart-beta", f'  title "{title}"', f"  x-axis [{names}]", f"  bar [{values}]", "```"]


def _drawn_rest(kept: Mapping[str, Any]) -> str:
    versions = [
        f"- {name}: " + ", ".join(f"{package} {version}" for package, version in found.items())
        for name, found in kept["versions"].items()
    ]
    failed = [f"- {each['case']} failed in round {each['round']}: {each['reason']}" for each in kept["failures"]]
    return "\n".join(["Versions:", "", *versions, "", *failed, ""])
