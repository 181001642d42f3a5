"""What one producer may do: rates, caps, whom it may reach, approval, and the guard against loops. Pure rules.

The intake asks what needs no counting (frozen, allow-list, approval); what is counted is counted by the ledger, in the
transaction that opens the delivery, by the functions of this module.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from delivery.commands import Command, SendEmail
from delivery.errors import ProducerRefused
from delivery.fields import EmailAddress, WhatsAppRecipient
from delivery.mail_rules import is_sender
from delivery.reach import messages_of, named, reached

_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)

NEEDS_APPROVAL = "needs_approval"
LOOPING = "producer_frozen"
SUPPRESSED = "suppressed"
# code: why a delivery waits for approval; the one for whom the producer must ask, or a message that could not come back
HELD_BECAUSE: Mapping[str, str] = {
    NEEDS_APPROVAL: "a person must approve what this producer asks for",
    "rate_exceeded": "its producer had used up its minute, and its message could not be turned away",
    "daily_cap": "its producer had used up its day, and its message could not be turned away",
    "new_recipients_cap": "its producer had met its new people of the day, and its message could not be turned away",
    "recipient_not_allowed": "its producer may not write to this recipient, and its message could not be turned away",
    "too_many_endpoints": "its producer has too many callback URLs, so nobody is told, and it could not be turned away",
    "sender_not_allowed": "its producer may not send mail from this address, and its message could not be turned away",
    "too_many_recipients": "it reaches more people than its producer may write to, and could not be turned away",
    SUPPRESSED: "one of its recipients was erased, and nothing is accepted for them",
    LOOPING: "its producer was frozen, and its message could not be turned away",
}


@dataclass(frozen=True)
class LoopGuard:
    """The same content to one person, counted without repeats of one key: one more than `most` freezes the producer."""

    most: int = 20
    within: timedelta = timedelta(hours=1)


@dataclass(frozen=True)
class ProducerPolicy:
    """What one producer may do; what is None does not bind.

    Caps count people: a mail counts each of its recipients, a command with a fallback those of both.

    Attributes:
        per_minute: People in the minute that begins with the first of them.
        per_day: People in the 24 hours that begin with the first of them.
        new_recipients_per_day: People for whom this installation never accepted anything before, likewise.
        recipients_per_mail: People whom one e-mail may reach: to, cc and bcc together.
        allowed: Whom it may reach: keyed hashes of addresses and numbers, and "@domain"; None means everybody.
        senders: What it may send mail from: addresses and "@domain"; None means what the account allows.
        most_open: Deliveries that may wait, scheduled ones included; more over HTTP are answered 429.
        most_open_mb: Megabytes of their payloads, likewise.
        needs_approval: Its deliveries wait for a person.
        loop: The guard against loops.
        frozen: Why nothing more is taken from it.
    """

    per_minute: int | None = None
    per_day: int | None = None
    new_recipients_per_day: int | None = None
    recipients_per_mail: int | None = None
    allowed: frozenset[str] | None = None
    senders: frozenset[str] | None = None
    most_open: int = 200_000
    most_open_mb: int = 1_000
    needs_approval: bool = False
    loop: LoopGuard | None = LoopGuard()
    frozen: str | None = None

    @property
    def counts(self) -> bool:
        """True when something must be counted for each delivery."""
        return any(each is not None for each in (self.per_minute, self.per_day, self.new_recipients_per_day))


DEFAULT = ProducerPolicy()
# Counts nothing: for callbacks, which are our own, and for a fallback, which was counted with its command.
UNBOUND = ProducerPolicy(loop=None)


class Policies(Protocol):
    """What producers may do, as the intake asks."""

    def of(self, producer: str) -> ProducerPolicy:
        """Return the policy of a producer, at most a few seconds old.

        Raises:
            LedgerUnavailable: It is not known and cannot be read.
        """
        ...

    def mark(self, recipient: str) -> str:
        """Return the keyed hash of a recipient, as allow-lists hold it."""
        ...

    def is_suppressed(self, recipient: str) -> bool:
        """Tell whether the person was erased and nothing is accepted for them; known as `of` knows policies."""
        ...

    def forget(self) -> None:
        """Read anew at the next question: something was changed just now."""
        ...


class Unbound:
    """Policies of nobody: every producer may do everything."""

    def of(self, producer: str) -> ProducerPolicy:  # noqa: ARG002 - the protocol's
        """Return the policy that forbids nothing."""
        return UNBOUND

    def mark(self, recipient: str) -> str:
        """Return what nothing compares with."""
        return recipient

    def is_suppressed(self, recipient: str) -> bool:  # noqa: ARG002 - the protocol's
        """Return False."""
        return False

    def forget(self) -> None:
        """Do nothing."""


def refusal(
    policy: ProducerPolicy, command: Command, policies: Policies, *, senders: Collection[str] = ()
) -> ProducerRefused | None:
    """Return why a producer may not ask for this, or for its fallback, counts apart; None when it may.

    Args:
        senders: The addresses that mail would come from.
    """
    if policy.frozen is not None:
        return ProducerRefused(LOOPING)
    if any(map(policies.is_suppressed, named(command))):
        return ProducerRefused(SUPPRESSED)
    allowed = policy.allowed
    if allowed is not None and not all(_is_allowed(allowed, each, policies) for each in reached(command)):
        return ProducerRefused("recipient_not_allowed")
    may_send_from = policy.senders
    if may_send_from is not None and not all(is_sender(each, may_send_from) for each in senders):
        return ProducerRefused("sender_not_allowed")
    most = policy.recipients_per_mail
    if most is not None and any(_mail_size(each) > most for each in messages_of(command)):
        return ProducerRefused("too_many_recipients")
    return None


def _mail_size(command: Command) -> int:
    return len(set(command.recipients)) if isinstance(command, SendEmail) else 1


def _is_allowed(allowed: frozenset[str], recipient: str, policies: Policies) -> bool:
    _, at, domain = recipient.rpartition("@")
    return (at + domain in allowed if at else False) or policies.mark(recipient) in allowed


def allowed_entry(typed: str, policies: Policies) -> str:
    """Return what an operator typed (an address, a number, `@domain`) as an allow-list holds it.

    Raises:
        ValueError: It is neither.
    """
    if typed.startswith("@"):
        try:
            return "@" + TypeAdapter(EmailAddress).validate_python(f"x{typed}").rpartition("@")[2].lower()
        except ValidationError:
            raise ValueError("domain") from None
    for kind in (EmailAddress, WhatsAppRecipient):
        try:
            found: str = TypeAdapter(kind).validate_python(typed)
        except ValidationError:
            continue
        return policies.mark(found.lower() if "@" in found else found)
    raise ValueError("recipient")


@dataclass(frozen=True)
class Used:
    """What a producer has used of its windows; each begins with its first delivery."""

    minute_from: datetime
    in_minute: int
    day_from: datetime
    in_day: int
    new_in_day: int

    def at(self, now: datetime) -> "Used":
        """Return what counts at this instant: a window that is over, or empty, begins now."""
        found = self
        if not self.in_minute or now >= self.minute_from + _MINUTE:
            found = replace(found, minute_from=now, in_minute=0)
        if not self.in_day or now >= self.day_from + _DAY:
            found = replace(found, day_from=now, in_day=0, new_in_day=0)
        return found

    def plus(self, *, people: int, new_people: int) -> "Used":
        """Return it with one more delivery."""
        return replace(
            self,
            in_minute=self.in_minute + people,
            in_day=self.in_day + people,
            new_in_day=self.new_in_day + new_people,
        )


def excess(policy: ProducerPolicy, used: Used, *, people: int, new_people: int) -> ProducerRefused | None:
    """Return which cap one more delivery would break, and until when; None when there is room.

    Args:
        used: As it stands now, see `Used.at`.
        people: Whom the delivery may reach, once for each message.
        new_people: Those of them for whom nothing was accepted before.
    """
    tomorrow = used.day_from + _DAY
    caps = (
        ("daily_cap", policy.per_day, used.in_day, people, tomorrow),
        ("new_recipients_cap", policy.new_recipients_per_day, used.new_in_day, new_people, tomorrow),
        ("rate_exceeded", policy.per_minute, used.in_minute, people, used.minute_from + _MINUTE),
    )
    for code, most, already, more, until in caps:
        if most is not None and more and already + more > most:
            return ProducerRefused(code, until) if more <= max(most, 1) else ProducerRefused("too_many_recipients")
    return None
