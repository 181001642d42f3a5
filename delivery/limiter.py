"""The model of the limits: what a window allows, who waits until when, and how an account slows down and recovers.

Everything here is arithmetic on whole microseconds with the time passed in. `worker.limits` runs the same rules in
Redis for all workers together, `delivery.limiter_local` for this process alone while Redis is away; the tests hold
the two against each other. It refuses to sleep, to read a clock and to know a recipient: it is given keyed hashes.

Two things are kept for a scope (an account, or one recipient of it):

- The calls made, at the moment they were let go. They alone decide whether a call may go, so a late, lost or repeated
  reservation can never push a scope above a window.
- The reservations, each with a slot. Slots are kept on the scope's own clock, which runs slower than the wall's while
  the account is slowed down and stands still while it is frozen: the whole queue moves back, in order, untouched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil, floor, sqrt
from typing import Literal

from config.spec_sections import Limits, Window

Cause = Literal["account", "recipient", "concurrent", "frozen", "recipient_frozen", "reserved", "unknown"]

_US = 1_000_000


@dataclass(frozen=True)
class Tuning:
    """How the limiter behaves around the limits of a spec. Source of every number: our own choice, see ADR 0009.

    Attributes:
        horizon: No slot is reserved further ahead, so that a million waiting deliveries do not fill Redis.
        grace: A reservation not taken for so long after its slot is forgotten.
        kept_free: For so long after its slot newcomers leave room for it; then it has to find room itself.
        margin: Share by which a span is stretched, because calls travel unevenly between us and the provider.
        longest_margin: The stretch of long spans ends here.
        spread: Share of the even distance that the slots of a crowd keep at least. Below 1, so that what a late or dead
            worker left unused is made up within the window; the windows themselves are kept whatever it is.
        first_cut: What is left of the account's rate after a single "too many calls", which jitter can explain.
        cut: What is left of it after each further one within `cut_memory`.
        least: The rate never falls below this share of the spec.
        growth: Share of the spec regained in each second.
        cut_every: Refusals within this time are one event: calls in flight are refused together.
        first_hold: How long a call is taken to last before one was measured, to forecast a free place.
        quiet: On changing to the local limit, spans up to this long are taken as used up.
        pause: Nobody changes to the local limit sooner after missing Redis; who comes back after a longer absence stops
            the account for so long, because others still keep to theirs.
        lately: After a gap in Redis's memory, a call that ended within this time shows that others may do so too.
    """

    horizon: timedelta = timedelta(minutes=5)
    grace: timedelta = timedelta(seconds=5)
    kept_free: timedelta = timedelta(milliseconds=250)
    margin: float = 0.013
    longest_margin: timedelta = timedelta(milliseconds=250)
    spread: float = 0.5
    first_cut: float = 0.95
    cut: float = 0.7
    cut_memory: timedelta = timedelta(seconds=2)
    least: float = 0.05
    growth: float = 0.05
    cut_every: timedelta = timedelta(seconds=1)
    first_hold: timedelta = timedelta(milliseconds=500)
    quiet: timedelta = timedelta(minutes=1)
    pause: timedelta = timedelta(seconds=4)
    lately: timedelta = timedelta(seconds=10)


@dataclass(frozen=True)
class Span:
    """One window as it is enforced, in microseconds.

    Attributes:
        calls: Allowed in any span of `every_us`, or refilled in it when `burst` is set.
        every_us: The span of the spec, margin not included.
        margin_us: Reservations keep this further apart. Two thirds of it are kept between calls too; the rest is what
            a delivery may be late without moving those behind it.
        burst: Size of the bucket; None for a strict span.
    """

    calls: int
    every_us: int
    margin_us: int
    burst: int | None = None

    @property
    def plan_us(self) -> int:
        """Return the span that reservations keep."""
        return self.every_us + self.margin_us

    @property
    def memory_us(self) -> int:
        """Return for how long a call is felt; of a bucket, how long an empty one takes to fill."""
        return self.plan_us * self.burst // self.calls if self.burst else self.plan_us

    @property
    def leeway_us(self) -> int:
        """Return how much earlier than planned a call may still go."""
        return self.margin_us // 3

    @property
    def distance_us(self) -> int:
        """Return how much further off the first call behind a burst stays: a burst travels the most unevenly."""
        return 6 * self.leeway_us

    def __str__(self) -> str:
        burst = f" with a burst of {self.burst}" if self.burst else ""
        return f"{self.calls} in {self.every_us / _US:g} s{burst}"


@dataclass(frozen=True)
class LimitPlan:
    """All limits of one account; each that is absent does not bind.

    Attributes:
        account: Shortest span first. A slowed-down account is slowed down in this first one: a refusal says that the
            pace is too high, not that the day is over.
    """

    account: tuple[Span, ...] = ()
    recipient: tuple[Span, ...] = ()
    concurrent: int | None = None

    @classmethod
    def of(cls, limits: Limits, tuning: Tuning) -> "LimitPlan":
        """Return the limits of a spec with the margins that keep them on the far side of a network."""
        return cls(
            tuple(_span(each, tuning) for each in limits.windows()),
            tuple(_span(each, tuning) for each in limits.per_recipient),
            limits.concurrent,
        )

    @property
    def binds(self) -> bool:
        """False where only a provider's own word can stop a call."""
        return bool(self.account or self.recipient or self.concurrent)

    def rate(self, share: float) -> float | None:
        """Return how many calls a second the shortest window allows at a share of its rate; None without a window."""
        return share * self.account[0].calls * _US / self.account[0].every_us if self.account else None

    def share(self, processes: int) -> "LimitPlan":
        """Return what one of `processes` may do alone: its part of every window, evenly paced, without bursts.

        Where a limit is smaller than the number of processes each of them still gets its turn, more rarely: together
        they keep the rate, but within one span all of them may meet. A cap on concurrency never falls below 1 each.
        """
        return LimitPlan(
            tuple(_part(each, processes) for each in self.account),
            tuple(_part(each, processes) for each in self.recipient),
            max(1, self.concurrent // processes) if self.concurrent else None,
        )

    def memory(self) -> timedelta:
        """Return how far back a call can still matter."""
        spans = (each.memory_us for each in (*self.account, *self.recipient))
        return timedelta(microseconds=max(spans, default=0))

    def most_remembered(self) -> int:
        """Return how many of an account's latest calls decide about the next one."""
        return max((each.calls for each in self.account if not each.burst), default=1)


def _span(window: Window, tuning: Tuning) -> Span:
    every_us = microseconds(window.every)
    margin_us = min(ceil(every_us * tuning.margin), microseconds(tuning.longest_margin))
    return Span(window.calls, every_us, margin_us, window.burst)


def _part(span: Span, processes: int) -> Span:
    whole = span.calls // processes
    every_us = ceil(span.every_us / whole) if whole else ceil(span.every_us * processes / span.calls)
    return Span(1, every_us, 0)


def microseconds(duration: timedelta) -> int:
    """Return a duration in whole microseconds."""
    return duration // timedelta(microseconds=1)


@dataclass(frozen=True)
class Turn:
    """The limiter's answer to one delivery.

    Attributes:
        wait_us: Until its slot; None when the call may go now.
        reserved: False when the slot lies beyond the horizon and nothing was kept.
        cause: What it waits for.
        index: Which window of the account or recipient, when one is the cause.
    """

    wait_us: int | None = None
    reserved: bool = False
    cause: Cause | None = None
    index: int = 0

    def why(self, plan: LimitPlan) -> str:
        """Return a short sentence that names what the delivery waits for."""
        windows = plan.recipient if self.cause == "recipient" else plan.account
        if self.cause in {"account", "recipient"}:
            return f"the limit of {windows[self.index]} for the {self.cause} is used up"
        sentences = {
            "concurrent": f"{plan.concurrent} calls are in flight, and no more are allowed at once",
            "frozen": "the whole account waits: the provider asked for it, or Redis came back a moment ago",
            "recipient_frozen": "the provider asked to wait with this recipient",
            "unknown": "Redis lost what was called lately, and the ledger is being asked",
            "reserved": "its reserved slot has not come",
        }
        return sentences[self.cause or "reserved"]


GO = Turn()


@dataclass(frozen=True)
class Pace:
    """A scope's own clock: how fast it runs, from when on.

    Attributes:
        at_us: From this instant on the share grows; until then the clock stands still.
        virtual_us: What the scope's clock shows until `at_us`.
        share: Speed at `at_us`, 1 for full.
        cut_us: When the share was last cut.
        growth: Share regained in each second.
    """

    growth: float
    at_us: int = 0
    virtual_us: int = 0
    share: float = 1.0
    cut_us: int = 0

    def share_at(self, now: int) -> float:
        """Return the speed of the scope's clock, or the speed it will start with when it stands still."""
        return min(1.0, self.share + self.growth * max(0, now - self.at_us) / _US)

    def virtual(self, now: int) -> int:
        """Return what the scope's clock shows at an instant, also a future one."""
        passed = max(0, now - self.at_us)
        rising = min(passed, self._rise_us())
        return self.virtual_us + floor(
            self.share * rising + self.growth / _US * rising * rising / 2 + (passed - rising)
        )

    def real(self, virtual: int, now: int) -> int:
        """Return when the scope's clock will show `virtual`: the forecast of a slot, not before `now`."""
        ahead = virtual - self.virtual_us
        rise, growth = self._rise_us(), self.growth / _US
        whole = self.share * rise + growth * rise * rise / 2
        if ahead <= 0:
            passed = 0.0
        elif ahead >= whole:
            passed = rise + ahead - whole
        else:
            passed = (sqrt(self.share * self.share + 2 * growth * ahead) - self.share) / growth
        return max(now, self.at_us + ceil(passed))

    def frozen(self, freeze_us: int, now: int) -> "Pace":
        """Return the clock stopped for a time; a longer stop that is under way stays."""
        share = self.share_at(now)
        return replace(self, at_us=max(self.at_us, now + freeze_us), virtual_us=self.virtual(now), share=share)

    def slowed(self, freeze_us: int, now: int, tuning: Tuning, floor: float = 0.0) -> "Pace":
        """Return the clock after a refusal: stopped for a time and slower afterwards, but not below `floor`."""
        held = self.frozen(freeze_us, now)
        if now - self.cut_us < microseconds(tuning.cut_every):
            return held
        again = now - self.cut_us < microseconds(tuning.cut_memory)
        cut_to = held.share * (tuning.cut if again else tuning.first_cut)
        return replace(held, share=min(held.share, max(tuning.least, floor, cut_to)), cut_us=now)

    def _rise_us(self) -> float:
        return (1 - self.share) / self.growth * _US


@dataclass(frozen=True)
class Refusal:
    """What a provider's "too many calls", or its word that few are left, changes; nothing by default.

    Attributes:
        slows: The account's rate is cut.
        freeze_us: The whole account stops for so long first.
        recipient_us: One recipient stops for so long; None leaves it alone.
        floor: The rate is not cut below this share: what the provider says is still free.
    """

    slows: bool = False
    freeze_us: int = 0
    recipient_us: int | None = None
    floor: float = 0.0

    @property
    def matters(self) -> bool:
        """Tell whether anything changes."""
        return self.slows or self.recipient_us is not None


@dataclass(frozen=True)
class PastCall:
    """A call as the ledger knows it, told in microseconds before the moment of asking.

    Attributes:
        delivery: Its id.
        begun_us: Since its attempt was claimed; the call itself left later.
        ended_us: Since its attempt ended; None while it is under way, when it may be leaving at this very moment.
        left_us: Until its lease ends, while it is under way.
    """

    delivery: str
    begun_us: int
    ended_us: int | None = None
    left_us: int = 0

    def shows_traffic(self, lately: timedelta) -> bool:
        """Tell whether somebody was calling before the gap, and was not merely claimed along with the asker."""
        if self.ended_us is None:
            return self.begun_us > _US
        return self.ended_us < microseconds(lately)


@dataclass(frozen=True)
class WindowStatus:
    """One window of an account: how much of it is used now. A bucket counts its missing tokens."""

    window: str
    used: int
    allowed: int

    @classmethod
    def of(cls, span: Span, calls: Sequence[int], full: int, now: int) -> "WindowStatus":
        """Count a window's use.

        Args:
            calls: The instants of the latest calls.
            full: When the bucket will be full again.
        """
        if span.burst:
            return cls(str(span), ceil(max(0, full - now) * span.calls / span.plan_us), span.burst)
        return cls(str(span), min(span.calls, sum(each > now - span.every_us for each in calls)), span.calls)


@dataclass(frozen=True)
class LimitStatus:
    """One account for an operator.

    Attributes:
        share: How much of the spec's rate holds now; below 1 after "too many calls".
        frozen_for: How much longer the provider asked the account to wait; zero when it did not.
        waiting: Reservations not taken yet.
        shared: False when Redis is away: then this process alone is described, and its own share.
        next_free: How long a delivery that came now would wait for the account; its recipient may ask for more.
        rate: Calls a second that hold now on the shortest window; None where no window binds.
        recipient: The windows of each recipient, in words.
    """

    account: str
    windows: tuple[WindowStatus, ...]
    share: float
    frozen_for: timedelta
    in_flight: int
    concurrent: int | None
    waiting: int
    shared: bool = True
    next_free: timedelta = timedelta()
    rate: float | None = None
    recipient: tuple[str, ...] = ()
