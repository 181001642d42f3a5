"""The REST door to approvals: what waits for a person's yes or no, and the answer, as on the command line."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from ingress.access import Caller
from ingress.bodies import MOST_SMALL_BYTES, checked
from ingress.openapi import model_body, refusals
from ingress.parameters import STRICT
from ingress.problems import Problem
from ingress.rest import RestDoor, Spoken, Word
from ingress.shapes import MOST_PAGE, Moved, Page, WithReason, page_of
from ledger.approvals import Approvals
from ledger.letters import Signed


def approvals_router(door: RestDoor) -> APIRouter:
    """Return the routes for whoever approves."""
    router = APIRouter(prefix="/v1", tags=["approvals"], dependencies=STRICT)
    operator = Annotated[Caller, Depends(door.doorkeeper.needs("operate"))]
    body = Annotated[bytes, Depends(door.body(MOST_SMALL_BYTES))]
    answers: dict[str, Any] = {"responses": refusals(404, 409, body=True), "openapi_extra": model_body(WithReason)}

    @router.get("/approvals", operation_id="list_approvals", responses=refusals())
    def list_approvals(
        caller: operator,  # noqa: ARG001 - the key is checked
        producer: Word = None,
        code: Word = None,
        after: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_PAGE)] = 50,
    ) -> Page:
        """List what waits for approval, oldest first."""
        waiting = Approvals(door.app.database)
        return page_of(waiting.list(producer=producer, code=code, after=after, most=limit + 1), limit)

    @router.post("/deliveries/{delivery_id}/approve", operation_id="approve_delivery", **answers)
    def approve(caller: operator, raw: body, delivery_id: UUID, language: Spoken) -> Moved:
        """Let a delivery go that waits for approval; it gets its whole time."""
        signed = Signed(caller.actor, checked(WithReason, raw, language).reason)
        found = door.visible(caller, delivery_id)
        done = Approvals(door.app.database).approve([delivery_id], signed)
        if not done.ids:
            raise Problem("not_awaiting", state=found.state)
        door.app.hints.send(done.hints)
        return Moved(id=delivery_id, state="ready" if done.hints else "waiting")

    @router.post("/deliveries/{delivery_id}/reject", operation_id="reject_delivery", **answers)
    def reject(caller: operator, raw: body, delivery_id: UUID, language: Spoken) -> Moved:
        """Make sure that a delivery that waits for approval is never sent: it is canceled, and stays on record."""
        signed = Signed(caller.actor, checked(WithReason, raw, language).reason)
        found = door.visible(caller, delivery_id)
        if not Approvals(door.app.database).reject([delivery_id], signed):
            raise Problem("not_awaiting", state=found.state)
        return Moved(id=delivery_id, state="canceled")

    return router
