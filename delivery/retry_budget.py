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


def spend(purse: Purse, rules: RetryBudget, *, firsts: int, retries: int, now_s: float) -> tuple[Purse, int, timedelta]:
    """Take calls from the purse: first attempts always may go, and add their share; a retry takes one.

    Returns:
        The purse afterwards, how many of the retries may go, and how long the others have to wait.
    """
    earned = max(now_s - purse.at_s, 0.0) * rules.per_minute / 60
    saved = min(min(purse.saved + earned, rules.most) + firsts * rules.share, rules.most)
    granted = min(retries, int(saved))
    left = saved - granted
    wait = timedelta(seconds=(1 - left) * 60 / rules.per_minute) if granted < retries else timedelta()
    return Purse(left, now_s), granted, wait
