"""What the engine needs from the world, as protocols; adapters live in `ledger`, `providers`, `tasks` and `worker`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

from delivery.commands import Command
from delivery.errors import ProducerRefused
from delivery.outcomes import Deferred, Outcome, Receipt, Usage
from delivery.producers import UNBOUND, ProducerPolicy


@dataclass(frozen=True)
class Order:
    """One attempt, as a provider sees it.

    Attributes:
        delivery_id: Ours for ever; the idempotency key, external id or opaque data on the wire.
        account: The credentials to use, e.g. "crm:default".
        command: What to carry out.
        attempt: Attempts for this delivery so far, this one included.
        accepted_at: When the command was accepted; the same on every attempt (an e-mail's Date).
        doubtful: True when an earlier attempt may have been carried out: look, where looking is possible.
    """

    delivery_id: UUID
    account: str
    command: Command
    attempt: int
    accepted_at: datetime
    doubtful: bool = False


@dataclass(frozen=True)
class Wire:
    """One request as a provider would get it. Holds personal data in clear: mask it before anybody sees it.

    Attributes:
        method: E.g. "POST" or "SMTP".
        address: The URL or host.
        headers: Without credentials.
    """

    method: str
    address: str
    headers: Mapping[str, str]
    body: Mapping[str, object]


class Provider(Protocol):
    """One outside API, for one account."""

    def send(self, order: Order) -> Receipt:
        """Carry the command out once; never retries by itself.

        Raises:
            Retryable: Surely not carried out.
            Permanent: Will never work as it is.
            Ambiguous: May have been carried out.
        """
        ...

    def preview(self, order: Order) -> Wire:
        """Return what `send` would put on the wire; reaches nothing.

        Raises:
            Permanent: Will never work as it is.
        """
        ...

    def look_up(self, order: Order) -> Receipt | None:
        """Find out, without side effects, whether an order was carried out.

        Returns:
            Its receipt, or None when it surely was not carried out.

        Raises:
            ProviderError: The provider could not tell, or offers no way to ask.
        """
        ...

    def probe(self) -> str:
        """Check reachability and credentials without side effects; return one short fact, e.g. "token accepted".

        Raises:
            ProviderError: The API cannot be used now; the message says what to do.
        """
        ...


@dataclass(frozen=True)
class NewDelivery:
    """A checked command on its way into the ledger.

    Attributes:
        key: The producer's idempotency key; None derives one from the content, good for `same_within`.
        origin: A second key for the message that carried the command, so that a redelivered message opens nothing.
        recipient: The person's masked form, for people to read.
        expires_in: Promise to try until then, counted from the first due instant.
        hold_uncertain: True holds an uncertain delivery for a person, False sends it again once looked up.
        policy: What its producer may do; the ledger counts what must be counted.
        held_code: Why it waits for approval, a word of `delivery.producers.HELD_BECAUSE`; None when it does not.
        environment: That of the delivery it belongs to; None for what is asked for here and now.
    """

    id: UUID
    command: Command
    account: str
    producer: str
    recipient: str
    key: str | None
    origin: str | None
    key_kept: timedelta
    same_within: timedelta
    expires_in: timedelta
    hold_uncertain: bool
    policy: ProducerPolicy = UNBOUND
    held_code: str | None = None
    environment: str | None = None


@dataclass(frozen=True)
class Opened:
    """What the ledger made of a new delivery.

    Attributes:
        id: The delivery that stands for the command: the new one, or the earlier one with the same key.
        fresh: True when a row was written.
        same_body: False when the key was used before with another body (nothing was written).
        state: The state of the delivery that stands.
        next_at: When it is, or was, due.
        refusal: Why its producer may not ask for it. A row was written only when it is fresh, and that one is held,
            because its message could not be turned away; else nothing was, and no delivery stands for it.
    """

    id: UUID
    fresh: bool
    same_body: bool
    state: str
    next_at: datetime
    refusal: ProducerRefused | None = None


@dataclass(frozen=True)
class Claimed:
    """A delivery that this worker holds until its lease ends.

    Attributes:
        fence: Grows with every claim; a settle with an older fence changes nothing.
        tries: Attempts spent so far for each error code, e.g. {"unavailable": 2}; this attempt not included.
        parks: How often the delivery was put into the fallback queue.
        left: Time until it expires, counted from the claim by the ledger's clock.
        late: How long it had been due when it was claimed, by the same clock.
    """

    order: Order
    producer: str
    fence: int
    tries: Mapping[str, int]
    parks: int
    left: timedelta = timedelta.max
    late: timedelta = timedelta()


@dataclass(frozen=True)
class Settlement:
    """The end of one attempt, ready to be written.

    Attributes:
        duration: Time from the first byte to the verdict.
        retry_after: How long the provider asked to be left alone; None when it said nothing.
        usage: What the provider said about the account's limits; None when it said nothing.
        fault: What went wrong inside our own code, for the error tracker; None when a provider spoke.
    """

    claimed: Claimed
    outcome: Outcome
    http_status: int | None = None
    provider_code: str | None = None
    duration: timedelta = timedelta()
    retry_after: timedelta | None = None
    fault: Exception | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class Hint:
    """A delivery that some worker should look at.

    Attributes:
        wait: How long from now; seconds at most.
        alone: No lane takes it up by itself: it has an order key, or may be what kills its worker.
        account: Whose lane it goes by; empty where nobody knows.
        leads: Others wait behind it in its lane, and most of them have no hint of their own.
    """

    id: UUID
    kind: str
    priority: str = "normal"
    wait: timedelta = timedelta()
    alone: bool = False
    account: str = ""
    leads: bool = False


@dataclass(frozen=True)
class Backlog:
    """What is due of one account and kind.

    Attributes:
        due: Deliveries without a live hint; counted no further than a round can take.
        live: Due deliveries whose hint is still under way, counted likewise.
    """

    account: str
    kind: str
    due: int
    live: int


@dataclass(frozen=True)
class Swept:
    """What one sweep found.

    Attributes:
        freed: Expired leases of idempotent operations, waiting again.
        uncertain: Expired leases whose request may have left.
        dead: Deliveries whose workers died again and again in the attempt.
        expired: Deliveries whose time ran out before an attempt.
    """

    freed: int = 0
    uncertain: int = 0
    dead: int = 0
    expired: int = 0


@dataclass(frozen=True)
class Doubt:
    """An uncertain delivery, taken for a look-up.

    Attributes:
        age: Since it became uncertain.
        hold: True when a person must decide where nothing can be proved.
        resent: True when it was sent again once already.
        listening: Provider events were arriving for its account all the while, so that silence means something.
    """

    claimed: Claimed
    age: timedelta
    hold: bool
    resent: bool
    listening: bool


@dataclass(frozen=True)
class Conclusion:
    """What became of a doubt.

    Attributes:
        verdict: `proved` (carried out), `absent` (surely not), `resend` (unknown, sent again once), `unconfirmed`
            (unknown, a person decides) or `later` (look again).
        receipt: The proof, when proved.
        reason: A sentence for the audit trail.
    """

    doubt: Doubt
    verdict: Literal["proved", "absent", "resend", "unconfirmed", "later"]
    reason: str
    receipt: Receipt | None = None


class Doubts(Protocol):
    """The uncertain deliveries."""

    def take(self, *, pause: timedelta, window: Mapping[str, timedelta], most: int) -> list[Doubt]:
        """Take uncertain deliveries for a look-up, longest uncertain first.

        Args:
            pause: Not those that were looked up within this time.
            window: For each kind, how long evidence may take: what `Doubt.listening` looks back over.
        """
        ...

    def conclude(self, conclusions: Iterable[Conclusion]) -> set[UUID]:
        """Write the conclusions of doubts that nobody settled meanwhile; return the ids that were changed."""
        ...


class Ledger(Protocol):
    """The truth. Every operation takes many rows, and each is one transaction."""

    def open(self, new: Sequence[NewDelivery]) -> list[Opened]:
        """Write the deliveries whose keys are unused; answer for the rest. One result per entry, in order."""
        ...

    def claim(self, ids: Collection[UUID], *, worker: str, leases: Mapping[str, timedelta]) -> list[Claimed]:
        """Take those of `ids` that are due and free; commits "attempt started" before it returns.

        Args:
            ids: Deliveries a hint named.
            worker: Who takes them, for the attempt row.
            leases: How long a claim lasts for each kind, by the database clock.
        """
        ...

    def claim_next(
        self,
        lane: tuple[str, str],
        *,
        most: int,
        worker: str,
        leases: Mapping[str, timedelta],
        first: Collection[UUID] = (),
    ) -> list[Claimed]:
        """Take `first`, as `claim` does, and what is ready in a lane, most urgent and oldest first.

        Those with an order key, and those that may be what kills their workers, wait for their own hints.

        Args:
            lane: An account and a kind.
        """
        ...

    def settle(self, settlements: Iterable[Settlement]) -> set[UUID]:
        """Write outcomes whose fence still holds; return the ids that were changed."""
        ...

    def sweep(self, *, idempotent: Collection[str], lease_retries: int) -> Swept:
        """Free expired leases and end what is overdue.

        Args:
            idempotent: Kinds that may be sent again without a look-up.
            lease_retries: Expired leases of one delivery before it is dead: it may be what kills its workers.
        """
        ...

    def backlogs(self, *, stale: timedelta, most: int) -> list[Backlog]:
        """Return what is due, the fallback queue included, for each account that no person holds.

        Args:
            stale: Age after which a hint counts as lost.
            most: Count no further than this.
        """
        ...

    def due(self, backlog: Backlog, *, stale: timedelta, waits: Sequence[timedelta]) -> list[Hint]:
        """Take due deliveries without a live hint, most urgent and oldest first, and mark them as hinted.

        Args:
            stale: Age after which a hint counts as lost.
            waits: When calls may begin, soonest first: the n-th delivery gets the n-th, and no more are taken.
        """
        ...


class Hints(Protocol):
    """The way a delivery id reaches a worker. Losing a hint costs time, never a delivery."""

    def send(self, hints: Iterable[Hint]) -> None:
        """Have the hints published, best effort: waits for nothing, and never raises for an absent broker."""
        ...


def by_account(claimed: Iterable[Claimed]) -> dict[str, list[Claimed]]:
    """Sort claims by account; each list keeps the order."""
    found: dict[str, list[Claimed]] = {}
    for each in claimed:
        found.setdefault(each.order.account, []).append(each)
    return found


class Gate(Protocol):
    """Something that may stop an attempt before any byte leaves: a breaker, a limiter. No method raises."""

    def closed(self, claimed: Sequence[Claimed]) -> list[Deferred | None]:
        """Return for each why and until when the gate is closed (`burned=False`), or None when the attempt may go."""
        ...

    def ended(self, settlements: Sequence[Settlement]) -> None:
        """Learn how attempts ended that this gate let through, also those on which a later gate closed."""
        ...

    def room(self, account: str, kind: str, *, within: timedelta, most: int) -> list[timedelta]:
        """Foresee when attempts would find this gate open, and promise nothing.

        Args:
            account: E.g. "crm:default".
            kind: E.g. "create_lead".
            within: Look no further ahead.
            most: At most this many.

        Returns:
            One wait from now for each attempt, soonest first; zeros where nothing binds.
        """
        ...


class Teller(Protocol):
    """Where the engine tells what happened: one event for one attempt."""

    def tell(self, settlement: Settlement, *, method: str, endpoint: str) -> None:
        """Record the event. Must not raise: telling never decides a delivery.

        Args:
            method: The verb on the wire, e.g. "POST" or "SMTP".
            endpoint: The path as the spec writes it, never with values in it.
        """
        ...
