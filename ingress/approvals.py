"""`entrega approvals`: deliveries that wait for a person's yes or no, and the answer."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ingress.shell import REFUSED, WRONG_USE, Json, Most, Reason, fail, opened_app, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.approvals import Approvals, Obstacle
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
    """List what waits for approval, oldest first.

    Example: entrega approvals list --producer loja-sul
    """
    from ingress.printing import show_deliveries

    _check(code)
    found = _waiting().list(producer=producer, code=code, after=after, most=most)
    print_json([asdict(each) for each in found]) if as_json else show_deliveries(found, reasons=True)


@approvals.command("show")
def show(
    delivery_id: Annotated[UUID, typer.Argument(help="A delivery that waits for approval.")],
    reason: Annotated[str | None, typer.Option(help="Why you must read it: shows it in clear, on record.")] = None,
    as_json: Json = False,
) -> None:
    """Show all that would be sent, the fallback included; masked, or in clear with a reason, which is kept on record.

    Example: entrega approvals show 0193e0a0-0000-7000-8000-000000000000 --reason "to approve it"
    """
    from ingress.editing import masked_fallback, masked_payload, readable_fallback, readable_payload
    from ingress.printing import show_request
    from ledger.approvals import Approver

    by = Approver(_signed(reason or "looked at"))
    request = _waiting().open(delivery_id, by, action="revealed" if reason else "viewed")
    if request is None:
        fail(f"{delivery_id} does not wait for approval. List what does: entrega approvals list", REFUSED)
    payload = readable_payload(request.stored) if reason else masked_payload(request.stored)
    fallback = readable_fallback(request.stored) if reason else masked_fallback(request.stored)
    if as_json:
        print_json(
            asdict(request.delivery)
            | {"content_hash": request.content_hash, "revealed": bool(reason), "payload": payload, "fallback": fallback}
        )
    else:
        show_request(request, payload, fallback, revealed=bool(reason))


@approvals.command("approve")
def approve(
    reason: Reason, ids: Ids = None, producer: Producer = None, code: Code = None, most: Most = 100,
    content_hash: Annotated[str | None, typer.Option(help="As `show` told it: only what has this content.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Let deliveries go, and their fallbacks; each gets its whole time. With filters, the oldest that match.

    Example: entrega approvals approve 0193e0a0-0000-7000-8000-000000000000 --reason "seen, fine"

    Example: entrega approvals approve --producer loja-sul --code daily_cap --reason "the sale was announced"
    """
    from ledger.approvals import Approver

    wanted = _chosen(ids, producer, code, most)
    done = _waiting().approve(wanted, Approver(_signed(reason)), content_hash=content_hash)
    opened_app().hints.send(done.hints)
    _tell("approved", wanted, set(done.ids), done.refused, as_json=as_json)


@approvals.command("reject")
def reject(
    reason: Reason, ids: Ids = None, producer: Producer = None, code: Code = None, most: Most = 100,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Make sure that deliveries are never sent: they are canceled, and stay on record.

    Example: entrega approvals reject 0193e0a0-0000-7000-8000-000000000000 --reason "wrong price"
    """
    wanted = _chosen(ids, producer, code, most)
    _tell("rejected", wanted, _waiting().reject(wanted, _signed(reason)), {}, as_json=as_json)


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

    return Approvals(opened_app().ledger)


def _signed(reason: str) -> "Signed":
    from config.operator import operator_name
    from ledger.letters import Signed

    return Signed(operator_name(), reason)


_REFUSED = {
    "other_content": "has another content than the one you saw; open it again",
    "unreadable": "cannot be opened: was it erased, or is a master key missing",
}


def _tell(verb: str, wanted: list[UUID], done: set[UUID], refused: "Mapping[UUID, Obstacle]", *, as_json: bool) -> None:
    from ingress.printing import say

    left = [each for each in wanted if each not in done]
    if as_json:
        print_json({verb: sorted(done), "left_alone": left})
    else:
        say(f"{len(done)} {verb}.")
        for each in left:
            why = _REFUSED[refused[each]] if each in refused else "does not wait for approval"
            say(f"{each} {why}; it was left alone.")
    if left:
        raise typer.Exit(REFUSED)
