"""What a worker process does about the limits while Redis is away: its own stated share, never unlimited.

It remembers for a short while that Redis is away, so that not every call waits for a time-out, and one call in that
while asks again. On leaving Redis it waits, and short spans are taken as used up; on coming back, what was sent alone
is counted.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from threading import Lock

import structlog

from delivery.limiter import LimitPlan, LimitStatus, Refusal, Tuning, Turn, microseconds
from delivery.limiter_local import MemoryLimiter

_ABSENT_FOR_S = 1.0  # Source: our own choice: back within a second, and at most one time-out of a second in two
_SHORT_ABSENCE_S = 3.0  # nobody was alone yet: shorter than `Tuning.pause` by the time-out of a question
_log = structlog.stdlib.get_logger(__name__)


class LocalShare:
    """This process's part of every account's limits. Thread-safe.

    Args:
        plans: The whole limits, one plan for each service.
        processes: Worker processes that share them.
        monotonic: Seconds, never going back.
    """

    def __init__(
        self, plans: Mapping[str, LimitPlan], processes: int, tuning: Tuning, monotonic: Callable[[], float]
    ) -> None:
        self._plans = plans
        self._processes = processes
        self._tuning = tuning
        self._monotonic = monotonic
        self._lock = Lock()
        self._limiters: dict[str, MemoryLimiter] = {}
        self._owed: Counter[str] = Counter()
        self._away = False
        self._ask_again_at = 0.0
        self._away_since = 0.0
        self._others_alone_until = 0.0

    def may_try_redis(self) -> bool:
        """Tell whether to ask Redis: always while it answers, else now and then."""
        if not self._away:
            return True
        with self._lock:
            if self._monotonic() < self._ask_again_at:
                return False
            self._ask_again_at = self._monotonic() + _ABSENT_FOR_S  # the others go on alone while this one asks
            return True

    def redis_failed(self, err: Exception) -> None:
        """Remember that Redis did not answer; the change is logged once."""
        with self._lock:
            changed, self._away = not self._away, True
            if changed:
                self._away_since = self._monotonic()
            self._ask_again_at = self._monotonic() + _ABSENT_FOR_S
        if changed:
            _log.warning(
                "limiter_local",
                code=type(err).__name__,
                processes=self._processes,
                reason="Redis does not answer: this process keeps to its own share of every limit",
                next="look at Redis; the shared limits are back by themselves once it answers",
            )

    def redis_answered(self) -> None:
        """Forget the absence; what was let go alone stays owed until it is counted."""
        if not self._away:
            return
        with self._lock:
            changed, self._away = self._away, False
            if self._was_long():
                self._others_alone_until = self._monotonic() + self._tuning.pause.total_seconds()
            self._limiters.clear()
        if changed:
            _log.info("limiter_shared", reason="Redis answers again: limits are shared by all workers")

    def pause_us(self) -> int:
        """Return for how long a shared account must stop now, because other processes may not be back yet.

        A process lets calls go alone from `Tuning.pause` after it first missed Redis, until `_ABSENT_FOR_S` and a
        time-out after it last did. So a short absence, such as a single time-out, stops nobody.
        """
        if self._away:
            return microseconds(self._tuning.pause) if self._was_long() else 0
        return max(0, int((self._others_alone_until - self._monotonic()) * 1_000_000))

    def ask(self, delivery: str, account: str, recipient: str, *, service: str, lease_us: int) -> Turn:
        """Let a call go within this process's share, or keep its slot."""
        with self._lock:
            limiter = self._limiters.get(account) or self._open(account, service)
            turn = limiter.ask(delivery, recipient, lease_us=lease_us, now=self._now())
            if turn.wait_us is None:
                self._owed[account] += 1
            return turn

    def knows(self, account: str) -> bool:
        """Tell whether this process keeps, or kept, to its own share for the account."""
        return account in self._limiters

    def end(self, delivery: str, account: str, recipient: str, *, took_us: int, refusal: Refusal) -> None:
        """Learn how a call ended, if this process ever kept to its share for the account."""
        limiter = self._limiters.get(account)
        if limiter is None:
            return
        with self._lock:
            limiter.release(delivery, took_us)
            limiter.refused(recipient, refusal, self._now())

    def take_owed(self, account: str) -> int:
        """Return how many calls went out uncounted, and count them as told."""
        if account not in self._owed:
            return 0
        with self._lock:
            return self._owed.pop(account, 0)

    def owe(self, account: str, calls: int) -> None:
        """Take back calls that could not be told after all."""
        if calls:
            with self._lock:
                self._owed[account] += calls

    def status(self, account: str, plan: LimitPlan) -> LimitStatus:
        """Describe this process's share of an account."""
        with self._lock:
            limiter = self._limiters.get(account) or MemoryLimiter(plan.share(self._processes), self._tuning)
            return limiter.status(account, self._now())

    def _was_long(self) -> bool:
        return self._monotonic() - self._away_since >= _SHORT_ABSENCE_S

    def _open(self, account: str, service: str) -> MemoryLimiter:
        plan = self._plans[service]
        limiter = MemoryLimiter(plan.share(self._processes), self._tuning)
        # What all workers sent a moment ago is not known here, so short spans are waited out.
        short = [each.every_us for each in plan.account if each.every_us <= microseconds(self._tuning.quiet)]
        limiter.freeze(max(short, default=0) + microseconds(self._tuning.pause), self._now())
        self._limiters[account] = limiter
        return limiter

    def _now(self) -> int:
        return int(self._monotonic() * 1_000_000)
