"""The lane: many waiting deliveries of one account and kind, attempted side by side and written in sets.

One message for each delivery is readable and quick while few wait. When many do, the messages cost more than the
deliveries: then a worker that got one takes up what waits behind it as well. Nothing is promised differently: what the
lane takes it claims, admits, calls and settles by the engine's own steps.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import timedelta
from queue import SimpleQueue

from delivery.engine import Engine
from delivery.outcomes import Deferred
from delivery.ports import Claimed, Settlement


@dataclass(frozen=True)
class Lanes:
    """The lanes of one process.

    Attributes:
        calls: Where calls run; shared by all lanes.
        at_once: Calls that one lane keeps under way; a part of what `calls` can carry, so that one slow provider
            leaves room for the others.
        turn: After this long a lane ends, so that a worker can be told to end, and others have their turn.
        pause: A lane that was empty is looked at again after this long.
        gather: Calls that end within this time of each other are settled together.
    """

    engine: Engine
    calls: Executor
    at_once: int = 32
    turn: timedelta = timedelta(seconds=5)
    pause: timedelta = timedelta(milliseconds=100)
    gather: timedelta = timedelta(milliseconds=5)
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
        flight = _Flight(self)
        has_more = True
        try:
            while True:
                free = self.at_once - flight.under_way
                if has_more and free >= max(1, self.at_once // 4) and self.monotonic() < end:
                    taken, turned_back = self._take(account, kind, free, flight)
                    has_more = taken and not any(map(_was_turned_back, turned_back))
                    if turned_back:
                        told(self.engine.conclude([], turned_back))
                    if has_more and not flight.under_way:
                        continue
                if not flight.under_way:
                    return has_more
                settled = self.engine.conclude(flight.landed())
                has_more = has_more and not any(map(_was_turned_back, settled))
                told(settled)
        finally:
            # The ledger went away: what is still under way is written when it can be, as always.
            rest = flight.all_landed()
            if rest:
                self.engine.conclude(rest)

    def _take(self, account: str, kind: str, most: int, flight: "_Flight") -> tuple[bool, list[Settlement]]:
        """Claim and admit a set and begin its calls; tell whether there was any, and who was turned back."""
        free = self.engine.room(account, kind, within=timedelta(), most=most)
        since = self.monotonic()
        claimed = self.engine.claim_next(account, kind, most=len(free)) if free else []
        admitted, turned_back = self.engine.admit(claimed)
        for each in admitted:
            flight.begin(each, since)
        return bool(claimed), turned_back


class _Flight:
    """The calls of one lane that are under way."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._ended: SimpleQueue[Settlement] = SimpleQueue()
        self.under_way = 0

    def begin(self, claimed: Claimed, since: float) -> None:
        self._lanes.calls.submit(self._carry_out, claimed, since)
        self.under_way += 1

    def landed(self) -> list[Settlement]:
        """Wait until a call has ended, and a little longer for others; return them."""
        found = [self._ended.get()]
        if self.under_way > 1:
            time.sleep(self._lanes.gather.total_seconds())
            found += [self._ended.get() for _ in range(self._ended.qsize())]
        self.under_way -= len(found)
        return found

    def all_landed(self) -> list[Settlement]:
        """Wait for every call; return those that nobody was told of."""
        found = [self._ended.get() for _ in range(self.under_way)]
        self.under_way = 0
        return found

    def _carry_out(self, claimed: Claimed, since: float) -> None:
        self._ended.put(self._lanes.engine.attempt(claimed, since))


def _was_turned_back(settlement: Settlement) -> bool:
    outcome = settlement.outcome
    return isinstance(outcome, Deferred) and not outcome.burned and not outcome.lone
