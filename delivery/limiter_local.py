"""The limiter in memory: the same rules as in Redis, for one process alone.

It works with the account's stated share while Redis is away, and it is the readable form of the script that
`worker.limits` runs there. It is given the time, holds no lock and never sleeps.
"""

from bisect import bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil, floor, inf

from delivery.limiter import (
    GO,
    Cause,
    LimitPlan,
    LimitStatus,
    Pace,
    Refusal,
    Span,
    Tuning,
    Turn,
    WindowStatus,
    microseconds,
)

_EARLY_US = 1_000  # a delivery that comes up to a millisecond before its slot is on time: rounding, not impatience
_LAST = chr(0x10FFFF)  # sorts behind every delivery id


@dataclass(frozen=True)
class _Look:
    """What one scope says about one delivery: may it go, else when and because of what."""

    go: bool
    slot: int
    cause: Cause
    index: int = 0


@dataclass
class _Scope:
    """The calls and reservations of one account or one recipient."""

    windows: Sequence[Span]
    pace: Pace
    grace_us: int
    kept_free_us: int
    spread: float
    names: tuple[Cause, Cause]
    calls: deque[int] = field(default_factory=deque)  # newest first
    queue: list[tuple[int, str]] = field(default_factory=list)  # (slot on the scope's clock, delivery)
    slots: dict[str, int] = field(default_factory=dict)
    full: list[int] = field(default_factory=list)  # for each bucket: when it will be full again
    behind: int = 0  # reservations at the head of the queue that count no more: nobody leaves room for them

    def __post_init__(self) -> None:
        self.calls = deque(maxlen=max((each.calls for each in self.windows if not each.burst), default=0))
        self.full = [0] * len(self.windows)

    def look(self, delivery: str, now: int) -> _Look:
        clock = self.pace.virtual(now)
        self._forget(clock)
        own = self.slots.get(delivery)
        if own is not None and own > clock + _EARLY_US:
            return _Look(go=False, slot=self.pace.real(own, now), cause="reserved")
        self.behind = self._until(clock if own is not None else clock - self.kept_free_us)
        ahead = self.ahead() if own is None else 0
        slot, index, go = self._free(ahead, now, first=own is None and not ahead)
        if ahead and self.windows and not self.windows[0].burst:
            # Behind others a crowd is spread out: calls in one clump travel too unevenly for a strict window.
            # Nothing is made up while the account is slowed down.
            spread = self.spread if self.pace.share_at(now) >= 1 else 1.0
            step = ceil(self.windows[0].plan_us / self.windows[0].calls * spread)
            slot, go = max(slot, self.pace.real(self.queue[-1][0] + step, now)), False
        if go and self.pace.at_us <= now:
            return _Look(go=True, slot=now, cause=self.names[0])
        if own is not None:
            # It is its turn, but calls came closer together than planned: behind those due before the next free slot.
            due = self._until(self.pace.virtual(slot)) - self.behind
            slot, index, _ = self._free(max(0, due), now)
        if self.pace.at_us > now and slot <= self.pace.at_us:
            return _Look(go=False, slot=self.pace.at_us, cause=self.names[1])
        return _Look(go=False, slot=max(slot, now + 1), cause=self.names[0], index=index)

    def ahead(self) -> int:
        """Return how many reservations the last newcomer looked at stood behind."""
        return len(self.queue) - self.behind

    def _until(self, virtual: int) -> int:
        return bisect_right(self.queue, (virtual, _LAST))

    def _free(self, ahead: int, now: int, *, first: bool = False) -> tuple[int, int, bool]:
        """Return the first free slot behind `ahead` reservations, the window that decides it, and whether it is now."""
        slot, deciding, go = 0, 0, True
        for index, window in enumerate(self.windows):
            share = self.pace.share_at(now) if index == 0 else 1.0
            due = self._bucket(index, ahead, share, now) if window.burst else self._strict(window, ahead, share, now)
            due += window.distance_us if first and due and not window.burst else 0
            go = go and due - window.leeway_us <= now
            if due > slot:
                slot, deciding = due, index
        return slot, deciding, go

    def _bucket(self, index: int, ahead: int, share: float, now: int) -> int:
        window = self.windows[index]
        step = window.plan_us / window.calls / share
        return ceil(max(self.full[index], now) + ahead * step - ((window.burst or 1) - 1) * step)

    def _strict(self, window: Span, ahead: int, share: float, now: int) -> int:
        """Return when the call that is `window.calls` places before this one leaves the window."""
        if ahead >= window.calls:
            before = max(self.queue[self.behind + ahead - window.calls][0], self.pace.virtual(now))
            if share < 1:
                return self.pace.real(before + window.plan_us, now)
            return self.pace.real(before, now) + window.plan_us
        calls = max(1, floor(window.calls * share))
        every = ceil(window.plan_us * calls / (window.calls * share))
        if ahead >= calls:
            return self.pace.real(self.queue[self.behind + ahead - calls][0], now) + every
        place = calls - ahead - 1
        return self.calls[place] + every if place < len(self.calls) else 0

    def take(self, delivery: str, now: int) -> None:
        self.drop(delivery)
        self.calls.appendleft(now)
        for index, window in enumerate(self.windows):
            share = self.pace.share_at(now) if index == 0 else 1.0
            self.full[index] = ceil(max(self.full[index], now) + window.plan_us / window.calls / share)

    def place(self, delivery: str, slot: int) -> None:
        if not self.windows:
            return
        virtual = self.pace.virtual(slot)
        if self.slots.get(delivery) != virtual:
            self.drop(delivery)
            insort(self.queue, (virtual, delivery))
            self.slots[delivery] = virtual

    def drop(self, delivery: str) -> None:
        virtual = self.slots.pop(delivery, None)
        if virtual is not None:
            self.queue.remove((virtual, delivery))

    def empty_buckets(self, now: int) -> None:
        for index, window in enumerate(self.windows):
            whole = ceil((window.burst or 0) * window.plan_us / window.calls)
            self.full[index] = max(self.full[index], now + whole)

    def waiting(self, now: int) -> int:
        """Return how many reservations are due and not taken."""
        return self._until(self.pace.virtual(now))

    def idle_since(self) -> float:
        """Return the last instant that still matters, so that an idle recipient can be forgotten."""
        span = max((each.plan_us for each in self.windows), default=0)
        last_call = self.calls[0] + span if self.calls else 0
        return inf if self.queue else max(last_call, *self.full, self.pace.at_us)

    def _forget(self, clock: int) -> None:
        while self.queue and self.queue[0][0] < clock - self.grace_us:
            _, delivery = self.queue.pop(0)
            del self.slots[delivery]


