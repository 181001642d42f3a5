"""The REST door for operators: dead letters are listed, shown, replayed, edited and discarded as on the command line.

Every action is signed with the key's producer in the audit trail. Payloads are masked before they leave.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from delivery.redaction import JsonLike
from ingress.access import Caller
from ingress.bodies import MOST_SMALL_BYTES, checked
from ingress.bounds import FASTEST_PACE, LONGEST_AGE_S, MOST_REPLAYED, SLOWEST_PACE
from ingress.editing import edited_body, masked_fallback, masked_payload
from ingress.openapi import model_body, refusals
from ingress.parameters import STRICT
from ingress.problems import Problem
from ingress.rest import RestDoor, Spoken, Word
from ingress.shapes import MOST_PAGE, Moved, Page, Reason, Receipt, WithReason, page_of
from ledger.letters import Letter, LetterFilter, LetterMoved, Letters, Signed
from ledger.replays import Replays, StopRule

# The sweep sends the others, as fast as workers take them.
_MOST_HINTS = 1000

AgeS = Annotated[int, Field(ge=0, le=LONGEST_AGE_S)]
FilterWord = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9_.:@-]+$")]


class Filter(BaseModel):
    """Which letters; what is left out does not narrow. Ages in seconds, counted from when the delivery died."""

    model_config = ConfigDict(extra="forbid")

    kind: FilterWord | None = None
    account: FilterWord | None = None
    code: FilterWord | None = None
    producer: FilterWord | None = None
    older_than_s: AgeS | None = None
    newer_than_s: AgeS | None = None

    def wanted(self) -> LetterFilter:
        """Return it as the ledger takes it."""
        ages = [None if each is None else timedelta(seconds=each) for each in (self.older_than_s, self.newer_than_s)]
        return LetterFilter(self.kind, self.account, self.code, self.producer, *ages)


class StopAfter(BaseModel):
    """When a replay stops by itself: above a share of those that ended (counted from ten on), or a number of errors."""

    model_config = ConfigDict(extra="forbid")

    above: Annotated[float, Field(ge=0, le=MOST_REPLAYED)] = 0.2
    unit: Literal["share", "errors"] = "share"


class ReplayMany(BaseModel):
    """A replay by filter. As a preview, which is the default, it only counts."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "filter": {"account": "crm:default", "code": "forbidden"},
                    "reason": "o CRM devolveu o acesso",
                    "preview": False,
                    "pace": 10,
                }
            ]
        },
    )

    filter: Filter
    reason: Reason
    preview: bool = True
    pace: (
        Annotated[float, Field(ge=SLOWEST_PACE, le=FASTEST_PACE, description="Due in a second; all at once without.")]
        | None
    ) = None
    stop_after: StopAfter = StopAfter()
    limit: Annotated[int, Field(ge=1, le=MOST_REPLAYED, description="At most, oldest first.")] = 10_000


class ReplayStarted(BaseModel):
    """How many match, how many move again, and the replay's id."""

    matching: int
    replayed: int
    replay: UUID | None


class ReplayView(BaseModel):
    """A bulk replay and how it stands."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    actor: str
    reason: str
    filter: dict[str, Any]
    pace: float | None
    threshold: float
    threshold_unit: str
    total: int
    succeeded: int
    dead_again: int
    open: int
    put_back: int
    started_at: datetime
    stopped_at: datetime | None
    stop_reason: str | None


class PileView(BaseModel):
    """How many letters one account has for one code."""

    model_config = ConfigDict(from_attributes=True)

    account: str
    code: str | None
    count: int
    oldest_at: datetime


class ActionView(BaseModel):
    """One line of the audit trail."""

    model_config = ConfigDict(from_attributes=True)

    at: datetime
    actor: str
    action: str
    reason: str | None


class LetterView(BaseModel):
    """A letter with its payload, masked, and its audit trail."""

    id: UUID
    kind: str
    account: str
    producer: str
    state: str
    payload: dict[str, Any] | None
    payload_note: str | None = Field(description="Why there is no payload.")
    fallback: dict[str, Any] | None = Field(description="What would be sent in its place, with kind and account.")
    may_exist: bool = Field(description="An earlier send may have been carried out.")
    history: list[ActionView]


class Edit(BaseModel):
    """Corrections of a letter: single fields, where null takes one out, or the whole new body."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"reason": "produto errado", "changes": {"interesse": "produto_a"}}]},
    )

    reason: Reason
    changes: dict[str, Any] = Field(min_length=1, max_length=50)
    whole: bool = False
    anyway: bool = Field(default=False, description="Also when the old one may have arrived.")


