"""How an attempt can end: four outcomes, not two."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

Spent = Literal["park", "dead", "hold"]


@dataclass(frozen=True)
class Usage:
    """What a provider's headers say about how much of its limits the account has used.

    Attributes:
        room: Share of the account's pace that is still wise, from 1 (nothing to do) to 0.
        wait: When all is used up: how long until calls are accepted again; None when that was not said.
        unreadable: True when a header made no sense.
    """

    room: float = 1.0
    wait: timedelta | None = None
    unreadable: bool = False


@dataclass(frozen=True)
class Receipt:
    """The provider's own proof that it took the request.

    Attributes:
        id: The provider's id, e.g. a lead id, a wamid or an SMTP queue id.
        detail: Small facts worth keeping, never personal data, e.g. {"message_status": "accepted"}.
        http_status: The status on the wire, when the wire is HTTP.
        usage: What the answer said about the account's limits.
    """

    id: str
    detail: dict[str, str] = field(default_factory=dict)
    http_status: int | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class Succeeded:
    """The provider took the request and proved it."""

    receipt: Receipt
    code: str = "ok"


@dataclass(frozen=True)
class Deferred:
    """Surely not carried out: try later.

    Attributes:
        wait: How long until the next attempt.
        parked: True when the short retries are spent and the delivery goes to the fallback queue.
        burned: False when a closed gate stopped the attempt before any byte left.
        paced: True when upkeep wakes it, as fast as the gates let through, and no clock of its own: after an outage all
            would come back at once.
        lone: True when the gate closed for this delivery alone, so that the next one may find it open.
    """

    code: str
    wait: timedelta
    reason: str
    parked: bool = False
    burned: bool = True
    paced: bool = False
    lone: bool = False


@dataclass(frozen=True)
class Rejected:
    """Will never work as it is: a dead letter, or held when the fault is the account's."""

    code: str
    reason: str
    held: bool = False


@dataclass(frozen=True)
class Uncertain:
    """The request may have been carried out and no proof came: look before anything is sent again."""

    code: str
    reason: str


Outcome = Succeeded | Deferred | Rejected | Uncertain
