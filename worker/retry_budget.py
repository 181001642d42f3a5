"""The gate that keeps retries within their budget, one purse for each account, shared by all workers through Redis."""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from config.policy import RetryBudget, Spec
from delivery.outcomes import Deferred
from delivery.ports import Claimed, Settlement, by_account
from delivery.retry_budget import Purse, fresh, spend

# The rules of `delivery.retry_budget`, on Redis's own clock. KEYS: purse. ARGV: share, per minute, most, how many first
# attempts, how many retries. Returns how many of the retries may go, and how many milliseconds the others wait.
_SPEND = """
local t = redis.call('TIME') local now = t[1] + t[2] / 1000000
local share, rate, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local firsts, retries = tonumber(ARGV[4]), tonumber(ARGV[5])
local kept = redis.call('HMGET', KEYS[1], 'saved', 'at')
local saved = tonumber(kept[1] or rate)
saved = math.min(saved + math.max(now - tonumber(kept[2] or now), 0) * rate / 60, most)
saved = math.min(saved + firsts * share, most)
local granted = math.min(retries, math.floor(saved))
saved = saved - granted
redis.call('HSET', KEYS[1], 'saved', string.format('%.6f', saved), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 3600)
return {granted, granted < retries and math.ceil((1 - saved) * 60000 / rate) or 0}
"""
_AWAY_S = 5.0


@dataclass
class _Granted:
    """What an account's purse answered: how many retries may still go, and how long the others wait."""

    retries: int
    wait: timedelta
    rules: RetryBudget


class RetryBudgetGate:
    """Lets first attempts go, and retries as long as the account has some saved.

    Args:
        redis: Where workers share; without retries of its own. None, or away: a purse of this process.
        rng: Source of jitter, so that what was turned back does not come back together.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        specs: Mapping[str, Spec],
        redis: Redis | None,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._specs = specs
        self._redis = redis
        self._script = redis.register_script(_SPEND) if redis is not None else None
        self._rng = rng or random.SystemRandom()
        self._clock = clock
        self._away_until = 0.0
        self._purses: dict[str, Purse] = {}
        self._lock = threading.Lock()

    def closed(self, claimed: Sequence[Claimed]) -> list[Deferred | None]:
        """See `delivery.ports.Gate.closed`; one question for each account."""
        left = {account: self._granted(account, mine) for account, mine in by_account(claimed).items()}
        return [self._answer(each, left[each.order.account]) for each in claimed]

    def _granted(self, account: str, claimed: Sequence[Claimed]) -> "_Granted":
        rules = self._specs[claimed[0].order.command.service].retry_budget
        retries = sum(each.order.attempt > 1 for each in claimed)
        return _Granted(*self._spend(account, rules, firsts=len(claimed) - retries, retries=retries), rules)

    def _answer(self, claimed: Claimed, granted: "_Granted") -> Deferred | None:
        if claimed.order.attempt <= 1:
            return None
        if granted.retries:
            granted.retries -= 1
            return None
        share, account = granted.rules.share, claimed.order.account
        reason = f"retries of {account} are over {share:.0%} of its calls; this one waits for its turn"
        return Deferred("retry_budget", granted.wait * self._rng.uniform(1.0, 3.0), reason, burned=False)

    def ended(self, settlements: Sequence[Settlement]) -> None:
        """Nothing to learn: what was spent stays spent, whatever came of it."""

    def room(self, account: str, kind: str, *, within: timedelta, most: int) -> list[timedelta]:  # noqa: ARG002 - the port's
        """See `delivery.ports.Gate.room`: first attempts always find it open, and nobody knows here who retries."""
        return [timedelta()] * most

    def _spend(self, account: str, rules: RetryBudget, *, firsts: int, retries: int) -> tuple[int, timedelta]:
        if self._script is None or self._clock() < self._away_until:
            return self._spend_here(account, rules, firsts=firsts, retries=retries)
        try:
            values = [rules.share, rules.per_minute, rules.most, firsts, retries]
            keys = [f"entrega:retry-budget:{{{account}}}"]
            granted, wait_ms = cast("tuple[int, int]", self._script(keys=keys, args=values))
        except RedisError:
            self._away_until = self._clock() + _AWAY_S
            return self._spend_here(account, rules, firsts=firsts, retries=retries)
        return granted, timedelta(milliseconds=wait_ms)

    def _spend_here(self, account: str, rules: RetryBudget, *, firsts: int, retries: int) -> tuple[int, timedelta]:
        now = self._clock()
        with self._lock:
            purse = self._purses.get(account) or fresh(rules, now)
            self._purses[account], granted, wait = spend(purse, rules, firsts=firsts, retries=retries, now_s=now)
        return granted, wait
