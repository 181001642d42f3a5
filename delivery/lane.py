"""The lane: many waiting deliveries of one account and kind, attempted side by side and written in sets.

One message for each delivery is readable and quick while few wait. When many do, the messages cost more than the
deliveries: then a worker that got one takes up what waits behind it as well. Nothing is promised differently: what the
lane takes it claims, admits, calls and settles by the engine's own steps.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from datetime import timedelta

from delivery.engine import Engine
from delivery.outcomes import Deferred
from delivery.ports import Settlement


@dataclass(frozen=True)
class Lanes:
    """The lanes of one process.

    Attributes:
        calls: Where calls run; shared by all lanes.
        at_once: Calls that one lane keeps under way; a part of what `calls` can carry, so that one slow provider
            leaves room for the others.
        turn: After this long a lane ends, so that a worker can be told to end, and others have their turn.
        pause: A lane that was empty is looked at again after this long.
    """

    engine: Engine
    calls: Executor
    at_once: int = 16
    turn: timedelta = timedelta(seconds=5)
    pause: timedelta = timedelta(milliseconds=100)
    monotonic: Callable[[], float] = time.monotonic
    _looks_at: dict[tuple[str, str], float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, account: str, kind: str, told: Callable[[Sequence[Settlement]], None]) -> bool:
        """Carry out what waits, until nothing does, a gate closes, or the turn is over.

        Args:
            told: Called with each set that was settled.

        Returns:
            True when the turn is over and more may wait; False also when this lane is busy in another thread, or was
            empty a moment ago.

        Raises:
            LedgerUnavailable: Postgres is away; what was claimed and not settled waits for the end of its lease.
        """
        lane = (account, kind)
        with self._lock:
            if self.monotonic() < self._looks_at.get(lane, 0.0):
                return False
            self._looks_at[lane] = float("inf")
        try:
            return self._work(account, kind, told)
        finally:
            self._looks_at[lane] = self.monotonic() + self.pause.total_seconds()

    def _work(self, account: str, kind: str, told: Callable[[Sequence[Settlement]], None]) -> bool:
        end = self.monotonic() + self.turn.total_seconds()
        flying: set[Future[Settlement]] = set()
        has_more = True
        try:
            while True:
                free = self.at_once - len(flying)
                if has_more and free >= self.at_once // 2 and self.monotonic() < end:
                    taken = self._take(account, kind, free)
                    has_more = bool(taken)
                    flying |= taken
                if not flying:
                    return has_more
                done, flying = wait(flying, return_when=FIRST_COMPLETED)
                settled = self.engine.conclude([each.result() for each in done])
                has_more = has_more and not any(map(_was_turned_back, settled))
                told(settled)
        finally:
            # The ledger went away: what is still flying is written when it can be, as always.
            rest = [each.result() for each in wait(flying).done]
            if rest:
                self.engine.conclude(rest)

    def _take(self, account: str, kind: str, most: int) -> set[Future[Settlement]]:
        free = self.engine.room(account, kind, within=timedelta(), most=most)
        since = self.monotonic()
        claimed = self.engine.claim_next(account, kind, most=len(free)) if free else []
        return {self.calls.submit(self.engine.attempt, each, since) for each in claimed}


def _was_turned_back(settlement: Settlement) -> bool:
    outcome = settlement.outcome
    return isinstance(outcome, Deferred) and not outcome.burned and not outcome.lone
