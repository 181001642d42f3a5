"""What would happen to a command, without anything happening: nothing is written, no provider is asked.

It tells what is known now; a breaker may open and a limit fill between a simulation and the command itself.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from delivery.commands import Command
from delivery.errors import ProviderError
from delivery.intake import Item
from delivery.ports import NewDelivery, Opened, Order
from delivery.producers import HELD_BECAUSE
from delivery.redaction import mask_value
from delivery.rollout import view
from delivery.wording import issue_text
from ingress.access import Caller
from ingress.problems import Language
from ledger.contacts import Contacts
from ledger.operating import pause_of_all
from ledger.producers import Producers
from ledger.rehearsal import Rehearsal
from ledger.rollouts import Rollouts

if TYPE_CHECKING:
    from tasks.app import Entrega
    from worker.breaker import BreakerGate
    from worker.limits import SharedLimiter


Would = Literal["send", "wait", "hold", "repeat", "conflict", "fail"]
Cap = Literal["per_minute", "per_day", "new_recipients_per_day"]
_AT_ONCE = timedelta(seconds=1)


class BreakerRoom(BaseModel):
    """How the circuit breaker stands."""

    state: Literal["closed", "open", "half-open"]
    next_trial_at: datetime | None


class WindowRoom(BaseModel):
    """One limit of the account and how much of it is used."""

    window: str = Field(examples=["80 per second"])
    used: int
    allowed: int


class LimitRoom(BaseModel):
    """How much room the account's limits leave; `share` is below 1 after the provider said "too many"."""

    share: float
    frozen_for_s: float
    in_flight: int
    concurrent: int | None
    windows: list[WindowRoom]


class RolloutRoom(BaseModel):
    """A rollout of the account: which deliveries lie in the share is drawn from their ids."""

    share: float = Field(description="Of the deliveries, those that go now; 0: it was taken back.")
    next_stage_at: datetime | None


class PersonRoom(BaseModel):
    """What is known of the person from messages that came in; of somebody this producer never reached, nothing."""

    opted_out: bool = Field(description="The person wants no marketing; anything else is sent.")
    window_needed: bool = Field(description="The provider takes this only for some time after the person's message.")
    window_until: datetime | None = Field(description="When that time ends or ended; null: no message is known.")


class QuotaRoom(BaseModel):
    """One cap of the producer and how much of it is used."""

    cap: Cap
    used: int
    allowed: int


class WireView(BaseModel):
    """The request that the provider would get: masked, and without credentials."""

    method: str
    address: str
    headers: dict[str, str]
    body: Any = None


class Simulation(BaseModel):
    """What the same command would meet if it were sent now."""

    simulated: Literal[True] = True
    would: Would = Field(
        description="send: at once. wait: at `go_at`. hold: a person must act first. repeat: it is `duplicate_of`. "
        "conflict: its key stands for another body (409). fail: it can never be sent as it is."
    )
    why: str | None
    kind: str
    account: str
    recipient: str = Field(description="Masked.")
    duplicate_of: UUID | None
    go_at: datetime | None = Field(description="When it would be attempted first; null when that is not known.")
    expires_at: datetime
    rollout: RolloutRoom | None = Field(description="Null: none is under way, and everything goes.")
    breaker: BreakerRoom
    limits: LimitRoom
    person: PersonRoom
    quota: list[QuotaRoom] = Field(description="Empty: this producer has no caps.")
    wire: WireView | None


