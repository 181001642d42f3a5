"""When an operator must hear of an attempt's end, and what to tell. Pure: policy in, words out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from config.policy import BREAKER_IS_OPEN, Severity, Spec
from delivery.outcomes import Deferred, Outcome, Rejected, Succeeded
from delivery.ports import Settlement

# The code of the alert about an open breaker, and of what it turns back.
BREAKER_OPEN = "breaker_open"
# Of the alerts about what died without one of its own.
LEASE_LOST, DEAD_LETTERS = "lease_lost", "dead_letters"
_POISON = "poison"


@dataclass(frozen=True)
class Alert:
    """Something that a person must know about one account.

    Attributes:
        reason: What happened, in the words of the attempt; no personal data.
        next_step: What to do.
    """

    severity: Severity
    account: str
    service: str
    code: str
    reason: str
    next_step: str


def alert_for(settlement: Settlement, spec: Spec) -> Alert | None:
    """Return what an operator must know after this attempt, None when nothing: most attempts, and every closed gate."""
    outcome, order = settlement.outcome, settlement.claimed.order
    if isinstance(outcome, Succeeded) or _is_turned_back(outcome):
        return None
    rule = spec.rule(outcome.code)
    if rule.alert is None or not (rule.alert_at == "first" or _is_spent(outcome)):
        return None
    step = _next_step(outcome, order.account)
    return Alert(rule.alert, order.account, order.command.service, outcome.code, outcome.reason, step)


def alert_for_breaker(account: str, spec: Spec, *, failures: int, calls: int) -> Alert | None:
    """Return what an operator must know when the circuit breaker of an account has opened; None for a silent spec.

    Args:
        failures: Of the calls that decided it.
    """
    for each in spec.alerts.values():
        if each.measure == BREAKER_IS_OPEN:
            reason = f"its circuit breaker opened: {failures} of {calls} calls failed; its deliveries wait"
            return Alert(
                each.severity, account, spec.name, BREAKER_OPEN, reason, f"{each.action}; entrega breaker list"
            )
    return None


def alerts_for_dead(account: str, spec: Spec, dead: Mapping[str, int]) -> Iterator[Alert]:
    """Yield what an operator must know of deliveries that died, where the end of no attempt told it.

    Args:
        dead: How many died lately, by code; "poison" are those whose workers died in every attempt.
    """
    lost, severity = dead.get(_POISON, 0), spec.rule(LEASE_LOST).alert
    if lost and severity is not None:
        reason = f"the worker died in every attempt of deliveries of this account ({lost})"
        step = f"entrega dead-letters list --account {account} --code {_POISON}"
        yield Alert(severity, account, spec.name, LEASE_LOST, reason, step)
    silent = {code: n for code, n in dead.items() if code != _POISON and _is_silent(spec, code)}
    if silent:
        reason = "deliveries became dead letters: " + ", ".join(f"{code} {n}" for code, n in sorted(silent.items()))
        yield Alert("P2", account, spec.name, DEAD_LETTERS, reason, f"entrega dead-letters list --account {account}")


def _is_silent(spec: Spec, code: str) -> bool:
    rule = spec.errors.get(code)
    return rule is None or rule.alert is None


def _is_turned_back(outcome: Outcome) -> bool:
    return isinstance(outcome, Deferred) and not outcome.burned


def _is_spent(outcome: Outcome) -> bool:
    return isinstance(outcome, Rejected) or (isinstance(outcome, Deferred) and outcome.parked)


def _next_step(outcome: Outcome, account: str) -> str:
    if isinstance(outcome, Rejected) and outcome.held:
        return f"fix what `entrega doctor` names, then: entrega resume {account}"
    if isinstance(outcome, Rejected):
        return f"entrega dead-letters list --account {account} --code {outcome.code}"
    return f"entrega limits {account}"
