"""What would happen to a command, without anything happening: nothing is written, no provider is asked.

It tells what is known now; a breaker may open and a limit fill between a simulation and the command itself.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from delivery.errors import ProviderError
from delivery.intake import Item
from delivery.ports import NewDelivery, Opened, Order
from delivery.producers import HELD_BECAUSE
from delivery.redaction import mask_value
from delivery.wording import issue_text
from ingress.problems import Language
from ledger.operating import pause_of_all
from ledger.rehearsal import Rehearsal
from worker.breaker import BreakerGate
from worker.limits import SharedLimiter
from worker.wiring import shared_limiter, shared_memory

if TYPE_CHECKING:
    from tasks.app import Entrega


Would = Literal["send", "wait", "hold", "repeat", "conflict", "fail"]
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
    breaker: BreakerRoom
    limits: LimitRoom
    wire: WireView | None


@dataclass(frozen=True)
class Simulator:
    """Simulates commands for the doors."""

    app: "Entrega"

    def simulate(self, item: Item, *, producer: str, language: Language) -> Simulation:
        """Return what would become of a command.

        Raises:
            InvalidCommand: As when it is submitted; and so for the next.
            ProducerRefused: By a cap, the allow-list or a freeze of the producer.
            LedgerUnavailable: Postgres is away.
        """
        new = self.app.intake.admit(self.app.intake.prepare(item.kind, item.body, producer=producer, language=language))
        opened = Rehearsal(self.app.ledger.engine, self.app.ledger.vault).open([new])[0]
        if opened.refusal is not None:
            raise opened.refusal
        held = self._held(new)
        breaker, limits = self._breaker(new), self._limits(new.account)
        wire, fault = self._wire(new)
        would, why = _verdict(opened, held, fault, language)
        go_at = _first_attempt(opened, breaker, limits) if would == "send" else None
        late = would == "send" and (go_at is None or go_at > datetime.now(UTC) + _AT_ONCE)
        return Simulation(
            would="wait" if late else would, why=why, kind=item.kind, account=new.account, recipient=new.recipient,
            duplicate_of=None if opened.fresh else opened.id, go_at=go_at, expires_at=_expiry(new, opened.next_at),
            breaker=breaker, limits=limits, wire=wire,
        )  # fmt: skip

    def _held(self, new: NewDelivery) -> str | None:
        """Return why it would wait for a person, or None."""
        if new.held_code is not None:
            return HELD_BECAUSE[new.held_code]
        pause = pause_of_all(self.app.database)
        if pause is not None:
            return f"everything is paused: {pause.reason}"
        return next((each.held_reason for each in self.app.archive.accounts() if each.name == new.account), None)

    @cached_property
    def _gates(self) -> tuple[BreakerGate, SharedLimiter]:
        redis = shared_memory(self.app.settings)
        return BreakerGate(self.app.specs, redis), shared_limiter(self.app, redis)

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


def _verdict(
    opened: Opened, held: str | None, fault: ProviderError | None, language: Language
) -> tuple[Would, str | None]:
    if not opened.same_body:
        return "conflict", issue_text("sim_conflict", language)
    if not opened.fresh:
        return "repeat", issue_text("sim_repeat", language)
    if held is not None:
        return "hold", held
    if fault is not None:
        return ("hold" if fault.code == "misconfigured" else "fail"), str(fault)
    return "send", None


def _first_attempt(opened: Opened, breaker: BreakerRoom, limits: LimitRoom) -> datetime | None:
    if breaker.state == "open" and breaker.next_trial_at is None:
        return None  # held open by a person: nobody knows for how long
    thawed = datetime.now(UTC) + timedelta(seconds=limits.frozen_for_s)
    return max(opened.next_at, breaker.next_trial_at or opened.next_at, thawed)


def _expiry(new: NewDelivery, next_at: datetime) -> datetime:
    return new.command.options.expires_at or next_at + new.expires_in
