"""How many retries an account may make: a share of its calls, and an allowance so that quiet accounts retry too.

In a storm every delivery wants its retries at once; without a budget they multiply the load on a provider that is
already failing. Source: Amazon Builders' Library, "Timeouts, retries, and backoff with jitter", read 2026-11-22.
"""

from dataclasses import dataclass
from datetime import timedelta

from config.policy import RetryBudget


@dataclass(frozen=True)
class Purse:
    """What an account has saved for retries.

    Attributes:
        saved: Retries it may make now; a fraction counts towards the next.
        at_s: When this was so, on the clock of whoever keeps the purse.
    """

    saved: float
    at_s: float


def fresh(rules: RetryBudget, now_s: float) -> Purse:
    """Return the purse of an account that has not called yet: one minute's allowance."""
    return Purse(float(rules.per_minute), now_s)


def spend(purse: Purse, rules: RetryBudget, *, is_retry: bool, now_s: float) -> tuple[Purse, timedelta]:
    """Take a call from the purse.

    Returns:
        The purse afterwards, and how long this call has to wait: zero when it may go. A first attempt always may, and
        adds its share; a retry takes one.
    """
    earned = max(now_s - purse.at_s, 0.0) * rules.per_minute / 60
    saved = min(purse.saved + earned, rules.most)
    if not is_retry:
        return Purse(min(saved + rules.share, rules.most), now_s), timedelta()
    if saved >= 1:
        return Purse(saved - 1, now_s), timedelta()
    return Purse(saved, now_s), timedelta(seconds=(1 - saved) * 60 / rules.per_minute)
