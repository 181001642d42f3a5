"""The circuit breaker's rules: when calls to a provider stop, when a few are tried, when all may go again.

Owns the words and the pure decisions around a breaker; holds no state and reaches nothing. The counting is done by
`delivery.breaker_local` for one process and by `worker.breaker_redis` for all workers, by the same rules. Times are
spans, never instants: only the clock of the breaker that answers counts.

Source: the user's API specification, section 5.2 (circuit breaker), read 2026-11-22.
"""

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

from config.policy import Breaker, Spec, Verdict
from delivery.outcomes import Deferred, Outcome, Rejected, Succeeded, Uncertain
from delivery.ports import Settlement

State = Literal["closed", "open", "half-open"]
Mode = Literal["auto", "open", "closed"]
Mark = Literal["success", "failure", "neutral"]

# The window is counted in this many slices: a call is forgotten between 59 and 60 slices after it ended.
SLICES = 60
# Ratios are decimal fractions, which a float misses by a hair: 0.07 x 100 is 7.000000000000001.
_HAIR = 1e-9
# All trials are out: their ends, and so the decision, are seconds away.
_TRIAL_WAIT = timedelta(seconds=1)
# A trial is announced a little late rather than early: early, it would be sent away again.
_TRIAL_MARGIN = timedelta(milliseconds=100)
# After so many doublings a recovered provider gets as much as its limits allow.
_RAMPED = 10
MS = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Rules:
    """When a breaker opens and closes.

    Attributes:
        failure_ratio: Opens when at least this share of the counted calls in the window failed.
        window: How far back calls count.
        minimum_calls: It stays closed while the window holds fewer.
        open_for: How long no call is let through.
        trials: Calls let through to test a recovery.
        close_ratio: Closes when at least this share of the trials succeeded, else opens again.
        lease: After this a trial that never reported back counts as forgotten, and another may go.
    """

    failure_ratio: float
    window: timedelta
    minimum_calls: int
    open_for: timedelta
    trials: int
    close_ratio: float
    lease: timedelta

    @classmethod
    def of(cls, breaker: Breaker, lease: timedelta) -> "Rules":
        """Return the rules of a spec's breaker for an operation whose attempts are leased for so long."""
        return cls(
            failure_ratio=breaker.failure_ratio,
            window=breaker.window,
            minimum_calls=breaker.minimum_calls,
            open_for=breaker.open_for,
            trials=breaker.trials,
            close_ratio=breaker.close_ratio,
            lease=lease,
        )

    @property
    def needed(self) -> int:
        """How many trials must succeed, e.g. 3 of 3 for 70 %."""
        return max(1, math.ceil(self.close_ratio * self.trials - _HAIR))

    @property
    def slice_ms(self) -> int:
        """The length of one slice of the window, in milliseconds."""
        return max(1, math.ceil(self.window / MS / SLICES))

    def trips(self, calls: int, failures: int) -> bool:
        """Tell whether a window with these counts opens the breaker."""
        return calls >= self.minimum_calls and failures + _HAIR >= self.failure_ratio * calls


@dataclass(frozen=True)
class Pass:
    """One call that may go.

    Attributes:
        token: Names the call; unique among calls that are under way.
        era: The span between two changes that it belongs to; a result from an earlier one counts for nothing.
        trial: True when it tests a recovery.
    """

    token: str
    era: int
    trial: bool


@dataclass(frozen=True)
class Refusal:
    """A call that may not go.

    Attributes:
        wait: How long no call will go; zero when all trials are out and their ends decide.
        forced: True when an operator holds the breaker open.
    """

    wait: timedelta
    forced: bool = False


@dataclass(frozen=True)
class Change:
    """A breaker went from one state to another.

    Attributes:
        failures: Of the window, or of the trials, that decided it.
        calls: As `failures`.
    """

    before: State
    after: State
    failures: int
    calls: int


@dataclass(frozen=True)
class Admission:
    """The answer to "may this call go?", and what the breaker looks like after it."""

    answer: Pass | Refusal
    state: State
    mode: Mode
    change: Change | None = None


@dataclass(frozen=True)
class Forced:
    """An operator's override.

    Attributes:
        age: How long ago it was set.
    """

    actor: str
    reason: str
    age: timedelta


