"""The gate that keeps every account within its limits, for all workers together: one Redis round trip for each call.

It owns the keys `entrega:limit:{account}:...`, the change to a local share while Redis is away, and the reading of both
for an operator. It refuses to wait: a delivery that must wait is told for how long. Redis holds numbers, delivery ids
and keyed hashes. What a wiped or restored Redis forgot is read from the ledger before anything goes: docs/adr/0015.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar, get_args

from redis import Redis
from redis.exceptions import RedisError

from config.spec_sections import Limits
from delivery.errors import LedgerUnavailable
from delivery.forecast import Filling, Standing, forecast
from delivery.limiter import (
    GO,
    Cause,
    LimitPlan,
    LimitStatus,
    Pace,
    PastCall,
    Refusal,
    Span,
    Tuning,
    Turn,
    WindowStatus,
    microseconds,
)
from delivery.limiter_local import wait_for_slot
from delivery.outcomes import Deferred, Usage
from delivery.ports import Claimed, Settlement
from worker.limit_fallback import LocalShare
from worker.limit_scripts import ASK, END, REMEMBER

_T = TypeVar("_T")
_OPEN_FOR_S = 0.05


@dataclass(frozen=True)
class LimitRules:
    """What the limiter needs to know besides Redis.

    Attributes:
        limits: One for each service, e.g. {"crm": ...}.
        lease: How long a call of this delivery can last, the margin of its claim included (`judging.lease`): after
            that a killed worker's place in flight is free again.
        recipient_key: A keyed hash of the recipient; never the recipient.
        asked: The provider's own Retry-After at the end of an attempt, None when it said nothing.
        called: The latest calls of an account within a span, at most so many besides those under way; asked when Redis
            does not know (`ledger.calls`).
        processes: Worker processes that share an account's limits while Redis is away.
    """

    limits: Mapping[str, Limits]
    lease: Callable[[Claimed], timedelta]
    recipient_key: Callable[[Claimed], str]
    asked: Callable[[Settlement], timedelta | None]
    called: Callable[[str, timedelta, int], Sequence[PastCall]]
    processes: int
    tuning: Tuning = field(default_factory=Tuning)


class SharedLimiter:
    """Lets calls go within the limits of their account and recipient; implements `delivery.ports.Gate`.

    Should be the last gate: a place that was granted is not given back when a later gate closes.

    Args:
        redis: With time-outs of about a second and no retries of its own; None works with the local share for good.
        rules: Limits and how to ask about deliveries.
        rng: Spreads deliveries that lie beyond the horizon; tests pass a seeded one.
        monotonic: This process's clock in seconds, for the local share.
        instant_us: Instants for the scripts; the server's own clock when left out, as it must be but in tests.
    """

    def __init__(
        self,
        redis: Redis | None,
        rules: LimitRules,
        *,
        rng: random.Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        instant_us: Callable[[], int] | None = None,
    ) -> None:
        self._rules = rules
        self._rng = rng or random.SystemRandom()
        self._monotonic = monotonic
        # Accounts where nothing binds and nothing was frozen a moment ago: asked once for many calls.
        self._open_until: dict[str, float] = {}
        self._plans = {service: LimitPlan.of(each, rules.tuning) for service, each in rules.limits.items()}
        self._local = LocalShare(self._plans, rules.processes, rules.tuning, monotonic)
        self._book = _Book(redis, rules.tuning, instant_us or (lambda: 0)) if redis is not None else None

    def closed(self, claimed: Sequence[Claimed]) -> list[Deferred | None]:
        """Return for each None when the call may go now, else a wait that ends at its reserved slot."""
        return [self._closed(each) for each in claimed]

    def _closed(self, claimed: Claimed) -> Deferred | None:
        plan, order = self._plan(claimed), claimed.order
        if self._monotonic() < self._open_until.get(order.account, 0.0):
            return None
        ask = _Ask(str(order.delivery_id), order.account, self._rules.recipient_key(claimed), self._lease_us(claimed))
        turn = self._through_redis(lambda book: self._ask(book, ask, plan))
        turn = turn or self._local.ask(
            ask.delivery, ask.account, ask.recipient, service=_service(claimed), lease_us=ask.lease_us
        )
        if turn.wait_us is None and not plan.binds:
            self._open_until[order.account] = self._monotonic() + _OPEN_FOR_S
        return self._answer(turn, plan)

    def _answer(self, turn: Turn, plan: LimitPlan) -> Deferred | None:
        if turn.wait_us is None:
            return None
        wait = timedelta(microseconds=turn.wait_us)
        if not turn.reserved:
            wait = self._rules.tuning.horizon * self._rng.uniform(1.0, 2.0)
        return Deferred("limited", wait, turn.why(plan), burned=False)

    def ended(self, settlements: Sequence[Settlement]) -> None:
        """Free the places in flight; slow or stop the account or the recipient where the provider asked for it."""
        for each in settlements:
            self._ended(each)

    def _ended(self, settlement: Settlement) -> None:
        order, plan, refusal = settlement.claimed.order, self._plan(settlement.claimed), self._refusal(settlement)
        recipient, took_us = self._rules.recipient_key(settlement.claimed), microseconds(settlement.duration)
        end = _End(str(order.delivery_id), order.account, recipient, took_us)
        self._local.end(end.delivery, end.account, recipient, took_us=took_us, refusal=refusal)
        if refusal.matters:
            self._open_until.pop(end.account, None)
        if plan.concurrent or refusal.matters:
            self._through_redis(lambda book: book.end(end, plan, refusal))

    def room(self, account: str, kind: str, *, within: timedelta, most: int) -> list[timedelta]:  # noqa: ARG002 - the port's
        """See `delivery.ports.Gate.room`. A recipient's own limit is not foreseen."""
        plan = self._plans.get(account.partition(":")[0])
        if plan is None:
            return [timedelta()] * most
        return forecast(self._standing(account, plan, most), within=within, most=most)

    def _standing(self, account: str, plan: LimitPlan, most: int) -> Standing:
        found = self._through_redis(lambda book: book.standing(account, plan, most=most))
        return found or Standing(0, [Filling(each) for each in plan.share(self._rules.processes).account])

    def status(self, account: str) -> LimitStatus:
        """Read how an account stands, without changing anything.

        Args:
            account: Its full name, e.g. "crm:default".

        Raises:
            KeyError: No spec is known for the account's service.
        """
        plan = self._plans[account.partition(":")[0]]
        found = self._through_redis(lambda book: book.status(account, plan)) or self._local.status(account, plan)
        held = plan if found.shared else plan.share(self._rules.processes)
        return replace(found, rate=held.rate(found.share), recipient=tuple(map(str, held.recipient)))

    def _ask(self, book: "_Book", ask: "_Ask", plan: LimitPlan) -> Turn:
        # Calls that this process let go alone are added to the shared count with its first question afterwards.
        owed = self._local.take_owed(ask.account)
        try:
            turn, gap = book.ask(ask, plan, owed=owed, pause_us=self._local.pause_us())
        except (RedisError, OSError):
            self._local.owe(ask.account, owed)
            raise
        if gap is not None and self._close(book, ask, plan, gap):
            turn, _ = book.ask(ask, plan, owed=0, pause_us=self._local.pause_us())
        return turn

    def _close(self, book: "_Book", ask: "_Ask", plan: LimitPlan, gap: "_Gap") -> bool:
        """Tell Redis what was called, when it is this process's turn to; False leaves it to a later question."""
        if not gap.closes:
            return False
        tuning = self._rules.tuning
        try:
            found = self._rules.called(ask.account, max(plan.memory(), tuning.lately), plan.most_remembered())
        except LedgerUnavailable:
            return False  # nothing goes meanwhile, and without the ledger nothing could be settled either
        others = [each for each in found if each.delivery != ask.delivery]
        # Processes that were without Redis may keep to their own share for a little longer: what they send counts too.
        if gap.age_us < microseconds(tuning.pause) and any(each.shows_traffic(tuning.lately) for each in others):
            return False
        return book.remember(ask.account, gap, plan, others)

    def _through_redis(self, call: Callable[["_Book"], _T]) -> _T | None:
        if self._book is None or not self._local.may_try_redis():
            return None
        try:
            answer = call(self._book)
        except (RedisError, OSError) as err:
            self._local.redis_failed(err)
            return None
        self._local.redis_answered()
        return answer

    def _refusal(self, settlement: Settlement) -> Refusal:
        code, limits = settlement.outcome.code, self._rules.limits[_service(settlement.claimed)]
        if code not in {"rate_limited", "pair_limited"}:
            return _heeded(settlement.usage, limits.on_excess.retry_after_cap)
        asked = self._rules.asked(settlement)
        freeze = max(timedelta(), min(asked, limits.on_excess.retry_after_cap)) if asked else timedelta()
        if code == "rate_limited":
            return Refusal(slows=True, freeze_us=microseconds(freeze))
        # Without a word from the provider one window of the recipient is the least that makes room again.
        least = max((each.every for each in limits.per_recipient), default=timedelta(seconds=1))
        return Refusal(recipient_us=microseconds(freeze if asked else least))

    def _plan(self, claimed: Claimed) -> LimitPlan:
        return self._plans[_service(claimed)]

    def _lease_us(self, claimed: Claimed) -> int:
        return microseconds(self._rules.lease(claimed))


