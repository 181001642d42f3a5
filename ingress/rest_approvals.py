"""The REST door to approvals: what waits for a person's yes or no, and the answer, as on the command line."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from ingress.access import Caller
from ingress.bodies import MOST_SMALL_BYTES, checked
from ingress.editing import masked_fallback, masked_payload, readable_fallback, readable_payload
from ingress.openapi import model_body, refusals
from ingress.parameters import STRICT
from ingress.problems import Problem
from ingress.rest import RestDoor, Spoken, Word
from ingress.shapes import MOST_PAGE, DeliverySummary, Moved, Page, WithReason, page_of
from ledger.approvals import Approvals, Approver, Request
from ledger.letters import Signed


class Approval(WithReason):
    """A person's yes."""

    content_hash: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="What was seen, as `show_approval` told it: a delivery with another content is not approved.",
    )


class ApprovalView(DeliverySummary):
    """A delivery that waits for approval, with all that would be sent."""

    content_hash: str | None = Field(description="What an approval is bound to; null when nothing can be opened.")
    revealed: bool = Field(description="Whether personal data and texts stand in clear.")
    payload: dict[str, Any] | None
    fallback: dict[str, Any] | None = Field(
        description="What would be sent if that fails, with its kind and account. An approval covers both."
    )


def approvals_router(door: RestDoor) -> APIRouter:
    """Return the routes for whoever approves."""
    router = APIRouter(prefix="/v1", tags=["approvals"], dependencies=STRICT)
    _add_looking(router, door)
    _add_answers(router, door)
    return router


def _add_looking(router: APIRouter, door: RestDoor) -> None:
    operator = Annotated[Caller, Depends(door.doorkeeper.needs("operate"))]
    body = Annotated[bytes, Depends(door.body(MOST_SMALL_BYTES))]

    @router.get("/approvals", operation_id="list_approvals", responses=refusals())
    def list_approvals(
        caller: operator,  # noqa: ARG001 - the key is checked
        producer: Word = None,
        code: Word = None,
        after: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_PAGE)] = 50,
    ) -> Page:
        """List what waits for approval, oldest first."""
        waiting = Approvals(door.app.ledger)
        return page_of(waiting.list(producer=producer, code=code, after=after, most=limit + 1), limit)

    @router.get("/approvals/{delivery_id}", operation_id="show_approval", responses=refusals(404, 409))
    def show(caller: operator, delivery_id: UUID) -> ApprovalView:
        """Show one with all that would be sent, masked. That you looked is kept on record."""
        found = door.visible(caller, delivery_id)
        by = Approver(Signed(caller.actor, "looked at"), caller.producer)
        request = Approvals(door.app.ledger).open(delivery_id, by, action="viewed")
        if request is None:
            raise Problem("not_awaiting", state=found.state)
        return _view(request, masked_payload(request.stored), masked_fallback(request.stored), revealed=False)

    @router.post(
        "/approvals/{delivery_id}/reveal",
        operation_id="reveal_approval",
        responses=refusals(404, 409, body=True),
        openapi_extra=model_body(WithReason),
    )
    def reveal(caller: operator, raw: body, delivery_id: UUID, language: Spoken) -> ApprovalView:
        """Show one in clear, so that you know what you approve. That you read it, and why, is kept on record."""
        by = Approver(Signed(caller.actor, checked(WithReason, raw, language).reason), caller.producer)
        found = door.visible(caller, delivery_id)
        request = Approvals(door.app.ledger).open(delivery_id, by, action="revealed")
        if request is None:
            raise Problem("not_awaiting", state=found.state)
        return _view(request, readable_payload(request.stored), readable_fallback(request.stored), revealed=True)


def _add_answers(router: APIRouter, door: RestDoor) -> None:
    operator = Annotated[Caller, Depends(door.doorkeeper.needs("operate"))]
    body = Annotated[bytes, Depends(door.body(MOST_SMALL_BYTES))]
    answers = refusals(404, 409, body=True)

    @router.post(
        "/deliveries/{delivery_id}/approve",
        operation_id="approve_delivery",
        responses=answers,
        openapi_extra=model_body(Approval),
    )
    def approve(caller: operator, raw: body, delivery_id: UUID, language: Spoken) -> Moved:
        """Let a delivery go that another key asked for, with its whole time; its fallback is approved with it."""
        asked = checked(Approval, raw, language)
        found = door.visible(caller, delivery_id)
        by = Approver(Signed(caller.actor, asked.reason), caller.producer)
        done = Approvals(door.app.ledger).approve([delivery_id], by, content_hash=asked.content_hash)
        if done.refused:
            raise Problem(done.refused[delivery_id])
        if not done.ids:
            raise Problem("not_awaiting", state=found.state)
        door.app.hints.send(done.hints)
        return Moved(id=delivery_id, state="ready" if done.hints else "waiting")

    @router.post(
        "/deliveries/{delivery_id}/reject",
        operation_id="reject_delivery",
        responses=answers,
        openapi_extra=model_body(WithReason),
    )
    def reject(caller: operator, raw: body, delivery_id: UUID, language: Spoken) -> Moved:
        """Make sure that a delivery that waits for approval is never sent: it is canceled, and stays on record."""
        signed = Signed(caller.actor, checked(WithReason, raw, language).reason)
        found = door.visible(caller, delivery_id)
        if not Approvals(door.app.ledger).reject([delivery_id], signed):
            raise Problem("not_awaiting", state=found.state)
        return Moved(id=delivery_id, state="canceled")


def _view(request: Request, payload: object, fallback: object, *, revealed: bool) -> ApprovalView:
    summary = DeliverySummary.model_validate(request.delivery).model_dump()
    shown = {"payload": payload, "fallback": fallback, "content_hash": request.content_hash, "revealed": revealed}
    return ApprovalView.model_validate(summary | shown)
