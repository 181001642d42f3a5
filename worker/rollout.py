"""The gate of rollouts: while one is under way, a share of the account's deliveries goes and the rest waits.

All workers agree, because a stage depends on the ledger's clock and the form alone. What stands there is read once
every two seconds for all accounts, by one thread; the others go on with what was known.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from config.policy import Spec
from delivery.errors import LedgerUnavailable
from delivery.outcomes import Deferred
from delivery.ports import Claimed, Settlement
from delivery.rollout import Standing, place, room, stage

_FRESH_S = 2.0
_NEVER = float("-inf")
# Short, so that what is held back soon hears of an operator's `finish`.
_LONGEST_WAIT = timedelta(seconds=60)


class RolloutGate:
    """Lets a delivery go when it lies in the share of its account's rollout; everything where none is under way.

    Args:
        standing: What the ledger knows; when it is away, what was known last goes on.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        specs: Mapping[str, Spec],
        standing: Callable[[], Sequence[Standing]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._specs = specs
        self._standing = standing
        self._clock = clock
        self._known: Mapping[str, tuple[Standing, float]] = {}
        self._good_until = _NEVER
        self._asking = threading.Lock()

    def closed(self, claimed: Sequence[Claimed]) -> list[Deferred | None]:
        """See `delivery.ports.Gate.closed`."""
        return [self._answer(each) for each in claimed]

    def _answer(self, claimed: Claimed) -> Deferred | None:
        order = claimed.order
        found = self._find(order.account)
        now = stage(self._specs[order.command.service].rollout, found) if found else None
        if now is None or place(order.delivery_id, claimed.producer, order.command.options.order_key) < now.share:
            return None
        if now.left is None:
            reason = f"the rollout of {order.account} was taken back; everything waits for an operator"
        else:
            reason = f"the rollout of {order.account} lets {now.share:.0%} of its deliveries go; this one waits"
        wait = min(now.left or _LONGEST_WAIT, _LONGEST_WAIT)
        return Deferred("rollout", wait, reason, burned=False, paced=True, lone=True)

    def ended(self, settlements: Sequence[Settlement]) -> None:
        """Nothing to learn: upkeep judges a rollout by the attempts in the ledger."""

    def room(self, account: str, kind: str, *, within: timedelta, most: int) -> list[timedelta]:  # noqa: ARG002 - the port's
        """See `delivery.ports.Gate.room`: as many as the share lets go on the average."""
        spec = self._specs.get(account.partition(":")[0])
        found = self._find(account) if spec else None
        now = stage(spec.rollout, found) if spec and found else None
        return [timedelta()] * (most if now is None else room(now.share, most))

    def _find(self, account: str) -> Standing | None:
        """Return how an account's rollout stands now, by the ledger's clock; None where there is none."""
        # Whoever comes first, before anything is known, has the others wait for the answer.
        if self._clock() >= self._good_until and self._asking.acquire(blocking=self._good_until == _NEVER):
            try:
                self._read()
            finally:
                self._asking.release()
        known = self._known.get(account)
        if known is None:
            return None
        found, read_at = known
        return found.later(timedelta(seconds=self._clock() - read_at))

    def _read(self) -> None:
        now = self._clock()  # from before the question; and looked at again by whoever waited for another's answer
        if now < self._good_until:
            return
        try:
            self._known = {each.account: (each, now) for each in self._standing()}
        except LedgerUnavailable:
            pass
        finally:
            self._good_until = self._clock() + _FRESH_S
