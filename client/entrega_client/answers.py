"""What Entrega answers, as values. Fields that a newer Entrega adds are left out, so that an old client goes on."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from entrega_client.errors import EntregaError, refusal_of

OPEN_STATES = frozenset({"ready", "attempting", "waiting", "uncertain", "held"})


@dataclass(frozen=True)
class Receipt:
    """What was accepted: it is durable, and it will be delivered once in effect.

    Attributes:
        key: The key the command went with; the same key and body give this receipt again.
        message: A sentence that an agent may say to the person.
        next_step: none, wait, do_not_resend, fix_fields or ask_operator.
        expected_at: When the next attempt is due; None when nothing more comes.
        duplicate_of: The earlier delivery that this command repeats.
    """

    id: str
    state: str
    kind: str
    account: str
    message: str
    next_step: str
    expected_at: datetime | None
    duplicate_of: str | None
    key: str


@dataclass(frozen=True)
class ItemAnswer:
    """What became of one item of many: a receipt or an error, never both.

    Attributes:
        key: The key the item went with; send a refused item again with another one after mending it.
    """

    key: str
    receipt: Receipt | None
    error: EntregaError | None


@dataclass(frozen=True)
class Attempt:
    """One call to the provider."""

    n: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    code: str | None
    http_status: int | None
    duration_ms: int | None
    wait_s: int | None


@dataclass(frozen=True)
class Delivery:
    """A delivery as it stands; the recipient is masked.

    Attributes:
        progress: What the provider told later: sent, delivered, read, failed or bounced.
        code: Stable word for the last outcome.
        receipt: The provider's own id.
    """

    id: str
    kind: str
    account: str
    state: str
    progress: str | None
    recipient: str
    attempts: int
    code: str | None
    reason: str | None
    receipt: str | None
    created_at: datetime
    next_at: datetime | None
    expires_at: datetime
    settled_at: datetime | None
    fallback_id: str | None
    timeline: tuple[Attempt, ...]

    @property
    def is_settled(self) -> bool:
        """True when nothing more happens by itself."""
        return self.state not in OPEN_STATES


def receipt_of(body: Mapping[str, Any], key: str) -> Receipt:
    """Read a receipt.

    Raises:
        KeyError: A field is missing.
        ValueError: An instant is none.
    """
    return Receipt(
        id=str(body["id"]),
        state=str(body["state"]),
        kind=str(body["kind"]),
        account=str(body["account"]),
        message=str(body["message"]),
        next_step=str(body["next_step"]),
        expected_at=_instant(body["expected_at"]),
        duplicate_of=body["duplicate_of"],
        key=key,
    )


def item_of(body: Mapping[str, Any], key: str) -> ItemAnswer:
    """Read one item of a bulk answer; raises as `receipt_of`."""
    if body["receipt"] is not None:
        return ItemAnswer(key, receipt_of(body["receipt"], key), None)
    return ItemAnswer(key, None, refusal_of(body["error"]))


def delivery_of(body: Mapping[str, Any]) -> Delivery:
    """Read a delivery; raises as `receipt_of`."""
    return Delivery(
        id=str(body["id"]),
        kind=str(body["kind"]),
        account=str(body["account"]),
        state=str(body["state"]),
        progress=body["progress"],
        recipient=str(body["recipient"]),
        attempts=int(body["attempts"]),
        code=body["code"],
        reason=body["reason"],
        receipt=body["receipt"],
        created_at=datetime.fromisoformat(body["created_at"]),
        next_at=_instant(body["next_at"]),
        expires_at=datetime.fromisoformat(body["expires_at"]),
        settled_at=_instant(body["settled_at"]),
        fallback_id=body["fallback_id"],
        timeline=tuple(_attempt(each) for each in body["timeline"]),
    )


def _attempt(body: Mapping[str, Any]) -> Attempt:
    return Attempt(
        n=int(body["n"]),
        started_at=datetime.fromisoformat(body["started_at"]),
        ended_at=_instant(body["ended_at"]),
        outcome=body["outcome"],
        code=body["code"],
        http_status=body["http_status"],
        duration_ms=body["duration_ms"],
        wait_s=body["wait_s"],
    )


def _instant(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None
