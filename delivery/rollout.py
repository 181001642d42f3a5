"""A rollout: a growing share of an account's deliveries goes out, and all of it is taken back when it goes badly.

Owns the arithmetic of stages, which delivery is in a share, and when to go back. Holds no state and reaches nothing:
when a rollout began stands in the ledger, and its age by the ledger's clock is all that a stage depends on.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from config.policy import Rollback, Rollout

# They tell of one recipient or of the pace, not of what is rolled out. Every other attempt without success counts, a
# 4xx too: a wrong form or credential is refused politely, where the breaker sees a provider in good health.
NEUTRAL_CODES = frozenset({"rate_limited", "pair_limited", "undeliverable", "window_closed", "capped"})
# Ratios are decimal fractions, which a float misses by a hair: 0.07 x 100 is 7.000000000000001.
_HAIR = 1e-9
_BITS = 48  # as many as a float holds without rounding up to 1


@dataclass(frozen=True)
class Standing:
    """A rollout as the ledger knows it.

    Attributes:
        is_back: It was taken back: nothing goes until a person says so.
        since: When it began, or was taken back.
        age: The same by the ledger's clock, at the moment of the question.
        actor: Who did it.
    """

    account: str
    is_back: bool
    since: datetime
    age: timedelta
    actor: str
    reason: str

    def later(self, passed: timedelta) -> "Standing":
        """Return the same rollout after some time."""
        return replace(self, age=self.age + passed)


@dataclass(frozen=True)
class Stage:
    """What holds now.

    Attributes:
        number: Counted from 1; 0 after it was taken back.
        share: Of the deliveries, those that go.
        lasted: Since this stage began.
        left: Until the next one; None when a person decides.
    """

    number: int
    share: float
    lasted: timedelta
    left: timedelta | None


@dataclass(frozen=True)
class Figures:
    """How the attempts of a stage went.

    Attributes:
        calls: Attempts that say something about the rollout.
        failures: Those of them that did not succeed.
        p95: Nineteen of twenty calls were quicker; None when no duration is known.
    """

    calls: int
    failures: int
    p95: timedelta | None


@dataclass(frozen=True)
class View:
    """A rollout as people see it.

    Attributes:
        state: "over" until upkeep has noted it, within a minute.
        share: Of the deliveries, those that go now.
        stage: Counted from 1; 0 after it was taken back.
        next_stage_at: None when it was taken back or is over.
        since: When it began, or was taken back.
    """

    account: str
    state: Literal["under_way", "taken_back", "over"]
    share: float
    stage: int
    stages: int
    next_stage_at: datetime | None
    since: datetime
    actor: str
    reason: str


def stage(form: Rollout, standing: Standing) -> Stage | None:
    """Return the stage of a rollout, or None when it is over and everything goes."""
    if standing.is_back:
        return Stage(0, 0.0, standing.age, None)
    if not form.hold:
        return None
    passed, lasted = divmod(max(standing.age, timedelta()), form.hold)
    if passed >= len(form.shares):
        return None
    return Stage(passed + 1, form.shares[passed], lasted, form.hold - lasted)


def place(delivery_id: UUID, producer: str, order_key: str | None) -> float:
    """Return where a delivery stands between 0 and 1, for ever: it goes while this lies below the share.

    Those with an order key stand where their key does: one that waits would hold back all behind it.
    """
    name = delivery_id.bytes if order_key is None else f"{producer}\n{order_key}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=_BITS // 8).digest()) / (1 << _BITS)


def room(share: float, most: int) -> int:
    """Return how many of the next deliveries will go, as far as anybody knows who they are not."""
    return math.ceil(share * most - _HAIR)


def fault(figures: Figures, limits: Rollback) -> str | None:
    """Return why a rollout must be taken back, or None as long as nothing speaks against it."""
    calls, failures, p95 = figures.calls, figures.failures, figures.p95
    if calls < limits.minimum_calls:
        return None
    if failures > limits.error_ratio_above * calls + _HAIR:
        return f"{failures} of {calls} calls failed, over {limits.error_ratio_above:.3g} of them"
    if p95 is not None and p95 > limits.p95_above:
        taken, allowed = p95.total_seconds(), limits.p95_above.total_seconds()
        return f"the slowest of {calls} calls took {taken:.3g} s (p95), over {allowed:.3g} s"
    return None


def view(form: Rollout, standing: Standing) -> View:
    """Return a rollout as people see it."""
    now = stage(form, standing)
    next_at = standing.since + standing.age + now.left if now and now.left else None
    return View(
        account=standing.account,
        state="over" if now is None else "taken_back" if standing.is_back else "under_way",
        share=1.0 if now is None else now.share,
        stage=len(form.shares) if now is None else now.number,
        stages=len(form.shares),
        next_stage_at=next_at,
        since=standing.since,
        actor=standing.actor,
        reason=standing.reason,
    )