def _service(claimed: Claimed) -> str:
    return claimed.order.command.service


def _heeded(usage: Usage | None, cap: timedelta) -> Refusal:
    """Slow the account down while few of its calls are left, and stop it where none is."""
    if usage is None or (usage.room >= 1 and usage.wait is None):
        return Refusal()
    freeze = min(usage.wait, cap) if usage.wait else timedelta()
    return Refusal(slows=True, freeze_us=microseconds(freeze), floor=usage.room)


@dataclass(frozen=True)
class _Ask:
    delivery: str
    account: str
    recipient: str
    lease_us: int


@dataclass(frozen=True)
class _Gap:
    """Redis does not know what was called.

    Attributes:
        name: Which server found it and when; a later gap has another name.
        age_us: Since it was found.
        closes: True for the one that is to ask the ledger.
    """

    name: str
    age_us: int
    closes: bool


@dataclass(frozen=True)
class _End:
    delivery: str
    account: str
    recipient: str
    took_us: int


class _Book:
    """The limiter's keys in Redis: asking, ending and reading. Raises what the client raises."""

    def __init__(self, redis: Redis, tuning: Tuning, instant_us: Callable[[], int]) -> None:
        self._redis = redis
        self._tuning = tuning
        self._instant_us = instant_us
        # A registered script travels as its hash, and as a whole only to a server that does not know it.
        self._ask = redis.register_script(ASK)
        self._end = redis.register_script(END)
        self._remember = redis.register_script(REMEMBER)

    def ask(self, ask: _Ask, plan: LimitPlan, *, owed: int, pause_us: int) -> tuple[Turn, _Gap | None]:
        """Let the call go or reserve its slot; with a gap, do neither."""
        tuning = self._tuning
        times = [microseconds(each) for each in (tuning.horizon, tuning.grace, tuning.kept_free, tuning.first_hold)]
        numbers = [ask.lease_us, plan.concurrent or 0, *times, owed, pause_us, tuning.spread, tuning.growth]
        spans = (*_flat(plan.account), *_flat(plan.recipient))
        arguments: list[str | int | float] = [self._instant_us(), ask.delivery, *numbers, *spans]
        return _turn(self._ask(keys=_keys(ask.account, ask.recipient), args=arguments))

    def remember(self, account: str, gap: _Gap, plan: LimitPlan, calls: Iterable[PastCall]) -> bool:
        """Close a gap with what the ledger knows; False when it is not open any more, or another one is."""
        known = list(calls)
        ages = sorted((each.ended_us or 0 for each in known), reverse=True)
        flying = [part for each in known if each.ended_us is None for part in (each.delivery, max(1, each.left_us))]
        arguments: list[str | int] = [self._instant_us(), gap.name, *_flat(plan.account), len(ages), *ages]
        arguments += [len(flying) // 2, *flying]
        return bool(self._remember(keys=_keys(account, ""), args=arguments))

    def end(self, end: _End, plan: LimitPlan, refusal: Refusal) -> bool:
        """Free the place in flight and keep what the provider said."""
        tuning = self._tuning
        said = [int(refusal.slows), refusal.freeze_us, -1 if refusal.recipient_us is None else refusal.recipient_us]
        times = [microseconds(each) for each in (tuning.first_hold, tuning.horizon)]
        numbers = [end.took_us, plan.concurrent or 0, *said, *times, tuning.first_cut, tuning.cut]
        numbers += [
            max(tuning.least, refusal.floor),
            microseconds(tuning.cut_every),
            microseconds(tuning.cut_memory),
            tuning.growth,
        ]
        spans = (*_flat(plan.account), *_flat(plan.recipient))
        arguments: list[str | int | float] = [self._instant_us(), end.delivery, *numbers, *spans]
        return bool(self._end(keys=_keys(end.account, end.recipient), args=arguments))

    def status(self, account: str, plan: LimitPlan) -> LimitStatus:
        """Read an account's keys."""
        state_key, calls_key, queue_key, leases_key = _keys(account, "")[:4]
        names = _names(plan)
        seconds, micros = self._redis.time()
        now = self._instant_us() or seconds * 1_000_000 + micros
        with self._redis.pipeline() as batch:
            batch.hmget(state_key, names)
            batch.lrange(calls_key, 0, -1)
            batch.zrange(queue_key, 0, -1, withscores=True)
            batch.zcount(leases_key, now, "+inf")
            kept, calls, reserved, flying = batch.execute()
        state = _numbers(names, kept)
        pace = self._pace(state)
        times = [int(each) for each in calls]
        full = [int(state.get(f"full{place}", 0)) for place in range(1, len(plan.account) + 1)]
        windows = tuple(WindowStatus.of(span, times, last, now) for span, last in zip(plan.account, full, strict=True))
        frozen_for = timedelta(microseconds=max(0, pace.at_us - now))
        queue = [(int(slot), _text(delivery)) for delivery, slot in reserved]
        next_free = wait_for_slot(plan, self._tuning, pace=pace, calls=times, queue=queue, full=full, now=now)
        share, waiting, cap = pace.share_at(now), len(queue), plan.concurrent
        return LimitStatus(account, windows, share, frozen_for, flying, cap, waiting, next_free=next_free)

    def standing(self, account: str, plan: LimitPlan, *, most: int) -> Standing:
        """Read what a forecast of so many calls needs, however long the lists are."""
        state_key, calls_key, queue_key, leases_key = _keys(account, "")[:4]
        names = _names(plan)
        with self._redis.pipeline(transaction=False) as batch:
            batch.time()
            batch.hmget(state_key, names)
            batch.zrange(leases_key, 0, -1, withscores=True)
            batch.zcard(queue_key)
            batch.zrange(queue_key, -1, -1, withscores=True)
            (seconds, micros), kept, leases, reserved, last = batch.execute()
            now = self._instant_us() or seconds * 1_000_000 + micros
            flying = sum(end >= now for _, end in leases)
            # The calls made, newest first, and then the reservations, earliest first, that have to leave a window.
            for each in plan.account:
                made, first = max(0, each.calls - reserved), max(0, reserved - each.calls)
                batch.lrange(calls_key, max(0, made - most), made)
                batch.zrange(queue_key, first, first + most - 1, withscores=True)
            found = iter(batch.execute() if plan.account else ())
        state = _numbers(names, kept)
        pace = self._pace(state)
        return Standing(
            now=now,
            windows=[
                Filling(
                    window,
                    share=1.0 if index else pace.share_at(now),
                    leaving=[
                        *_oldest_first(next(found), max(0, window.calls - reserved), most),
                        *(pace.real(int(slot), now) for _, slot in next(found)),
                    ][:most],
                    full=int(state.get(f"full{index + 1}", 0)),
                    waiting=reserved,
                )
                for index, window in enumerate(plan.account)
            ],
            opens_at=pace.at_us,
            last_reserved=pace.real(int(last[0][1]), now) if last else None,
            concurrent=plan.concurrent,
            flying=flying,
            hold_us=state.get("hold", float(microseconds(self._tuning.first_hold))),
        )

    def _pace(self, state: Mapping[str, float]) -> Pace:
        return Pace(self._tuning.growth, int(state.get("at", 0)), int(state.get("virtual", 0)), state.get("share", 1.0))


def _turn(reply: Sequence[Any]) -> tuple[Turn, _Gap | None]:
    wait_us, reserved, cause, index = reply
    if wait_us == _IS_GAP:
        return Turn(_ASK_AGAIN_US, reserved=True, cause="unknown"), _Gap(_text(cause), index, bool(reserved))
    if wait_us < 0:
        return GO, None
    return Turn(wait_us, bool(reserved), _CAUSES[_text(cause)], index), None


def _names(plan: LimitPlan) -> list[str]:
    return ["at", "virtual", "share", "hold", *(f"full{place}" for place in range(1, len(plan.account) + 1))]


def _numbers(names: Sequence[str], kept: Sequence[bytes | None]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, kept, strict=True) if value is not None}


def _keys(account: str, recipient: str) -> list[str]:
    base = f"entrega:limit:{{{account}}}"
    person = f"{base}:to:{recipient}"
    of_account = [f"{base}:state", f"{base}:calls", f"{base}:queue", f"{base}:leases"]
    return [*of_account, f"{person}:state", f"{person}:calls", f"{person}:queue"]


def _oldest_first(calls: Sequence[bytes], place: int, most: int) -> tuple[int, ...]:
    """Turn the calls up to a place around; one that was never made left its window long ago."""
    wanted = min(place, most)
    made = [int(each) for each in calls[:wanted]]
    return tuple([0] * (wanted - len(made)) + made[::-1])


def _flat(spans: Sequence[Span]) -> list[int]:
    numbers = [len(spans)]
    for each in spans:
        numbers += [each.calls, each.plan_us, each.leeway_us, each.burst or 0]
    return numbers


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


_CAUSES: Mapping[str, Cause] = {each: each for each in get_args(Cause)}
_IS_GAP = -2
_ASK_AGAIN_US = 1_000_000  # Source: our own choice; a gap is closed in one question of the ledger or after `pause`
