"""The gate that keeps retries within their budget, one purse for each account, shared by all workers through Redis."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from config.policy import RetryBudget, Spec
from delivery.outcomes import Deferred
from delivery.ports import Claimed, Settlement
from delivery.retry_budget import Purse, fresh, spend

# The rules of `delivery.retry_budget`, on Redis's own clock. KEYS: purse. ARGV: share, per minute, most, is retry.
# Returns how many milliseconds to wait; 0 lets the call go.
_SPEND = """
local t = redis.call('TIME') local now = t[1] + t[2] / 1000000
local share, rate, most, retry = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local kept = redis.call('HMGET', KEYS[1], 'saved', 'at')
local saved = tonumber(kept[1] or rate)
saved = math.min(saved + math.max(now - tonumber(kept[2] or now), 0) * rate / 60, most)
local wait = 0
if not retry then saved = math.min(saved + share, most)
elseif saved >= 1 then saved = saved - 1
else wait = math.ceil((1 - saved) * 60000 / rate) end
redis.call('HSET', KEYS[1], 'saved', string.format('%.6f', saved), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 3600)
return wait
"""
_AWAY_S = 5.0


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

    def closed(self, claimed: Claimed) -> Deferred | None:
        """See `delivery.ports.Gate.closed`."""
        order = claimed.order
        rules = self._specs[order.command.service].retry_budget
        wait = self._spend(order.account, rules, is_retry=order.attempt > 1)
        if not wait:
            return None
        reason = f"retries of {order.account} are over {rules.share:.0%} of its calls; this one waits for its turn"
        return Deferred("retry_budget", wait * self._rng.uniform(1.0, 3.0), reason, burned=False)

    def ended(self, settlement: Settlement) -> None:
        """Nothing to learn: what was spent stays spent, whatever came of it."""

    def room(self, account: str, kind: str, *, within: timedelta, most: int) -> list[timedelta]:  # noqa: ARG002 - the port's
        """See `delivery.ports.Gate.room`: first attempts always find it open, and nobody knows here who retries."""
        return [timedelta()] * most

    def _spend(self, account: str, rules: RetryBudget, *, is_retry: bool) -> timedelta:
        if self._script is None or self._clock() < self._away_until:
            return self._spend_here(account, rules, is_retry=is_retry)
        try:
            values = [rules.share, rules.per_minute, rules.most, int(is_retry)]
            waited = cast("int", self._script(keys=[f"entrega:retry-budget:{{{account}}}"], args=values))
        except RedisError:
            self._away_until = self._clock() + _AWAY_S
            return self._spend_here(account, rules, is_retry=is_retry)
        return timedelta(milliseconds=waited)

    def _spend_here(self, account: str, rules: RetryBudget, *, is_retry: bool) -> timedelta:
        now = self._clock()
        with self._lock:
            purse = self._purses.get(account) or fresh(rules, now)
            self._purses[account], wait = spend(purse, rules, is_retry=is_retry, now_s=now)
        return wait
