"""Calls against limits: by the stand-ins' own times, in every span of time, wherever it begins.

A call is let go when the limiter says so, and arrives when the wire and the machine let it. So a span may see its calls
and, beside them, those that were on their way when it began, which are few. A Redis that lost its
memory may allow one span twice (see `docs/guarantees.md`); such spans are counted apart.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.ground import IN_FLIGHT, LIMITS, STANDINS, Ground


@dataclass(frozen=True)
class Pace:
    """How close an account came to one of its limits.

    Attributes:
        most: Calls in the fullest span, those after a lost memory left out.
        after_loss: Calls in the fullest span that a loss of Redis's memory touches; 0 without one.
    """

    account: str
    limit: int
    span_s: float
    most: int
    after_loss: int

    @property
    def broken(self) -> list[str]:
        """What was above the bounds, in words."""
        named = ((self.most, self.limit + IN_FLIGHT), (self.after_loss, 2 * self.limit + IN_FLIGHT))
        words = f"{self.account}: {{}} calls in {self.span_s:g} s, limit {self.limit}, at most {IN_FLIGHT} on their way"
        return [words.format(found) for found, bound in named if found > bound]


def paces(ground: Ground, losses: Sequence[float]) -> list[Pace]:
    """Return how every account kept its limits.

    Args:
        losses: When Redis lost its memory, in Unix seconds.
    """
    found = []
    for account, windows in LIMITS.items():
        arrivals = ground.control[STANDINS[account]].arrivals()
        found += [fullest(account, arrivals, each["calls"], each["every_s"], losses) for each in windows]
    return found


def fullest(account: str, arrivals: Sequence[float], limit: int, span_s: float, losses: Sequence[float]) -> Pace:
    """Return the fullest spans of an account's arrivals, which are in order."""
    most, after_loss = 0, 0
    for last, at in enumerate(arrivals):
        count = last + 1 - bisect_left(arrivals, at - span_s)
        # Two spans long: what was let go in the span that lost its memory arrives in this one or the next.
        if any(loss <= at <= loss + 2 * span_s for loss in losses):
            after_loss = max(after_loss, count)
        else:
            most = max(most, count)
    return Pace(account, limit, span_s, most, after_loss)
