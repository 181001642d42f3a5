"""The gate that keeps every account within its limits, for all workers together: one Redis round trip for each set.

It owns the change to a local share while Redis is away, and the reading of both for an operator; the keys in Redis are
those of `worker.limit_book`. It refuses to wait: a delivery that must wait is told for how long. What a wiped or
restored Redis forgot is read from the ledger before anything goes: docs/adr/0015.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from redis import Redis
from redis.exceptions import RedisError

from config.spec_sections import Limits
from delivery.errors import LedgerUnavailable
from delivery.forecast import Filling, Standing, forecast
from delivery.limiter import LimitPlan, LimitStatus, PastCall, Refusal, Tuning, Turn, microseconds
from delivery.outcomes import Deferred, Usage
from delivery.ports import Claimed, Settlement, by_account
from worker.limit_book import Ask, Book, End, Gap
from worker.limit_fallback import LocalShare

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
        self._book = Book(redis, rules.tuning, instant_us or (lambda: 0)) if redis is not None else None

    def closed(self, claimed: Sequence[Claimed]) -> list[Deferred | None]:
        """Return for each None when the call may go now, else a wait that ends at its reserved slot."""
        shut: dict[UUID, Deferred | None] = {}
        for account, mine in by_account(claimed).items():
            shut |= zip([each.order.delivery_id for each in mine], self._closed(account, mine), strict=True)
        return [shut[each.order.delivery_id] for each in claimed]

    def _closed(self, account: str, claimed: Sequence[Claimed]) -> list[Deferred | None]:
        if self._monotonic() < self._open_until.get(account, 0.0):
            return [None] * len(claimed)
        plan = self._plan(claimed[0])
        asks = [
            Ask(str(each.order.delivery_id), account, self._rules.recipient_key(each), self._lease_us(each))
            for each in claimed
        ]
        turns = self._through_redis(lambda book: self._ask(book, asks, plan)) or [
            self._local.ask(
                each.delivery, account, each.recipient, service=_service(claimed[0]), lease_us=each.lease_us
            )
            for each in asks
        ]
        if turns[-1].wait_us is None and not plan.binds:
            self._open_until[account] = self._monotonic() + _OPEN_FOR_S
        return [self._answer(turn, plan) for turn in turns]

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
        claimed, account = settlement.claimed, settlement.claimed.order.account
        plan, refusal = self._plan(claimed), self._refusal(settlement)
        if refusal.matters:
            self._open_until.pop(account, None)
        is_shared, is_local = plan.concurrent or refusal.matters, self._local.knows(account)
        if not is_shared and not is_local:
            return
        recipient, took_us = self._rules.recipient_key(claimed), microseconds(settlement.duration)
        end = End(str(claimed.order.delivery_id), account, recipient, took_us)
        if is_local:
            self._local.end(end.delivery, account, recipient, took_us=took_us, refusal=refusal)
        if is_shared:
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

    def _ask(self, book: Book, asks: Sequence[Ask], plan: LimitPlan) -> list[Turn]:
        # Calls that this process let go alone are added to the shared count with its first question afterwards.
        account = asks[0].account
        owed = self._local.take_owed(account)
        try:
            turns, gap = book.ask(asks, plan, owed=owed, pause_us=self._local.pause_us())
        except (RedisError, OSError):
            self._local.owe(account, owed)
            raise
        if gap is not None and self._close(book, asks, plan, gap):
            turns, _ = book.ask(asks, plan, owed=0, pause_us=self._local.pause_us())
        return turns

    def _close(self, book: Book, asks: Sequence[Ask], plan: LimitPlan, gap: Gap) -> bool:
        """Tell Redis what was called, when it is this process's turn to; False leaves it to a later question."""
        if not gap.closes:
            return False
        tuning, account, own = self._rules.tuning, asks[0].account, {each.delivery for each in asks}
        try:
            found = self._rules.called(account, max(plan.memory(), tuning.lately), plan.most_remembered())
        except LedgerUnavailable:
            return False  # nothing goes meanwhile, and without the ledger nothing could be settled either
        others = [each for each in found if each.delivery not in own]
        # Processes that were without Redis may keep to their own share for a little longer: what they send counts too.
        if gap.age_us < microseconds(tuning.pause) and any(each.shows_traffic(tuning.lately) for each in others):
            return False
        return book.remember(account, gap, plan, others)

    def _through_redis(self, call: Callable[[Book], _T]) -> _T | None:
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
