"""`entrega accounts`: how they stand, further ones beside those of the environment, and credentials in the ledger."""

import io
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ingress.shell import REFUSED, WRONG_USE, Json, Reason, fail, opened_app, typed_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.accounts import Added
    from ledger.reading import Account
    from tasks.app import Entrega

accounts = typer.Typer(help="Accounts: how they stand, further ones, and new credentials.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="E.g. crm:default.")]
NewName = Annotated[str, typer.Argument(help="E.g. email:reserva.")]

# What a new credential mends; an account that an operator paused stays paused.
_MENDED = ("unauthorized", "misconfigured")


@accounts.command("list")
def show_all(as_json: Json = False) -> None:
    """Show every account: open or held, since when and why, and what the last probe found.

    Example: entrega accounts list
    """
    app = opened_app()
    known = {each.name: each for each in app.archive.accounts()}
    found = [(name, known.get(name)) for name in app.accounts]
    added = app.accounts.added()
    if as_json:
        rows = [{"name": n, "added": n in added, **(asdict(a) if a else {})} for n, a in found]
        typer.echo(json.dumps(rows, default=str))
    else:
        _show(found, added)


@accounts.command("add")
def add(account: NewName, reason: Reason = "a further account", as_json: Json = False) -> None:
    """Set up a further account of a service, or change one that was set up so; what is not named stays as it was.

    Its values are asked for one by one, or read from standard input as lines NAME=value; never an argument. They are
    sealed in the ledger, and every process knows them within two seconds. Commands name the account in options.account.

    Example: entrega accounts add email:reserva < reserva.env
    """
    import time

    from config.account import check_account_name, own_variables
    from config.operator import operator_name
    from config.settings import ConfigurationError
    from ledger.accounts import FRESH_S

    app = opened_app()
    services = [each.partition(":")[0] for each in app.accounts.defaults]
    try:
        check_account_name(account, services)
        values = typed_values(own_variables(app.specs[account.partition(":")[0]]))
        is_new = app.accounts.put(account, values, actor=operator_name(), reason=reason)
    except ConfigurationError as err:
        listing = "\n".join(f"  {name}: {issue}" for name, issue in err.issues.items())
        fail(f"Nothing was stored.\n{listing}", REFUSED)
    time.sleep(FRESH_S)  # what is freed now must not meet a worker that still knows the old values
    freed = _open_again(app, account, operator_name())
    if as_json:
        typer.echo(json.dumps({"account": account, "new": is_new, "freed": freed}))
        return
    from ingress.printing import say

    held = f" It stays held; open it with: entrega resume {account}" if freed is None else ""
    done = f"{account} is {'set up' if is_new else 'changed'}.{held}" + (f" {freed} deliveries freed." if freed else "")
    say(f"{done} See whether it answers with: entrega doctor. Commands name it in options.account.")


@accounts.command("remove")
def remove(account: NewName, reason: Reason = "no longer used", as_json: Json = False) -> None:
    """Forget an account that was added, and its credential; refused while deliveries of it are open.

    Example: entrega accounts remove email:reserva --reason "contract ended"
    """
    from config.operator import operator_name

    app = opened_app()
    if account not in app.accounts.added():
        known = ", ".join(app.accounts.added()) or "none"
        fail(f"{account} was not added here; added accounts: {known}", WRONG_USE)
    if not app.accounts.remove(account, actor=operator_name(), reason=reason):
        listing = f"entrega deliveries --account {account}"
        fail(
            f"Deliveries of {account} are still open; wait for them, or cancel them. See them with: {listing}", REFUSED
        )
    if as_json:
        typer.echo(json.dumps({"account": account, "removed": True}))
        return
    from ingress.printing import say

    say(f"{account} is forgotten.")


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
    if account not in app.accounts:
        fail(f"There is no account {account!r}; there are: {', '.join(app.accounts)}", WRONG_USE)
    authentication = app.specs[account.partition(":")[0]].authentication
    if authentication.type != "oauth2_refresh_token":
        if account in app.accounts.added():
            fail(
                f"{account} has its credential among its values; change it with: entrega accounts add {account}",
                REFUSED,
            )
        names = ", ".join(sorted(authentication.variables.values()))
        message = f"{account} reads its credential from the environment ({names}): set it there, restart the workers"
        fail(f"{message}, then: entrega resume {account}", REFUSED)


def typed_values(variables: tuple[str, ...]) -> dict[str, str]:
    """Return what was typed, or read as lines NAME=value, by variable; nothing for what was left empty."""
    if sys.stdin.isatty():
        typer.echo("Leave empty what this account does not need, or what shall stay as it is.", err=True)
        typed = {
            each: str(typer.prompt(each, default="", show_default=False, hide_input=_is_secret(each)))
            for each in variables
        }
    else:
        from dotenv import dotenv_values

        typed = {
            name: value or ""
            for name, value in dotenv_values(stream=io.StringIO(typed_lines()), interpolate=False).items()
        }
    return {name: value.strip() for name, value in typed.items() if value.strip()}


def _is_secret(variable: str) -> bool:
    from config.settings import Settings

    field = Settings.model_fields.get(variable.lower())
    return field is None or "SecretStr" in str(field.annotation)


def _typed_secret(account: str) -> str:
    is_typed = sys.stdin.isatty()
    text = typer.prompt(f"Refresh token of {account}", hide_input=True) if is_typed else typed_lines()
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


def _show(found: "list[tuple[str, Account | None]]", added: "Mapping[str, Added]") -> None:
    from rich.table import Table
    from rich.text import Text

    from ingress.printing import console

    table = Table("account", "set up by", "state", "since", "why", "last probe", box=None, header_style="dim")
    for name, each in found:
        held = each is not None and each.held_reason is not None
        state = Text("held" if held else "open", style="red" if held else "green")
        since = f"{each.held_at.astimezone():%Y-%m-%d %H:%M:%S}" if each and each.held_at else ""
        why, health = (each.held_reason or "", each.health or "") if each else ("", "")
        table.add_row(name, "an operator" if name in added else "environment", state, since, Text(why), health)
    console().print(table)