@dataclass(frozen=True)
class View:
    """A breaker as an operator sees it.

    Attributes:
        calls: In the window while closed; of the decision that opened it otherwise.
        failures: As `calls`.
        age: How long it has been in this state; None before the first change.
        next_trial: How long until trial calls may go; None unless open by its own decision.
        trials_out: Trial calls under way.
        won: Trials of this round that succeeded.
        lost: Trials of this round that failed.
        forced: Who overrode it and why; None in the mode "auto".
    """

    state: State
    mode: Mode
    calls: int
    failures: int
    age: timedelta | None
    next_trial: timedelta | None
    trials_out: int
    won: int
    lost: int
    forced: Forced | None = None


def room(view: View, rules: Rules, *, within: timedelta, most: int) -> list[timedelta]:
    """Return when calls would be let through: trials first, then twice as many with each `within` that passes.

    Args:
        within: Look no further ahead.
        most: At most this many.
    """
    if view.forced:
        return [timedelta()] * (most if view.state == "closed" else 0)
    if view.state == "open":
        wait = (view.next_trial or timedelta()) + _TRIAL_MARGIN
        return [wait] * min(most, rules.trials) if wait <= within else []
    if view.state == "half-open":
        return [timedelta()] * min(most, max(0, rules.trials - view.trials_out - view.won - view.lost))
    if view.age is None or view.age > _RAMPED * within:
        return [timedelta()] * most
    return [timedelta()] * min(most, rules.trials * 2 ** (2 + view.age // within))


class Circuit(Protocol):
    """The counting and deciding part of a breaker, in one process or shared."""

    def admit(self, token: str) -> Admission:
        """Decide about one call, and take a trial's place when it is one."""
        ...

    def record(self, granted: Pass, mark: Mark, times: int = 1) -> Change | None:
        """Learn how the call ended; "neutral" only gives a trial's place back.

        Args:
            times: So many calls of the same era ended so; a trial is told of by itself.
        """
        ...

    def force(self, mode: Mode, *, actor: str, reason: str) -> Change | None:
        """Hold the breaker open or closed, or let it decide again; after "open" that begins with trials."""
        ...

    def move(self, to: State) -> Change | None:
        """Put the breaker into a state from which it goes on by itself; changes nothing while it is forced."""
        ...

    def view(self) -> View:
        """Return what an operator wants to see."""
        ...


def mark(settlement: Settlement, spec: Spec) -> Mark:
    """Tell what an attempt's end says about the provider's health.

    A refusal of this one request (any 4xx), a fault of our own and a gate that closed later say nothing: they count
    neither as failure nor as success, or a flood of bad requests would hide that every good one fails.
    """
    outcome = settlement.outcome
    if isinstance(outcome, Succeeded):
        return "success"
    if isinstance(outcome, Deferred) and not outcome.burned:
        return "neutral"
    verdicts = _verdicts(settlement, outcome, spec)
    counts = any(spec.counts_for_breaker(outcome.code, each, settlement.http_status) for each in verdicts)
    return "failure" if counts else "neutral"


def _verdicts(settlement: Settlement, outcome: Outcome, spec: Spec) -> tuple[Verdict, ...]:
    """Return what the provider may have said for the attempt to end so (`delivery.judging` the other way round)."""
    if isinstance(outcome, Uncertain):
        return ("ambiguous",)
    tries, retries = settlement.claimed.tries.get(outcome.code, 0), spec.rule(outcome.code).retries
    if isinstance(outcome, Rejected) and tries < max(retries, 1):
        return ("permanent",)
    idempotent = spec.operations[settlement.claimed.order.command.kind].idempotent
    return ("retryable", "ambiguous") if idempotent else ("retryable",)


def deferral(refusal: Refusal, name: str) -> Deferred:
    """Return the outcome of a call that may not go; it burns no attempt, and upkeep wakes it: see `room`.

    Args:
        refusal: What the breaker answered.
        name: The breaker's, for the reason.
    """
    if refusal.forced:
        reason = f"an operator holds the breaker of {name} open; `entrega breaker list` says why"
    elif refusal.wait:
        reason = f"the breaker of {name} is open: too many calls failed; trial calls go after the wait"
    else:
        reason = f"the breaker of {name} waits for the ends of its trial calls"
    return Deferred("breaker_open", refusal.wait or _TRIAL_WAIT, reason, burned=False, paced=True)
