"""`make attack`: every known attack against a running system, and a table of what each one did.

The system is the whole one, as shipped, on this machine. Attacks run one after the other; after each one a new lead has
to arrive. An attack is a function that takes the target and returns its verdict; a module lists its own in `ATTACKS`.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

from rich.console import Console
from rich.table import Table

from tests.attacks.target import Target, Verdict, running_target

Attack = Callable[[Target], Verdict]
# Honest leads first: without them the rest proves nothing. Those that need what the system writes by and by come last.
_MODULES = ("honest", "inputs", "broker", "doors", "folder", "producers", "atrest")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the attacks; return 0 when all of them failed to do harm."""
    parser = argparse.ArgumentParser(prog="make attack", description="Attack a running system, and show what happened.")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="attacks whose name contains this")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--short", action="store_true", help="fewer requests in less time, as in CI")
    asked = parser.parse_args(arguments)
    chosen = [each for each in attacks() if not asked.only or any(part in _name(each) for part in asked.only)]
    if asked.list:
        sys.stdout.writelines(f"{_name(each)}\n" for each in chosen)
        return 0
    console = Console(width=160 if sys.stdout.isatty() else 200)
    with running_target(short=asked.short) as target:
        verdicts = [_carried_out(attack, target, console) for attack in chosen]
    _show(verdicts, console)
    return 0 if chosen and all(each.passed for each in verdicts) else 1


def attacks() -> Iterator[Attack]:
    """Return every attack of this folder, in the order in which they run."""
    for each in _MODULES:
        yield from import_module(f"tests.attacks.{each}").ATTACKS


def _carried_out(attack: Attack, target: Target, console: Console) -> Verdict:
    started = time.monotonic()
    try:
        verdict = attack(target)
        if verdict.passed and not target.works():
            verdict = Verdict(verdict.attack, "afterwards a new lead did not arrive", "it arrives", passed=False)
    except Exception as err:  # noqa: BLE001 - an attack that breaks off is a failed line of the table, not the end of it
        verdict = Verdict(_name(attack), f"broke off: {type(err).__name__}: {err}", "ends with a verdict", passed=False)
    mark = "[green]held[/]" if verdict.passed else "[red]HARMED[/]"
    console.print(f"{mark} {_name(attack)} ({time.monotonic() - started:.0f} s): {verdict.happened}", highlight=False)
    return verdict


def _show(verdicts: Sequence[Verdict], console: Console) -> None:
    table = Table("attack", "what happened", "limit", "verdict", title="Attacks on a running system")
    for each in verdicts:
        table.add_row(each.attack, each.happened, each.limit, "[green]held[/]" if each.passed else "[red]HARMED[/]")
    console.print(table)
    console.print(f"{sum(each.passed for each in verdicts)} of {len(verdicts)} attacks did no harm")


def _name(attack: Attack) -> str:
    return f"{attack.__module__.rpartition('.')[2]}.{getattr(attack, '__name__', attack)}"


if __name__ == "__main__":
    sys.exit(main())
