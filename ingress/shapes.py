"""What the REST door answers, as the types that its OpenAPI is made from."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from delivery.intake import Reply
from delivery.plain_text import is_line
from delivery.redaction import mask_text
from ingress.problems import Language, Trouble, problem_of
from ledger.reading import Delivery

MOST_PAGE = 200

NextStep = Literal["none", "wait", "do_not_resend", "fix_fields", "ask_operator"]
State = Literal["ready", "attempting", "waiting", "uncertain", "held", "succeeded", "dead", "canceled", "expired"]


class Receipt(BaseModel):
    """The honest receipt: what was accepted, what to say to the person, and what to do next."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "01a20146-c68f-77f3-a497-12636e996a58",
                    "state": "ready",
                    "kind": "create_lead",
                    "account": "crm:default",
                    "message": "Seus dados foram registrados e serão processados em breve",
                    "next_step": "wait",
                    "expected_at": "2026-11-22T03:22:25.325350+00:00",
                    "duplicate_of": None,
                }
            ]
        }
    )

    id: UUID
    state: State
    kind: str
    account: str
    message: str = Field(description="A sentence that an agent may say to the person.")
    next_step: NextStep
    expected_at: datetime | None = Field(description="When the next attempt is due; null when nothing more comes.")
    duplicate_of: UUID | None = Field(description="The earlier delivery that a command without a key repeats.")


class BulkItem(BaseModel):
    """One item of a bulk answer: a receipt, or why there is none. In the order of the items."""

    receipt: Receipt | None = None
    error: Trouble | None = None


class BulkAnswer(BaseModel):
    """What became of each item."""

    accepted: int = Field(description="Items with a receipt; repeats count.")
    refused: int
    items: list[BulkItem]


class AttemptView(BaseModel):
    """One line of the timeline."""

    model_config = ConfigDict(from_attributes=True)

    n: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    code: str | None
    http_status: int | None
    provider_code: str | None
    duration_ms: int | None
    wait_s: int | None


class DeliverySummary(BaseModel):
    """A delivery; the recipient is masked."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    kind: str
    account: str
    producer: str
    state: State
    progress: str | None
    priority: str
    recipient: str = Field(description="Masked.", examples=["a***@exemplo.com.br"])
    attempts: int
    code: str | None
    reason: str | None
    receipt: str | None = Field(description="The provider's own id.")
    created_at: datetime
    next_at: datetime | None
    expires_at: datetime
    settled_at: datetime | None
    replay_of: UUID | None
    fallback_id: UUID | None
    fallback_of: UUID | None
    environment: str = Field(
        description="Where it was accepted; no other environment sends it.", examples=["production"]
    )
    unreadable: list[str] = Field(
        default=[],
        description="Instants that the ledger holds outside the years 2000 to 2099; they are shown as the nearest one.",
        exclude_if=lambda value: not value,
    )


class DeliveryView(DeliverySummary):
    """A delivery with the timeline of its attempts."""

    timeline: list[AttemptView]


class Page(BaseModel):
    """Deliveries, newest first."""

    items: list[DeliverySummary]
    next: UUID | None = Field(description="Give it as `before` for the next page; null on the last one.")


def _reason(value: str) -> str:
    if not is_line(value):
        raise ValueError("one_line")
    return mask_text(value)


Reason = Annotated[
    str, Field(min_length=1, max_length=300, description="Kept in the audit trail, masked."), AfterValidator(_reason)
]


class WithReason(BaseModel):
    """Why somebody acts."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "o cliente ligou"}]})

    reason: Reason


class Moved(BaseModel):
    """What an action made of one delivery."""

    id: UUID
    state: State


def page_of(found: list[Delivery], most: int) -> Page:
    """Return a page of at most `most` deliveries; one found beyond that only tells that there is another page."""
    shown = found[:most]
    return Page(
        items=[DeliverySummary.model_validate(each) for each in shown],
        next=shown[-1].id if len(found) > most else None,
    )


def item_of(reply: Reply, language: Language) -> Mapping[str, Any]:
    """Return one item of a bulk answer. Shape: as `BulkItem`."""
    if reply.answer is not None:
        return {"receipt": vars(reply.answer), "error": None}
    return refused_item(reply.refusal or LookupError("a reply holds a receipt or a refusal"), language)


def refused_item(refusal: Exception, language: Language) -> Mapping[str, Any]:
    """Return one refused item of a bulk answer. Shape: as `BulkItem`."""
    return {"receipt": None, "error": problem_of(refusal, language).body(language)["error"]}