class Edited(BaseModel):
    """What took the letter's place; payloads masked."""

    edited: UUID
    receipt: Receipt
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def letters_router(door: RestDoor) -> APIRouter:
    """Return the routes for operators."""
    router = APIRouter(prefix="/v1", tags=["dead letters"], dependencies=STRICT)
    _add_looking(router, door)
    _add_replays(router, door)
    _add_moving(router, door)
    return router


def _add_looking(router: APIRouter, door: RestDoor) -> None:
    operator = Annotated[Caller, Depends(door.doorkeeper.needs("operate"))]

    @router.get("/dead-letters", operation_id="list_dead_letters", responses=refusals())
    def list_letters(
        caller: operator,
        wanted: Annotated[LetterFilter, Depends(_query_filter)],
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_PAGE)] = 50,
    ) -> Page:
        """List dead letters and held deliveries, newest first."""
        found = _letters(door, caller).search(wanted, before=before, most=limit + 1)
        return page_of(found, limit)

    @router.get("/dead-letters/summary", operation_id="count_dead_letters", responses=refusals())
    def summary(caller: operator, wanted: Annotated[LetterFilter, Depends(_query_filter)]) -> list[PileView]:
        """Count them for each account and code, largest first."""
        return [PileView.model_validate(each) for each in _letters(door, caller).summary(wanted)]

    @router.get("/dead-letters/{delivery_id}", operation_id="show_dead_letter", responses=refusals(404))
    def show(
        caller: operator,
        delivery_id: UUID,
        reason: Annotated[str, Query(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")] = "looked at",
    ) -> LetterView:
        """Show one with its payload, masked. That you looked is kept on record."""
        letters = _letters(door, caller)
        letter = _viewed(letters, delivery_id, reason)
        facts = {name: value for name, value in vars(letter).items() if name not in {"stored", "closed"}}
        history = [ActionView.model_validate(each) for each in letters.history(delivery_id)]
        shown = {"payload": _shown(letter.stored), "fallback": masked_fallback(letter.stored)}
        return LetterView(**facts, **shown, payload_note=letter.closed, history=history)


def _add_replays(router: APIRouter, door: RestDoor) -> None:
    operator = Annotated[Caller, Depends(door.doorkeeper.needs("operate"))]
    body = Annotated[bytes, Depends(door.body(MOST_SMALL_BYTES))]

    @router.post(
        "/dead-letters/replay",
        operation_id="replay_dead_letters",
        responses=refusals(body=True),
        openapi_extra=model_body(ReplayMany),
    )
    def replay_many(caller: operator, raw: body, language: Spoken) -> ReplayStarted:
        """Replay the letters that a filter matches, at a pace; a preview says how many there are."""
        asked = checked(ReplayMany, raw, language)
        replays, wanted = Replays(door.app.database), asked.filter.wanted()
        matching = replays.count(wanted)
        if asked.preview or not matching:
            return ReplayStarted(matching=matching, replayed=0, replay=None)
        stop = StopRule(asked.stop_after.above, asked.stop_after.unit)
        most = min(matching, asked.limit)
        signed = Signed(caller.actor, asked.reason)
        replay, done = replays.start(wanted, signed, pace=asked.pace, stop=stop, most=most)
        door.app.hints.send(done.hints[:_MOST_HINTS])
        return ReplayStarted(matching=matching, replayed=len(done.ids), replay=replay)

    @router.get("/replays", operation_id="list_replays", responses=refusals())
    def list_replays(caller: operator, limit: Annotated[int, Query(ge=1, le=MOST_PAGE)] = 20) -> list[ReplayView]:  # noqa: ARG001 - the key is checked
        """List replays by filter, newest first: how they stand, and why they stopped."""
        return [ReplayView.model_validate(each) for each in Replays(door.app.database).recent(most=limit)]


def _add_moving(router: APIRouter, door: RestDoor) -> None:
    operator = Annotated[Caller, Depends(door.doorkeeper.needs("operate"))]
    body = Annotated[bytes, Depends(door.body(MOST_SMALL_BYTES))]
    edit_body = Annotated[bytes, Depends(door.body(door.app.intake.max_bytes))]
    answers: dict[str, Any] = {"responses": refusals(404, 409, body=True), "openapi_extra": model_body(WithReason)}

    @router.post("/deliveries/{delivery_id}/replay", operation_id="replay_delivery", **answers)
    def replay(caller: operator, raw: body, delivery_id: UUID, language: Spoken) -> Moved:
        """Try a dead letter again, with fresh budgets. What may have arrived is looked up first."""
        reason = checked(WithReason, raw, language).reason
        found = door.visible(caller, delivery_id)
        done = _letters(door, caller).replay([delivery_id], reason=reason)
        if not done.ids:
            raise Problem("not_a_letter", state=found.state)
        door.app.hints.send(done.hints)
        return Moved(id=delivery_id, state="ready" if done.hints else "uncertain")

    @router.post("/dead-letters/{delivery_id}/discard", operation_id="discard_dead_letter", **answers)
    def discard(caller: operator, raw: body, delivery_id: UUID, language: Spoken) -> Moved:
        """Give a letter up for good: it is canceled, and stays on record."""
        reason = checked(WithReason, raw, language).reason
        found = door.visible(caller, delivery_id)
        if not _letters(door, caller).discard([delivery_id], reason=reason):
            raise Problem("not_a_letter", state=found.state)
        return Moved(id=delivery_id, state="canceled")

    @router.post(
        "/dead-letters/{delivery_id}/edit",
        operation_id="edit_dead_letter",
        status_code=202,
        responses=refusals(404, 409, body=True),
        openapi_extra=model_body(Edit),
    )
    def edit(caller: operator, raw: edit_body, delivery_id: UUID, language: Spoken) -> Edited:
        """Correct a letter: a new delivery takes its place, checked like any other, and the old one is canceled."""
        asked = checked(Edit, raw, language)
        letters = _letters(door, caller)
        letter = _editable(letters, delivery_id, asked)
        new = edited_body(letter, asked.changes, whole=asked.whole, language=language)
        new["options"]["key"] = letters.edit_key(delivery_id, new)
        ledger = letters.resubmitting(delivery_id, reason=asked.reason)
        intake = replace(door.app.intake, ledger=ledger)  # under the policy of its producer
        try:
            answer = intake.submit(letter.kind, new, producer=letter.producer, language=language)
        except LetterMoved:
            raise Problem("not_a_letter", state="canceled") from None
        shown = {"before": _shown(letter.stored), "after": _shown({"content": new})}
        return Edited(edited=delivery_id, receipt=Receipt.model_validate(asdict(answer)), **shown)


def _letters(door: RestDoor, caller: Caller) -> Letters:
    return Letters(door.app.ledger, actor=caller.actor)


def _viewed(letters: Letters, delivery_id: UUID, reason: str) -> Letter:
    letter = letters.view(delivery_id, reason=reason)
    if letter is None:
        raise Problem("not_found")
    return letter


def _editable(letters: Letters, delivery_id: UUID, asked: Edit) -> Letter:
    letter = _viewed(letters, delivery_id, asked.reason)
    if letter.state not in {"dead", "held"}:
        raise Problem("not_a_letter", state=letter.state)
    if letter.closed:
        raise Problem("unreadable")
    if letter.may_exist and not asked.anyway:
        raise Problem("may_exist")
    return letter


def _shown(stored: Mapping[str, Any] | None) -> dict[str, JsonLike] | None:
    masked = masked_payload(stored)
    return masked if isinstance(masked, dict) else None


def _query_filter(  # noqa: PLR0913, PLR0917 - a query's filters
    kind: Word = None,
    account: Word = None,
    code: Word = None,
    producer: Word = None,
    older_than_s: Annotated[int | None, Query(ge=0, le=LONGEST_AGE_S)] = None,
    newer_than_s: Annotated[int | None, Query(ge=0, le=LONGEST_AGE_S)] = None,
) -> LetterFilter:
    ages: Sequence[timedelta | None] = [
        None if each is None else timedelta(seconds=each) for each in (older_than_s, newer_than_s)
    ]
    return LetterFilter(kind, account, code, producer, *ages)