def wait_for_slot(  # noqa: PLR0913 - what a scope is made of, all by name
    plan: LimitPlan,
    tuning: Tuning,
    *,
    pace: Pace,
    calls: Sequence[int],
    queue: Sequence[tuple[int, str]],
    full: Sequence[int],
    now: int,
) -> timedelta:
    """Return how long a newcomer would wait for the account, by the rules that let calls go.

    Args:
        calls: The latest calls, newest first.
        queue: Reservations: slot on the account's clock, and delivery.
        full: For each bucket, when it will be full again.
    """
    grace, kept_free = microseconds(tuning.grace), microseconds(tuning.kept_free)
    scope = _Scope(plan.account, pace, grace, kept_free, tuning.spread, ("account", "frozen"))
    scope.calls.extend(calls[: scope.calls.maxlen])
    scope.queue = sorted(queue)
    scope.slots = {delivery: slot for slot, delivery in queue}
    scope.full = list(full)
    return timedelta(microseconds=max(0, scope.look("", now).slot - now))


class MemoryLimiter:
    """The limits of one account, for this process alone. Not thread-safe: the caller holds a lock.

    Args:
        plan: What is enforced; the account's stated share (`LimitPlan.share`) while Redis is away.
    """

    def __init__(self, plan: LimitPlan, tuning: Tuning) -> None:
        self._plan = plan
        self._tuning = tuning
        self._account = self._scope(plan.account, ("account", "frozen"))
        self._recipients: OrderedDict[str, _Scope] = OrderedDict()
        self._leases: dict[str, int] = {}
        self._hold_us = float(microseconds(tuning.first_hold))
        self.made = 0

    def _scope(self, windows: Sequence[Span], names: tuple[Cause, Cause]) -> _Scope:
        tuning = self._tuning
        grace, kept_free = microseconds(tuning.grace), microseconds(tuning.kept_free)
        return _Scope(windows, Pace(tuning.growth), grace, kept_free, tuning.spread, names)

    def ask(self, delivery: str, recipient: str, *, lease_us: int, now: int) -> Turn:
        """Let a call go now, or reserve its slot.

        Args:
            delivery: Its id: the name of its reservation and of its place in flight.
            recipient: A keyed hash, never the recipient.
            lease_us: After this long its place in flight is free even if nobody told its end.
            now: The instant in microseconds; never goes back.
        """
        to = self._recipient(recipient, now)
        account, person = self._account.look(delivery, now), to.look(delivery, now)
        crowded = self._crowded(delivery, now)
        if not (account.go and person.go) or crowded is not None:
            return self._defer(delivery, to, _latest(account, crowded), person, now)
        self._account.take(delivery, now)
        to.take(delivery, now)
        if self._plan.concurrent:
            self._leases[delivery] = now + lease_us
        self.made += 1
        return GO

    def _crowded(self, delivery: str, now: int) -> _Look | None:
        if not self._plan.concurrent:
            return None
        self._leases = {name: end for name, end in self._leases.items() if end > now}
        new = delivery not in self._account.slots
        flying = len(self._leases) - (delivery in self._leases)
        if flying + (self._account.ahead() if new else 0) < self._plan.concurrent:
            return None
        ahead = self._account.ahead() if new else self._account.waiting(now) - 1
        slot = now + ceil(self._hold_us * (max(0, ahead) + 1) / self._plan.concurrent)
        return _Look(go=False, slot=slot, cause="concurrent")

    def _defer(self, delivery: str, to: _Scope, account: _Look, person: _Look, now: int) -> Turn:
        self._leases.pop(delivery, None)  # whoever asks is not in flight
        latest = account if account.slot >= person.slot else person
        kept = latest.slot - now <= microseconds(self._tuning.horizon)
        if kept:
            to.place(delivery, latest.slot)
        else:
            to.drop(delivery)
        # A delivery that waits for its recipient takes no place in the account's queue: it would hold up the others.
        if kept and latest is account:
            self._account.place(delivery, latest.slot)
        else:
            self._account.drop(delivery)
        return Turn(latest.slot - now, kept, latest.cause, latest.index)

    def release(self, delivery: str, duration_us: int) -> None:
        """Free the place in flight of a call that ended after `duration_us`."""
        if self._leases.pop(delivery, None) is not None:
            self._hold_us = 0.9 * self._hold_us + 0.1 * duration_us

    def refused(self, recipient: str, refusal: Refusal, now: int) -> None:
        """Slow the account down or stop one recipient, as the provider's "too many calls" asks."""
        if refusal.slows:
            self._account.pace = self._account.pace.slowed(refusal.freeze_us, now, self._tuning, refusal.floor)
        if refusal.recipient_us is not None:
            to = self._recipient(recipient, now)
            to.pace = to.pace.frozen(refusal.recipient_us, now)
            to.empty_buckets(now)  # the provider says that they are

    def freeze(self, freeze_us: int, now: int) -> None:
        """Stop the whole account for a time without slowing it down afterwards."""
        self._account.pace = self._account.pace.frozen(freeze_us, now)

    def status(self, account: str, now: int) -> LimitStatus:
        """Describe this process's own share."""
        scope = self._account
        windows = tuple(
            WindowStatus.of(span, tuple(scope.calls), full, now)
            for span, full in zip(scope.windows, scope.full, strict=True)
        )
        frozen_for = timedelta(microseconds=max(0, scope.pace.at_us - now))
        flying = sum(end > now for end in self._leases.values())
        share, cap, waiting = scope.pace.share_at(now), self._plan.concurrent, len(scope.queue)
        next_free = wait_for_slot(
            self._plan,
            self._tuning,
            pace=scope.pace,
            calls=tuple(scope.calls),
            queue=tuple(scope.queue),
            full=scope.full,
            now=now,
        )
        return LimitStatus(account, windows, share, frozen_for, flying, cap, waiting, shared=False, next_free=next_free)

    def _recipient(self, name: str, now: int) -> _Scope:
        found = self._recipients.pop(name, None) or self._scope(self._plan.recipient, ("recipient", "recipient_frozen"))
        self._recipients[name] = found
        oldest = next(iter(self._recipients))
        if oldest != name and self._recipients[oldest].idle_since() < now:
            del self._recipients[oldest]
        return found


def _latest(account: _Look, crowded: _Look | None) -> _Look:
    return crowded if crowded is not None and crowded.slot > account.slot else account