@dataclass(frozen=True)
class Simulator:
    """Simulates commands for the doors."""

    app: "Entrega"

    def simulate(self, item: Item, caller: Caller, language: Language) -> Simulation:
        """Return what would become of a command.

        Raises:
            InvalidCommand: As when it is submitted; and so for the next.
            ProducerRefused: By a cap, the allow-list or a freeze of the producer.
            LedgerUnavailable: Postgres is away.
        """
        ledger = self.app.ledger
        new = self.app.intake.admit(
            self.app.intake.prepare(item.kind, item.body, producer=caller.producer, language=language)
        )
        opened = Rehearsal(ledger.engine, ledger.vault, environment=ledger.environment).open([new])[0]
        if opened.refusal is not None:
            raise opened.refusal
        held = self._held(new)
        breaker, limits, rollout = self._breaker(new), self._limits(new.account), self._rollout(new)
        wire, fault = self._wire(new)
        person = self._person(new, caller)
        would, why = _verdict(opened, held, fault, person, new.command, language)
        go_at = _first_attempt(opened, breaker, limits, rollout) if would == "send" else None
        late = would == "send" and (go_at is None or go_at > datetime.now(UTC) + _AT_ONCE)
        return Simulation(
            would="wait" if late else would, why=why, kind=item.kind, account=new.account, recipient=new.recipient,
            duplicate_of=None if opened.fresh else opened.id, go_at=go_at, expires_at=_expiry(new, opened.next_at),
            rollout=rollout, breaker=breaker, limits=limits, person=person, quota=self._quota(caller.producer),
            wire=wire,
        )  # fmt: skip

    def _person(self, new: NewDelivery, caller: Caller) -> PersonRoom:
        contacts = Contacts(self.app.database, self.app.ledger.vault)
        person, needed = new.command.recipient, new.command.needs_window
        if not (caller.sees_all or contacts.is_known_to(caller.producer, person)):
            # Anybody's number could be tried out: a stranger to the producer looks like one who never wrote to us.
            return PersonRoom(opted_out=False, window_needed=needed, window_until=None)
        return PersonRoom(
            opted_out=contacts.has_opted_out(person), window_needed=needed,
            window_until=contacts.window_until(new.account, person) if needed else None,
        )  # fmt: skip

    def _quota(self, name: str) -> list[QuotaRoom]:
        found = Producers(self.app.database, actor=name).find(name)
        if found is None:
            return []
        caps = found.policy
        rooms: tuple[tuple[Cap, int, int | None], ...] = (
            ("per_minute", found.in_minute, caps.per_minute),
            ("per_day", found.in_day, caps.per_day),
            ("new_recipients_per_day", found.new_in_day, caps.new_recipients_per_day),
        )
        return [QuotaRoom(cap=cap, used=used, allowed=allowed) for cap, used, allowed in rooms if allowed is not None]

    def _held(self, new: NewDelivery) -> str | None:
        """Return why it would wait for a person, or None."""
        if new.held_code is not None:
            return HELD_BECAUSE[new.held_code]
        pause = pause_of_all(self.app.database)
        if pause is not None:
            return f"everything is paused: {pause.reason}"
        return next((each.held_reason for each in self.app.archive.accounts() if each.name == new.account), None)

    def _rollout(self, new: NewDelivery) -> RolloutRoom | None:
        standing = Rollouts(self.app.database, actor="simulation").standing()
        found = next((each for each in standing if each.account == new.account), None)
        if found is None:
            return None
        seen = view(self.app.specs[new.command.service].rollout, found)
        return RolloutRoom(share=seen.share, next_stage_at=seen.next_stage_at)

    @cached_property
    def _gates(self) -> "tuple[BreakerGate, SharedLimiter]":
        # a door that nobody asks for a simulation starts without them
        from worker.wiring import breaker_gate, shared_limiter, shared_memory

        redis = shared_memory(self.app.settings)
        return breaker_gate(self.app, redis), shared_limiter(self.app, redis)

    def _breaker(self, new: NewDelivery) -> BreakerRoom:
        status = self._gates[0].status(new.account, new.command.kind)
        return BreakerRoom(state=status.state, next_trial_at=status.next_trial_at)

    def _limits(self, account: str) -> LimitRoom:
        status = self._gates[1].status(account)
        windows = [WindowRoom(window=each.window, used=each.used, allowed=each.allowed) for each in status.windows]
        return LimitRoom(
            share=status.share, frozen_for_s=status.frozen_for.total_seconds(), in_flight=status.in_flight,
            concurrent=status.concurrent, windows=windows,
        )  # fmt: skip

    def _wire(self, new: NewDelivery) -> tuple[WireView | None, ProviderError | None]:
        order = Order(new.id, new.account, new.command, attempt=1, accepted_at=datetime.now(UTC))
        try:
            found = self.app.engine.providers[new.account].preview(order)
        except ProviderError as err:
            return None, err
        masked = {"headers": mask_value(found.headers), "body": mask_value(found.body)}
        return WireView.model_validate({"method": found.method, "address": found.address, **masked}), None


def _verdict(  # noqa: PLR0913, PLR0917 - everything that may stand in the way
    opened: Opened, held: str | None, fault: ProviderError | None, person: PersonRoom, command: Command,
    language: Language,
) -> tuple[Would, str | None]:  # fmt: skip
    if not opened.same_body:
        return "conflict", issue_text("sim_conflict", language)
    if not opened.fresh:
        return "repeat", issue_text("sim_repeat", language)
    if person.opted_out and command.is_marketing:
        return "fail", issue_text("sim_opted_out", language)
    if held is not None:
        return "hold", held
    if fault is not None:
        return ("hold" if fault.code == "misconfigured" else "fail"), str(fault)
    # It is sent all the same: the person may have written to us by a way we do not hear of.
    is_open = person.window_until is not None and person.window_until > datetime.now(UTC)
    return "send", issue_text("sim_window", language) if person.window_needed and not is_open else None


def _first_attempt(
    opened: Opened, breaker: BreakerRoom, limits: LimitRoom, rollout: RolloutRoom | None
) -> datetime | None:
    if rollout is not None and not rollout.share:
        return None  # taken back until a person says otherwise
    if breaker.state == "open" and breaker.next_trial_at is None:
        return None  # held open by a person: nobody knows for how long
    thawed = datetime.now(UTC) + timedelta(seconds=limits.frozen_for_s)
    return max(opened.next_at, breaker.next_trial_at or opened.next_at, thawed)


def _expiry(new: NewDelivery, next_at: datetime) -> datetime:
    return new.command.options.expires_at or next_at + new.expires_in
