"""The limiter's keys in Redis, `entrega:limit:{account}:...`: what is asked of them, and what they answer.

They hold numbers, delivery ids and keyed hashes, and nobody but this module and its scripts reads or writes them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args

from redis import Redis

from delivery.forecast import Filling, Standing
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
from worker.limit_scripts import ASK, END, REMEMBER


@dataclass(frozen=True)
class Ask:
    """One call that wants to go.

    Attributes:
        recipient: A keyed hash.
        lease_us: How long it can last.
    """

    delivery: str
    account: str
    recipient: str
    lease_us: int


@dataclass(frozen=True)
class Gap:
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
class End:
    """One call that ended.

    Attributes:
        recipient: A keyed hash.
        took_us: How long it lasted.
    """

    delivery: str
    account: str
    recipient: str
    took_us: int


class Book:
    """The limiter's keys in Redis: asking, ending and reading. Raises what the client raises."""

    def __init__(self, redis: Redis, tuning: Tuning, instant_us: Callable[[], int]) -> None:
        self._redis = redis
        self._tuning = tuning
        self._instant_us = instant_us
        # A registered script travels as its hash, and as a whole only to a server that does not know it.
        self._ask = redis.register_script(ASK)
        self._end = redis.register_script(END)
        self._remember = redis.register_script(REMEMBER)

    def ask(self, asks: Sequence[Ask], plan: LimitPlan, *, owed: int, pause_us: int) -> tuple[list[Turn], Gap | None]:
        """Let calls of one account go or reserve their slots, each as if asked alone; with a gap, do neither."""
        tuning = self._tuning
        times = [microseconds(each) for each in (tuning.horizon, tuning.grace, tuning.kept_free, tuning.first_hold)]
        numbers = [plan.concurrent or 0, *times, owed, pause_us, tuning.spread, tuning.growth]
        spans = (*_flat(plan.account), *_flat(plan.recipient))
        calls = [part for each in asks for part in (each.delivery, each.lease_us)]
        arguments: list[str | int | float] = [self._instant_us(), *numbers, *spans, *calls]
        account = asks[0].account
        keys = [*_of_account(account), *(key for each in asks for key in _of_person(account, each.recipient))]
        return _turns(self._ask(keys=keys, args=arguments), len(asks))

    def remember(self, account: str, gap: Gap, plan: LimitPlan, calls: Iterable[PastCall]) -> bool:
        """Close a gap with what the ledger knows; False when it is not open any more, or another one is."""
        known = list(calls)
        ages = sorted((each.ended_us or 0 for each in known), reverse=True)
        flying = [part for each in known if each.ended_us is None for part in (each.delivery, max(1, each.left_us))]
        arguments: list[str | int] = [self._instant_us(), gap.name, *_flat(plan.account), len(ages), *ages]
        arguments += [len(flying) // 2, *flying]
        return bool(self._remember(keys=_keys(account, ""), args=arguments))

    def end(self, end: End, plan: LimitPlan, refusal: Refusal) -> bool:
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


def _turns(reply: Sequence[Any], asked: int) -> tuple[list[Turn], Gap | None]:
    if reply[0] == _IS_GAP:
        _, closes, name, age_us = reply
        return [Turn(_ASK_AGAIN_US, reserved=True, cause="unknown")] * asked, Gap(_text(name), age_us, bool(closes))
    return [_turn(*each) for each in reply], None


def _turn(wait_us: int, reserved: int, cause: bytes, index: int) -> Turn:
    return GO if wait_us < 0 else Turn(wait_us, bool(reserved), _CAUSES[_text(cause)], index)


def _names(plan: LimitPlan) -> list[str]:
    return ["at", "virtual", "share", "hold", *(f"full{place}" for place in range(1, len(plan.account) + 1))]


def _numbers(names: Sequence[str], kept: Sequence[bytes | None]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, kept, strict=True) if value is not None}


def _keys(account: str, recipient: str) -> list[str]:
    return [*_of_account(account), *_of_person(account, recipient)]


def _of_account(account: str) -> list[str]:
    base = f"entrega:limit:{{{account}}}"
    return [f"{base}:state", f"{base}:calls", f"{base}:queue", f"{base}:leases"]


def _of_person(account: str, recipient: str) -> list[str]:
    person = f"entrega:limit:{{{account}}}:to:{recipient}"
    return [f"{person}:state", f"{person}:calls", f"{person}:queue"]


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
