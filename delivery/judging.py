"""Pure decisions: what an attempt's end means, and when the next one comes. Reads policy, touches nothing."""

import random
from datetime import timedelta

from config.policy import Operation, Spec, Wait
from delivery.errors import Ambiguous, Permanent, ProviderError
from delivery.outcomes import Deferred, Outcome, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Claimed

LEASE_MARGIN = timedelta(seconds=15)


def judge(claimed: Claimed, end: Receipt | ProviderError, spec: Spec, *, rng: random.Random) -> Outcome:
    """Turn the end of one call into one of the four outcomes.

    Args:
        claimed: The delivery and what it has spent so far.
        end: The provider's proof, or its verdict.
        spec: The integration's policy.
        rng: Source of jitter; tests pass a seeded one.
    """
    if isinstance(end, Receipt):
        return Succeeded(end)
    operation = spec.operations[claimed.order.command.kind]
    if isinstance(end, Permanent):
        return Rejected(end.code, str(end), held=spec.rule(end.code).spent == "hold")
    if isinstance(end, Ambiguous) and not operation.idempotent:
        return Uncertain(end.code, str(end))
    return _try_again(claimed, end, spec, rng)


def _try_again(claimed: Claimed, error: ProviderError, spec: Spec, rng: random.Random) -> Outcome:
    rule = spec.rule(error.code)
    spent = claimed.tries.get(error.code, 0)
    if spent < rule.retries and not claimed.parks:
        wait = next_wait(
            rule.wait, spent + 1, asked=error.retry_after, cap=spec.limits.on_excess.retry_after_cap, rng=rng
        )
        return Deferred(error.code, wait, str(error))
    if rule.spent == "park":
        return Deferred(error.code, _parked_wait(claimed.parks, error, spec, rng), str(error), parked=True)
    return Rejected(error.code, str(error), held=rule.spent == "hold")


def next_wait(wait: Wait, retry: int, *, asked: timedelta | None, cap: timedelta, rng: random.Random) -> timedelta:
    """Return how long to wait before a retry.

    Args:
        wait: Shape and bounds for this kind of error.
        retry: Which retry this is, counted from 1.
        asked: The provider's own Retry-After. Never shortened below what was asked, up to `cap`.
        cap: The longest Retry-After that is believed.
        rng: Source of jitter.

    Returns:
        A wait between half and all of the step, so that a thousand deliveries that failed together do not come back
        together. A wait that was asked for is stretched by up to a tenth, never beyond `cap` and never cut below it.
    """
    jittered = wait.step(retry) * rng.uniform(0.5, 1.0)
    if asked is None:
        return jittered
    return max(jittered, min(asked * rng.uniform(1.0, 1.1), cap))


def _parked_wait(parks: int, error: ProviderError, spec: Spec, rng: random.Random) -> timedelta:
    step = Wait(shape="fixed", first=spec.parking[min(parks, len(spec.parking) - 1)], longest=spec.expires_after)
    return next_wait(step, 1, asked=error.retry_after, cap=spec.limits.on_excess.retry_after_cap, rng=rng)


def lease(operation: Operation) -> timedelta:
    """Return how long a claim lasts: the call's total deadline and a margin for what comes before and after it."""
    return timedelta(seconds=operation.timeouts.total_s) + LEASE_MARGIN
