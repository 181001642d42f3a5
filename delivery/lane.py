"""The lane: many waiting deliveries of one account and kind, attempted side by side and written in sets.

One message for each delivery is readable and quick while few wait. When many do, the messages cost more than the
deliveries: then a worker that got one takes up what waits behind it as well. Nothing is promised differently: what the
lane takes it claims, admits, calls and settles by the engine's own steps.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from functools import cached_property, partial
from queue import SimpleQueue
from uuid import UUID

from delivery.engine import Engine
from delivery.outcomes import Deferred
from delivery.ports import Claimed, Settlement

# A thread that has called for so long stands in line again, behind the calls of other lanes.
_THREAD_TURN_S = 0.25
# Where so many times what a lane can hold would find room, its sets ask the pacer at once: nothing is near a limit.
_AMPLE = 2


class Turn(Enum):
    """How a turn in a lane ended.

    Attributes:
        BUSY: Another thread of this process is at it, and looks again before it ends.
        EMPTY: Nothing waits any more.
        SHUT: A gate is closed, or does not open soon.
        OVER: Its time is up, and more may wait.
    """

    BUSY = auto()
    EMPTY = auto()
    SHUT = auto()
    OVER = auto()


@dataclass(frozen=True)
class Lanes:
    """The lanes of one process.

    Attributes:
        calls: Where the calls of an account run; no account waits for a thread of another.
        at_once: Calls that one lane keeps under way; fewer than `calls` can carry, so that what ended can be settled.
        ahead: Deliveries that a lane holds beside those, so that no place stays free while it claims.
        turn: After this long a lane ends, so that a worker can be told to end, and others have their turn.
        patience: A gate that opens within this time is waited for.
        gather: Calls that end within this time of each other are settled together.
    """

    engine: Engine
    calls: Callable[[str], Executor]
    at_once: int = 64
    ahead: int = 32
    turn: timedelta = timedelta(seconds=5)
    patience: timedelta = timedelta(seconds=1)
    gather: timedelta = timedelta(milliseconds=5)
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    # The lanes in which something is still being taken up.
    _worked: "dict[tuple[str, str], _Flight]" = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, account: str, kind: str, told: Callable[[Sequence[Settlement]], None]) -> Turn:
        """Carry out what waits, until nothing does, a gate closes, or the turn is over.

        Args:
            told: Called with each set that was settled.

        Raises:
            LedgerUnavailable: Postgres is away; what was claimed and not settled waits for the end of its lease.
        """
        lane, flight = (account, kind), _Flight(self, account, told)
        with self._lock:
            worked = self._worked.setdefault(lane, flight)
            worked.is_asked = True
        if worked is not flight:
            return Turn.BUSY
        try:
            turn = self._work(lane, flight)
        finally:
            # Calls that are still under way hold up nobody who finds more to do in this lane.
            left = self._leave(lane, flight)
            try:
                self._claim(lane, flight, left, most=0)
            finally:
                flight.end()
        return Turn.SHUT if flight.is_stopped else turn

    def takes(self, account: str, kind: str, delivery_id: UUID) -> bool:
        """Hand a delivery to the lane if it is being worked here; return whether it was taken.

        Only a lane takes it that has room, so that it waits behind no slow calls, and is far from its limits: near
        them each delivery gets a slot of its own.
        """
        with self._lock:
            worked = self._worked.get((account, kind))
            if worked is None or not worked.has_room():
                return False
            worked.handed.append(delivery_id)
            return True

    def _work(self, lane: tuple[str, str], flight: "_Flight") -> Turn:
        end = self.monotonic() + self.turn.total_seconds()
        turn: Turn | None = Turn.EMPTY
        while turn is None or (turn is Turn.EMPTY and self._looks(lane, flight)):
            turn = self._take(*lane, flight, end)
        return turn

    def _looks(self, lane: tuple[str, str], flight: "_Flight") -> bool:
        """Leave the lane, unless somebody asked for a look since the last one."""
        with self._lock:
            if flight.is_asked or flight.handed:
                flight.is_asked = False
                return True
            del self._worked[lane]
            return False

    def _leave(self, lane: tuple[str, str], flight: "_Flight") -> list[UUID]:
        """Leave the lane; return what was handed to it in the last moment."""
        with self._lock:
            if self._worked.get(lane) is flight:
                del self._worked[lane]
            return flight.taken_over()

    def _take(self, account: str, kind: str, flight: "_Flight", end: float) -> Turn | None:
        """Claim and admit a set and begin its calls; return how the turn ends, None when it goes on."""
        most = flight.wait_for_room()
        if self.monotonic() >= end:
            return Turn.OVER
        ample = _AMPLE * (self.at_once + self.ahead)
        waits = self.engine.room(account, kind, within=self.patience, most=ample)
        free = waits.count(timedelta())
        flight.is_ample = free == ample
        if flight.is_stopped or not waits:
            return Turn.SHUT
        if waits[0]:
            self.pause(waits[0].total_seconds())
            return None
        with self._lock:
            handed = flight.taken_over()
        return self._claim((account, kind), flight, handed, most=min(most, free))

    def _claim(self, lane: tuple[str, str], flight: "_Flight", handed: list[UUID], *, most: int) -> Turn | None:
        """Claim what was handed over and what else there is room for, admit it and begin its calls."""
        if not handed and not most:
            return None
        since = self.monotonic()
        claimed = self.engine.claim_next(*lane, most=max(0, most - len(handed)), first=handed)
        admitted, turned_back = self.engine.admit(claimed, paced=flight.is_ample)
        flight.begin(admitted, since, paced=flight.is_ample)
        if turned_back:
            flight.told(self.engine.conclude([], turned_back))
        if any(map(_was_turned_back, turned_back)):
            return Turn.SHUT
        return None if claimed else Turn.EMPTY


class _Flight:
    """The calls of one turn in a lane, and the thread that settles what has ended while others are begun."""

    def __init__(self, lanes: Lanes, account: str, told: Callable[[Sequence[Settlement]], None]) -> None:
        self.told = told
        self.is_stopped = self.is_asked = self.is_ample = False
        self.handed: list[UUID] = []
        self._lanes = lanes
        self._ready: deque[Callable[[], Settlement]] = deque()
        self._ended: SimpleQueue[Settlement | None] = SimpleQueue()
        self._room = threading.Condition()
        self._calling = self._unsettled = 0
        self._settler: Future[None] | None = None
        self._account = account

    @cached_property
    def _calls(self) -> Executor:
        return self._lanes.calls(self._account)

    def begin(self, claimed: Sequence[Claimed], since: float, *, paced: bool) -> None:
        if not claimed:
            return
        with self._room:
            self._ready.extend(partial(self._lanes.engine.attempt, each, since, paced=paced) for each in claimed)
            self._unsettled += len(claimed)
            more = min(self._lanes.at_once - self._calling, len(self._ready))
            self._calling += more
        if self._settler is None:
            self._settler = self._calls.submit(self._settle)
        for _ in range(more):
            if not self._stands_in_line():
                self._call()

    def wait_for_room(self) -> int:
        """Wait until a set is worth its claim, and not too much is unsettled; return how many may be claimed."""
        with self._room:
            self._room.wait_for(self._may_claim)
            return self._most() - self._under_way()

    def has_room(self) -> bool:
        """Tell whether the next look comes soon."""
        with self._room:
            is_free = self._may_claim() and len(self.handed) < self._lanes.ahead
            return is_free and self.is_ample and not self.is_stopped

    def taken_over(self) -> list[UUID]:
        """Return what was handed over since the last time."""
        handed, self.handed = self.handed, []
        return handed

    def end(self) -> None:
        """Wait until everything that was begun is settled.

        Raises:
            LedgerUnavailable: Something could not be settled; its lease ends.
        """
        if self._settler is None:
            return
        with self._room:
            self._room.wait_for(lambda: not self._under_way())
        self._ended.put(None)
        self._settler.result()

    def _may_claim(self) -> bool:
        return self._under_way() <= self._lanes.at_once and self._unsettled <= 2 * self._most()

    def _most(self) -> int:
        return self._lanes.at_once + self._lanes.ahead

    def _under_way(self) -> int:
        return self._calling + len(self._ready)

    def _call(self) -> None:
        """Carry out one delivery after the other, and stand in line again after a while."""
        until = time.monotonic() + _THREAD_TURN_S
        while (attempt := self._next()) is not None:
            self._ended.put(attempt())
            if time.monotonic() >= until and self._stands_in_line():
                return

    def _stands_in_line(self) -> bool:
        try:
            self._calls.submit(self._call)
        except RuntimeError:  # the process is ending and begins no work any more: what is at hand is ended here
            return False
        return True

    def _next(self) -> Callable[[], Settlement] | None:
        with self._room:
            attempt = self._ready.popleft() if self._ready else None
            self._calling -= attempt is None
            self._room.notify()
            return attempt

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
