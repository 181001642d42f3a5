"""`entrega limits`: what each account may do now, and what of it is used."""

import json
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ingress.shell import WRONG_USE, Json, fail, opened_app

if TYPE_CHECKING:
    from rich.text import Text

    from delivery.limiter import LimitStatus

Account = Annotated[str | None, typer.Argument(help="E.g. crm:default; every account when left out.")]


def limits(account: Account = None, as_json: Json = False) -> None:
    """Show the limits of accounts: windows and what is used of them, the rate that holds now, the next free slot.

    The rate lies below the form's after "too many calls" or a usage header, and comes back by itself.

    Example: entrega limits whatsapp:default
    """
    from worker.wiring import shared_limiter, shared_memory

    app = opened_app()
    if account is not None and account not in app.accounts:
        fail(f"There is no account {account!r}; there are: {', '.join(app.accounts)}", WRONG_USE)
    limiter = shared_limiter(app, shared_memory(app.settings))
    found = [limiter.status(each) for each in app.accounts if account in {None, each}]
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], default=_seconds))
    else:
        _show(found)


def _seconds(value: object) -> float | str:
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


def _show(found: "list[LimitStatus]") -> None:
    from rich.table import Table

    from ingress.printing import console, say

    titles = ("account", "window", "used", "rate now", "next free slot", "in flight", "waiting", "each recipient")
    table = Table(*titles, box=None, header_style="dim")
    for each in found:
        rows = [(window.window, f"{window.used} of {window.allowed}") for window in each.windows] or [("none", "")]
        in_flight = f"{each.in_flight} of {each.concurrent}" if each.concurrent else ""
        recipient = ", ".join(each.recipient) or "none"
        first, *more = rows
        table.add_row(each.account, *first, _rate(each), _wait(each), in_flight, str(each.waiting), recipient)
        for row in more:
            table.add_row("", *row)
    console().print(table)
    if not all(each.shared for each in found):
        say("Redis is away: each worker keeps to a share of its own, and this is one worker's share, not what is used.")


def _rate(status: "LimitStatus") -> "Text":
    from rich.text import Text

    slowed = status.share < 1
    share = f"{status.share:.0%}" + (f", {status.rate:.3g}/s" if status.rate is not None else "")
    return Text(share, style="yellow" if slowed else "green")


def _wait(status: "LimitStatus") -> str:
    if status.frozen_for:
        return f"in {status.next_free.total_seconds():.1f} s (the provider asked to wait)"
    return f"in {status.next_free.total_seconds():.1f} s" if status.next_free else "now"
