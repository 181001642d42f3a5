"""When the next calls of an account would find room within its limits: what upkeep asks before it wakes deliveries.

Pure arithmetic on what the limiter remembers, by the rules of `delivery.limiter`, a little on the late side: a delivery
that comes early is sent away once more, one that comes late costs nothing. It reserves nothing and decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

from delivery.limiter import Span, microseconds

# How unevenly deliveries come after they were told when. Source: our own choice; Celery's timers were measured to be
# late by some 20 ms on a busy machine. It costs a tenth of a limit per second, and next to nothing of longer ones.
_LATE_US = 100_000


@dataclass(frozen=True)
class Filling:
    """One window of an account at an instant, in microseconds.

    Attributes:
        share: How fast it runs, 1 for full.
        leaving: The calls and slots that have to leave it, one for each that goes next, oldest first.
        full: When the bucket is full again.
        waiting: Deliveries with a slot; they take from the bucket first.
    """

    window: Span
    share: float = 1.0
    leaving: Sequence[int] = ()
    full: int = 0
    waiting: int = 0

    @property
    def span_us(self) -> float:
        """How long a call stays in it."""
        return (self.window.plan_us + max(_LATE_US, self.window.distance_us)) / self.share

    @property
    def step_us(self) -> float:
        """How far apart calls keep when they are spread evenly."""
        return self.span_us / self.window.calls

    def free_at(self, place: int, slots: Sequence[int], now: int) -> int:
        """Return when the call behind those in `slots` goes."""
        if self.window.burst:
            refilled = (
                (self.waiting + place + 1 - self.window.burst) * self.window.plan_us / self.window.calls / self.share
            )
            return ceil(max(self.full, now) + refilled)
        if place < len(self.leaving):
            return ceil(self.leaving[place] + self.span_us)
        # What has to leave waits itself: from its slot on, the even spread keeps the distance.
        before = place - self.window.calls
        return ceil(slots[before] + self.span_us) if before >= 0 else now


@dataclass(frozen=True)
class Standing:
    """How an account stands at an instant, in microseconds.

    Attributes:
        windows: Shortest first.
        opens_at: Until then the provider wants to be left alone.
        last_reserved: The slot of the last delivery that waits, None when none does.
        concurrent: Calls allowed at once, None when nothing bounds them.
        flying: Calls in flight.
        hold_us: How long a call lasts.
    """

    now: int
    windows: Sequence[Filling]
    opens_at: int = 0
    last_reserved: int | None = None
    concurrent: int | None = None
    flying: int = 0
    hold_us: float = 0.0

    def free_at(self, place: int, slots: Sequence[int]) -> int:
        """Return when all limits let the call behind those in `slots` go."""
        now = self.now
        bounds = [now, self.opens_at, *(each.free_at(place, slots, now) for each in self.windows)]
        if self.concurrent:
            behind = max(0, place + 1 + self.flying - self.concurrent)
            bounds.append(ceil(now + behind * self.hold_us / self.concurrent))
        return max(bounds)


def forecast(standing: Standing, *, within: timedelta, most: int) -> list[timedelta]:
    """Return how long the next calls have to wait, soonest first: evenly spread from the first that has to.

    Args:
        within: Look no further ahead.
        most: At most this many.
    """
    now, slots, last = standing.now, list[int](), standing.last_reserved
    step = standing.windows[0].step_us if standing.windows else 0.0
    while len(slots) < most:
        slot = standing.free_at(len(slots), slots)
        slot = slot if last is None else max(slot, ceil(last + step))
        if slot - now > microseconds(within):
            break
        last = slot if slot > now else None
        slots.append(slot)
    return [timedelta(microseconds=slot - now) for slot in slots]
