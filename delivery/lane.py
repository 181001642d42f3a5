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
        flight = _Flight(self, told)
        has_more = True
        try:
            while has_more and not flight.is_stopped and self.monotonic() < end:
                has_more = self._take(account, kind, flight.wait_for_room(), flight)
        finally:
            flight.end()
        return has_more and not flight.is_stopped

    def _take(self, account: str, kind: str, most: int, flight: "_Flight") -> bool:
        """Claim and admit a set and begin its calls; return whether there may be more."""
        free = self.engine.room(account, kind, within=timedelta(), most=most)
        since = self.monotonic()
        claimed = self.engine.claim_next(account, kind, most=len(free)) if free else []
        admitted, turned_back = self.engine.admit(claimed)
        for each in admitted:
            flight.begin(each, since)
        if turned_back:
            flight.told(self.engine.conclude([], turned_back))
        return bool(claimed) and not any(map(_was_turned_back, turned_back))


class _Flight:
    """The calls of one lane that are under way, and the thread that settles what has ended while others are begun."""

    def __init__(self, lanes: Lanes, told: Callable[[Sequence[Settlement]], None]) -> None:
        self.told = told
        self.is_stopped = False
        self._lanes = lanes
        self._ended: SimpleQueue[Settlement | None] = SimpleQueue()
        self._room = threading.Condition()
        self._under_way = self._unsettled = 0
        self._settler = lanes.calls.submit(self._settle)

    def begin(self, claimed: Claimed, since: float) -> None:
        with self._room:
            self._under_way += 1
            self._unsettled += 1
        self._lanes.calls.submit(self._carry_out, claimed, since)

    def wait_for_room(self) -> int:
        """Wait until a set is worth its claim, and not too much is unsettled; return how many calls may begin."""
        most = self._lanes.at_once
        with self._room:
            self._room.wait_for(lambda: self._under_way <= most - max(1, most // 4) and self._unsettled <= 2 * most)
            return most - self._under_way

    def end(self) -> None:
        """Wait until everything that was begun is settled.

        Raises:
            LedgerUnavailable: Something could not be settled; its lease ends.
        """
        with self._room:
            self._room.wait_for(lambda: not self._under_way)
        self._ended.put(None)
        self._settler.result()

    def _carry_out(self, claimed: Claimed, since: float) -> None:
        self._ended.put(self._lanes.engine.attempt(claimed, since))
        with self._room:
            self._under_way -= 1
            self._room.notify()

    def _settle(self) -> None:
        """Settle in sets until the end; a fault stops the lane, and the rest is tried all the same."""
        fault: Exception | None = None
        is_over = False
        while not is_over:
            landed = self._landed()
            is_over = None in landed
            ended = [each for each in landed if each is not None]
            try:
                self._conclude(ended)
            except Exception as err:  # noqa: BLE001 - raised again at the end: what comes after it must be tried too
                self.is_stopped, fault = True, err
            with self._room:
                self._unsettled -= len(ended)
                self._room.notify()
        if fault is not None:
            raise fault

    def _landed(self) -> list[Settlement | None]:
        """Wait until a call has ended, and a little longer for others."""
        found = [self._ended.get()]
        if found[0] is not None:
            time.sleep(self._lanes.gather.total_seconds())
            found += [self._ended.get() for _ in range(self._ended.qsize())]
        return found

    def _conclude(self, ended: Sequence[Settlement]) -> None:
        if ended:
            settled = self._lanes.engine.conclude(ended)
            self.is_stopped = self.is_stopped or any(map(_was_turned_back, settled))
            self.told(settled)


def _was_turned_back(settlement: Settlement) -> bool:
    """Tell whether a gate would turn the next one back as well."""
    outcome = settlement.outcome
    return isinstance(outcome, Deferred) and not outcome.burned and not outcome.lone
