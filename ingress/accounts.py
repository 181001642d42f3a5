"""`entrega accounts`: how the accounts stand, and the way for a credential that lives in the ledger."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ingress.shell import REFUSED, WRONG_USE, Json, Reason, fail, opened_app

if TYPE_CHECKING:
    from ledger.reading import Account
    from tasks.app import Entrega

accounts = typer.Typer(help="Accounts: how they stand, and new credentials.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="E.g. crm:default.")]

# What a new credential mends; an account that an operator paused stays paused.
_MENDED = ("unauthorized", "misconfigured")


@accounts.command("list")
def show_all(as_json: Json = False) -> None:
    """Show every account: open or held, since when and why, and what the last probe found.

    Example: entrega accounts list
    """
    app = opened_app()
    known = {each.name: each for each in app.archive.accounts()}
    found = [(name, known.get(name)) for name in app.intake.accounts]
    if as_json:
        typer.echo(json.dumps([{"name": n, **(asdict(a) if a else {})} for n, a in found], default=str))
    else:
        _show(found)


@accounts.command("set")
def give_credential(account: Name, reason: Reason = "a new credential", as_json: Json = False) -> None:
    """Give an account a new refresh token; asked for without an echo, or read from standard input. Never an argument.

    An account that was held because its credential failed is opened again, and its deliveries go on.

    Example: entrega accounts set crm:default < token.txt
    """
    from config.operator import operator_name
    from ledger.credentials import PostgresCredentials

    app = opened_app()
    _check_kept_here(app, account)
    secrets = {"refresh_token": _typed_secret(account)}
    actor = operator_name()
    PostgresCredentials(app.database, app.ledger.vault).give(account, secrets, actor=actor, reason=reason)
    freed = _open_again(app, account, actor)
    if as_json:
        typer.echo(json.dumps({"account": account, "stored": True, "freed": freed}))
        return
    from ingress.printing import say

    held = "" if freed is not None else f" It stays held; open it with: entrega resume {account}"
    say(f"The credential of {account} is stored.{held}" + (f" {freed} deliveries freed." if freed else ""))


def _check_kept_here(app: "Entrega", account: str) -> None:
    if account not in app.intake.accounts:
        fail(f"There is no account {account!r}; there are: {', '.join(app.intake.accounts)}", WRONG_USE)
    authentication = app.specs[account.partition(":")[0]].authentication
    if authentication.type != "oauth2_refresh_token":
        names = ", ".join(sorted(authentication.variables.values()))
        message = f"{account} reads its credential from the environment ({names}): set it there, restart the workers"
        fail(f"{message}, then: entrega resume {account}", REFUSED)


def _typed_secret(account: str) -> str:
    is_typed = sys.stdin.isatty()
    text = typer.prompt(f"Refresh token of {account}", hide_input=True) if is_typed else sys.stdin.read()
    secret = str(text).strip()
    # What a header can carry as one word; anything else was cut off or pasted with something beside it.
    if not secret or not all("!" <= each <= "~" for each in secret):
        fail("That is not one word of plain ASCII; nothing was stored. Paste the refresh token again.", REFUSED)
    return secret


def _open_again(app: "Entrega", account: str, actor: str) -> int | None:
    """Open an account that its credential had shut; None when a person, or something else, holds it."""
    from ledger.operating import Desk

    standing = next((each for each in app.archive.accounts() if each.name == account), None)
    if standing is None or standing.held_reason is None:
        return 0
    if standing.held_code not in _MENDED:
        return None
    hints = Desk(app.database, actor=actor).resume(account, reason="a new credential was given")
    app.hints.send(hints)
    return len(hints)


def _show(found: "list[tuple[str, Account | None]]") -> None:
    from ingress.printing import console

    table = Table("account", "state", "since", "why", "last probe", box=None, header_style="dim")
    for name, each in found:
        held = each is not None and each.held_reason is not None
        state = Text("held" if held else "open", style="red" if held else "green")
        since = f"{each.held_at.astimezone():%Y-%m-%d %H:%M:%S}" if each and each.held_at else ""
        why, health = (each.held_reason or "", each.health or "") if each else ("", "")
        table.add_row(name, state, since, Text(why), health)
    console().print(table)
