"""`entrega approvals`: deliveries that wait for a person's yes or no, and the answer."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ingress.shell import REFUSED, WRONG_USE, Json, Most, Reason, fail, opened_app, print_json

if TYPE_CHECKING:
    from ledger.approvals import Approvals
    from ledger.letters import Signed

approvals = typer.Typer(help="Deliveries that wait for a person's approval.", no_args_is_help=True)

Producer = Annotated[str | None, typer.Option(help="Only from this producer.")]
Code = Annotated[str | None, typer.Option(help="Only what waits for this reason, e.g. needs_approval.")]
After = Annotated[UUID | None, typer.Option(help="Only newer than this id: the last one of the page before.")]
Ids = Annotated[list[UUID] | None, typer.Argument(help="Deliveries; or choose with --producer and --code.")]


@approvals.command("list")
def show_all(
    producer: Producer = None, code: Code = None, after: After = None, most: Most = 20, as_json: Json = False
) -> None:
    """List what waits for approval, oldest first. See one with `entrega dead-letters show`, its payload masked.

    Example: entrega approvals list --producer loja-sul
    """
    from ingress.printing import show_deliveries

    _check(code)
    found = _waiting().list(producer=producer, code=code, after=after, most=most)
    print_json([asdict(each) for each in found]) if as_json else show_deliveries(found, reasons=True)


@approvals.command("approve")
def approve(
    reason: Reason, ids: Ids = None, producer: Producer = None, code: Code = None, most: Most = 100,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Let deliveries go; each gets its whole time, however long it waited. With filters, the oldest that match.

    Example: entrega approvals approve 0193e0a0-0000-7000-8000-000000000000 --reason "seen, fine"

    Example: entrega approvals approve --producer loja-sul --code daily_cap --reason "the sale was announced"
    """
    wanted = _chosen(ids, producer, code, most)
    done = _waiting().approve(wanted, _signed(reason))
    opened_app().hints.send(done.hints)
    _tell("approved", wanted, set(done.ids), as_json=as_json)


@approvals.command("reject")
def reject(
    reason: Reason, ids: Ids = None, producer: Producer = None, code: Code = None, most: Most = 100,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Make sure that deliveries are never sent: they are canceled, and stay on record.

    Example: entrega approvals reject 0193e0a0-0000-7000-8000-000000000000 --reason "wrong price"
    """
    wanted = _chosen(ids, producer, code, most)
    _tell("rejected", wanted, _waiting().reject(wanted, _signed(reason)), as_json=as_json)


def _chosen(ids: list[UUID] | None, producer: str | None, code: str | None, most: int) -> list[UUID]:
    _check(code)
    if bool(ids) == bool(producer or code):
        fail("Name deliveries, or choose them with --producer and --code; one of the two.", WRONG_USE)
    return ids or [each.id for each in _waiting().list(producer=producer, code=code, most=most)]


def _check(code: str | None) -> None:
    from delivery.producers import HELD_BECAUSE

    if code is not None and code not in HELD_BECAUSE:
        fail(f"Nothing waits for {code!r}; use one of: {', '.join(HELD_BECAUSE)}", WRONG_USE)


def _waiting() -> "Approvals":
    from ledger.approvals import Approvals

    return Approvals(opened_app().database)


def _signed(reason: str) -> "Signed":
    from config.operator import operator_name
    from ledger.letters import Signed

    return Signed(operator_name(), reason)


def _tell(verb: str, wanted: list[UUID], done: set[UUID], *, as_json: bool) -> None:
    from ingress.printing import say

    left = [each for each in wanted if each not in done]
    if as_json:
        print_json({verb: sorted(done), "left_alone": left})
    else:
        say(f"{len(done)} {verb}.")
        for each in left:
            say(f"{each} does not wait for approval, and was left alone.")
    if left:
        raise typer.Exit(REFUSED)
