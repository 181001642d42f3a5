"""The steps of one attempt: claim, admit, call, judge, settle, tell.

The engine owns no clock of its own, no connection and no thread. No database connection is held while a provider is
called, and no exception leaves an attempt unsettled.
"""

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from config.policy import Operation, Spec
from delivery.errors import Ambiguous, LedgerUnavailable, Permanent, ProviderError
from delivery.judging import LEASE_MARGIN, judge, lease
from delivery.outcomes import Deferred, Receipt
from delivery.ports import Claimed, Gate, Ledger, Provider, Settlement, Teller

# For so long a call that was let go with its set may begin: a pacer that was far from its limits then still is.
_PACED_FOR_S = 0.5


class _OwnFault(Ambiguous):
    """Our own code failed between claim and answer, and nobody knows whether the request had left by then."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the provider's adapter failed with {type(cause).__name__}", code="unknown")
        self.cause = cause


@dataclass(frozen=True)
class Engine:
    """Carries deliveries out.

    Attributes:
        providers: One for each account, e.g. {"crm:default": ...}; or for a whole service, e.g. {"callback": ...}.
        specs: One for each service, e.g. {"crm": ...}.
        gates: Asked in order after a claim; the first closed one defers the attempt without burning it.
        pacer: The last gate, asked for each call right before it: a rate is kept where calls begin, and those of a set
            do not begin when the set is claimed. Only far from its limits a set may ask at once.
        worker: This process's name, for the attempt rows.
        settle_waits: Pauses between tries to write an outcome while the ledger is away.
    """

    ledger: Ledger
    providers: Mapping[str, Provider]
    specs: Mapping[str, Spec]
    teller: Teller
    worker: str
    gates: Sequence[Gate] = ()
    pacer: Gate | None = None
    rng: random.Random = field(default_factory=random.SystemRandom)
    monotonic: Callable[[], float] = time.monotonic
    settle_waits: Sequence[timedelta] = tuple(timedelta(seconds=each) for each in (0.2, 0.5, 1, 2, 4, 5))
    pause: Callable[[float], None] = time.sleep

    def deliver(self, ids: Sequence[UUID]) -> list[Settlement]:
        """Attempt those of `ids` that are due and free, and return how each ended.

        A delivery that another worker holds, or that is not due, is left alone and is not in the result.
        """
        since = self.monotonic()
        claimed = self.ledger.claim(ids, worker=self.worker, leases=self._leases())
        admitted, turned_back = self.admit(claimed)
        return self.conclude([self.attempt(each, since) for each in admitted], turned_back)

    def claim_next(self, account: str, kind: str, *, most: int, first: Collection[UUID] = ()) -> list[Claimed]:
        """Take what waits for one account; see `delivery.ports.Ledger.claim_next`."""
        leases = self._leases()
        return self.ledger.claim_next((account, kind), most=most, first=first, worker=self.worker, leases=leases)

    def admit(self, claimed: Sequence[Claimed], *, paced: bool = False) -> tuple[list[Claimed], list[Settlement]]:
        """Ask the gates about claimed deliveries.

        Args:
            paced: Ask the pacer as well, so that `attempt` need not.

        Returns:
            Those that may go, and how the others ended: deferred, and no attempt burned.
        """
        going, turned_back = list(claimed), list[Settlement]()
        for place, gate in enumerate(self._all_gates() if paced else self.gates):
            answers = list(zip(going, gate.closed(going) if going else (), strict=True))
            back = [Settlement(each, shut) for each, shut in answers if shut]
            if back:
                going = [each for each, shut in answers if not shut]
                turned_back += back
                for earlier in self.gates[:place]:
                    earlier.ended(back)
        return going, turned_back

    def conclude(self, ended: Sequence[Settlement], turned_back: Sequence[Settlement] = ()) -> list[Settlement]:
        """Tell the gates, write how attempts ended and tell of it; return those whose fence still held.

        Args:
            ended: Of deliveries that `admit` let go.
            turned_back: Of those that a gate held back, as `admit` returned them.
        """
        if ended:
            for gate in self.gates:
                gate.ended(ended)
        settlements = [*ended, *turned_back]
        settled = self._settle(settlements)
        for each in settlements:
            self._tell(each)
        return [each for each in settlements if each.claimed.order.delivery_id in settled]

    def room(self, account: str, kind: str, *, within: timedelta, most: int) -> list[timedelta]:
        """Foresee when attempts would find every gate open; see `delivery.ports.Gate.room`."""
        foreseen = [gate.room(account, kind, within=within, most=most) for gate in self._all_gates()]
        return [max(waits) for waits in zip([timedelta()] * most, *foreseen, strict=False)]

    def _all_gates(self) -> Sequence[Gate]:
        return [*self.gates, self.pacer] if self.pacer else self.gates

    def _settle(self, settlements: Sequence[Settlement]) -> set[UUID]:
        # A receipt in hand is worth waiting for the ledger: dropping it would leave the delivery uncertain. The waits
        # stay within the lease's margin; after that the sweep decides.
        for wait in self.settle_waits:
            try:
                return self.ledger.settle(settlements)
            except LedgerUnavailable:
                self.pause(wait.total_seconds())
        return self.ledger.settle(settlements)

    def _leases(self) -> dict[str, timedelta]:
        return {kind: lease(operation) for spec in self.specs.values() for kind, operation in spec.operations.items()}

    def attempt(self, claimed: Claimed, since: float, *, paced: bool = False) -> Settlement:
        """Call, when the pacer lets it, and judge one delivery that `admit` let go; never raises.

        Args:
            since: Monotonic seconds of this engine's clock, from before the claim.
            paced: `admit` asked the pacer; it is asked again when that was long ago.
        """
        if self.pacer is None:
            return self._in_time(claimed, since)
        if not paced or self.monotonic() - since >= _PACED_FOR_S:
            (shut,) = self.pacer.closed([claimed])
            if shut:
                return Settlement(claimed, shut)
        settlement = self._in_time(claimed, since)
        self.pacer.ended([settlement])
        return settlement

    def _in_time(self, claimed: Claimed, since: float) -> Settlement:
        late = self._too_late(claimed, since)
        return Settlement(claimed, late) if late else self._carry_out(claimed)

    def _carry_out(self, claimed: Claimed) -> Settlement:
        started = self.monotonic()
        end = self._call(claimed)
        duration = timedelta(seconds=self.monotonic() - started)
        outcome = judge(claimed, end, self._spec(claimed), rng=self.rng)
        if isinstance(end, Receipt):
            return Settlement(claimed, outcome, end.http_status, duration=duration, usage=end.usage)
        fault = end.cause if isinstance(end, _OwnFault) else None
        return Settlement(
            claimed, outcome, end.http_status, end.provider_code, duration, end.retry_after, fault, end.usage
        )

    def _too_late(self, claimed: Claimed, since: float) -> Deferred | None:
        """Give a delivery back, unburned, that expired after its claim or whose call would outlast its lease.

        Asked last: a process may have been stopped for minutes at any line before. Time is counted from before the
        claim, so that a clock that is set changes nothing and a doubt is on the safe side.
        """
        waited = timedelta(seconds=self.monotonic() - since)
        if waited >= claimed.left:
            return Deferred("expired", timedelta(), "its time ran out before the call", burned=False)
        if waited >= LEASE_MARGIN:
            return Deferred("too_late", timedelta(), "its worker stood still before the call", burned=False)
        return None

    def _call(self, claimed: Claimed) -> Receipt | ProviderError:
        order = claimed.order
        try:
            provider = self.providers.get(order.account) or self.providers.get(order.command.service)
            if provider is None:
                return Permanent(f"no account named {order.account} is set up here", code="misconfigured")
            return provider.send(order)
        except ProviderError as err:
            return err
        except Exception as err:  # noqa: BLE001 - the engine's edge: an unforeseen fault must not leave it unsettled
            return _OwnFault(err)

    def _tell(self, settlement: Settlement) -> None:
        operation = self._operation(settlement.claimed)
        self.teller.tell(settlement, method=operation.method, endpoint=operation.path)

    def _spec(self, claimed: Claimed) -> Spec:
        return self.specs[claimed.order.command.service]

    def _operation(self, claimed: Claimed) -> Operation:
        return self._spec(claimed).operations[claimed.order.command.kind]
