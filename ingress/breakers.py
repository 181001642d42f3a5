"""`entrega breaker`: how the circuit breakers stand, and the operator's word over them."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ingress.shell import REFUSED, Json, Reason, fail, opened_app

if TYPE_CHECKING:
    from delivery.breaker import Mode
    from tasks.app import Entrega
    from worker.breaker import BreakerGate, Status

breakers = typer.Typer(help="Circuit breakers: look, force open or closed, or let them decide.", no_args_is_help=True)

Account = Annotated[str, typer.Argument(help="E.g. crm:default.")]
Operation = Annotated[str, typer.Argument(help="E.g. create_lead.")]


@breakers.command("list")
def show_all(as_json: Json = False) -> None:
    """Show every breaker.

    Example: entrega breaker list
    """
    app = opened_app()
    _show(_gate(app).statuses(app.accounts), as_json=as_json)


@breakers.command("open")
def force_open(account: Account, operation: Operation, reason: Reason, as_json: Json = False) -> None:
    """Let no call through until somebody says otherwise.

    Example: entrega breaker open crm:default create_lead --reason "the CRM asked us to stop"
    """
    _force(account, operation, "open", reason, as_json=as_json)


@breakers.command("close")
def force_closed(account: Account, operation: Operation, reason: Reason, as_json: Json = False) -> None:
    """Let every call through, whatever the failures.

    Example: entrega breaker close crm:default create_lead --reason "the failures are known"
    """
    _force(account, operation, "closed", reason, as_json=as_json)


@breakers.command("auto")
def decide_itself(account: Account, operation: Operation, reason: Reason = "", as_json: Json = False) -> None:
    """Let the breaker decide by itself again.

    Example: entrega breaker auto crm:default create_lead
    """
    _force(account, operation, "auto", reason, as_json=as_json)


def _force(account: str, operation: str, mode: "Mode", reason: str, *, as_json: bool) -> None:
    from config.operator import operator_name
    from ledger.operating import Desk
    from worker.breaker_shared import BreakerUnreachable

    app = opened_app()
    try:
        status = _gate(app).force(account, operation, mode, actor=operator_name(), reason=reason)
    except (LookupError, BreakerUnreachable) as err:
        fail(str(err.args[0]) if err.args else str(err), REFUSED)
    Desk(app.database, actor=operator_name()).note(f"breaker {mode}", account=account, reason=reason or None)
    _show([status], as_json=as_json)


def _gate(app: "Entrega") -> "BreakerGate":
    from worker.wiring import breaker_gate, shared_memory

    return breaker_gate(app, shared_memory(app.settings))


def _show(found: "list[Status]", *, as_json: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from ingress.printing import console, say

    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], default=str))
        return
    table = Table("account", "operation", "state", "failures", "calls", "next trial", "override", box=None)
    for each in found:
        trial = f"{each.next_trial_at.astimezone():%H:%M:%S}" if each.next_trial_at else ""
        override = f"{each.override.mode}: {each.override.reason}" if each.override else ""
        state = Text(each.state, style={"closed": "green", "open": "red"}.get(each.state, "yellow"))
        row = (each.account, each.operation, state, str(each.failures), str(each.calls), trial, Text(override))
        table.add_row(*row)
    console().print(table)
    if not all(each.shared for each in found):
        say("Redis is away: each worker decides with a breaker of its own.")
