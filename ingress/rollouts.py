"""`entrega rollout`: let a growing share of an account's deliveries go, by the shares of its form."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ingress.shell import REFUSED, WRONG_USE, Json, Reason, fail, opened_app, print_json

if TYPE_CHECKING:
    from delivery.rollout import View
    from ledger.rollouts import Rollouts
    from tasks.app import Entrega

rollouts = typer.Typer(
    help="Rollouts: a growing share of an account's deliveries goes, the rest waits; what goes badly is taken back.",
    no_args_is_help=True,
)

Account = Annotated[str, typer.Argument(help="E.g. crm:default.")]


@rollouts.command("list")
def show_all(as_json: Json = False) -> None:
    """Show the rollouts that are under way or were taken back; everything goes for all other accounts.

    Example: entrega rollout list
    """
    found = _views(opened_app())
    print_json([asdict(each) for each in found]) if as_json else _show(found)


@rollouts.command("begin")
def begin(account: Account, reason: Reason, as_json: Json = False) -> None:
    """Let the first share of an account's deliveries go, then the next ones, each after the form's `hold_s`.

    The others wait, spend no attempt, and their time does not run out. Too many errors, or calls that are too slow,
    take it back; begin it again once the cause is mended.

    Example: entrega rollout begin crm:default --reason "version 2 of the CRM's API"
    """
    app = opened_app()
    if account not in app.intake.accounts:
        fail(f"There is no account {account!r}; there are: {', '.join(app.intake.accounts)}", WRONG_USE)
    if not _acting(app).begin(account, reason=reason):
        fail(f"A rollout of {account} is under way. See it with: entrega rollout list", REFUSED)
    _answer(app, account, as_json=as_json)


@rollouts.command("finish")
def finish(account: Account, reason: Reason, as_json: Json = False) -> None:
    """Let everything go from now on, also where a rollout was taken back; what waits comes within a minute or two.

    Example: entrega rollout finish crm:default --reason "all is well"
    """
    from ingress.printing import say

    if not _acting(opened_app()).finish(account, reason=reason):
        fail(f"There is no rollout of {account}. See those there are with: entrega rollout list", REFUSED)
    print_json({"account": account, "state": "over"}) if as_json else say(f"Everything of {account} goes.")


@rollouts.command("back")
def back(account: Account, reason: Reason, as_json: Json = False) -> None:
    """Take a rollout back: nothing of the account goes until `begin` or `finish`; what is under way ends.

    Example: entrega rollout back crm:default --reason "the leads lack their tags"
    """
    app = opened_app()
    if not _acting(app).back(account, reason=reason):
        fail(f"No rollout of {account} is under way. To stop the account: entrega pause {account}", REFUSED)
    _answer(app, account, as_json=as_json)


def _acting(app: "Entrega") -> "Rollouts":
    from config.operator import operator_name
    from ledger.rollouts import Rollouts

    return Rollouts(app.database, actor=operator_name())


def _views(app: "Entrega") -> "list[View]":
    from delivery.rollout import view

    found = [(each, app.specs.get(each.account.partition(":")[0])) for each in _acting(app).standing()]
    return [view(spec.rollout, each) for each, spec in found if spec is not None]


def _answer(app: "Entrega", account: str, *, as_json: bool) -> None:
    found = [each for each in _views(app) if each.account == account]
    print_json([asdict(each) for each in found]) if as_json else _show(found)


def _show(found: "list[View]") -> None:
    from rich.table import Table
    from rich.text import Text

    from ingress.printing import console, say

    if not found:
        say("No rollout is under way: everything goes.")
        return
    table = Table("account", "state", "share", "stage", "next stage", "since", "by", "reason", box=None)
    for each in found:
        state = Text(each.state.replace("_", " "), style="red" if each.state == "taken_back" else "green")
        later = f"{each.next_stage_at.astimezone():%Y-%m-%d %H:%M:%S}" if each.next_stage_at else ""
        stage, since = f"{each.stage} of {each.stages}", f"{each.since.astimezone():%Y-%m-%d %H:%M:%S}"
        table.add_row(each.account, state, f"{each.share:.0%}", stage, later, since, each.actor, Text(each.reason))
    console().print(table)
