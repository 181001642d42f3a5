"""When an operator must hear of an attempt's end, and what to tell. Pure: policy in, words out."""

from dataclasses import dataclass

from config.policy import Severity, Spec
from delivery.outcomes import Deferred, Outcome, Rejected, Succeeded
from delivery.ports import Settlement


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


def _is_turned_back(outcome: Outcome) -> bool:
    return isinstance(outcome, Deferred) and not outcome.burned


def _is_spent(outcome: Outcome) -> bool:
    return isinstance(outcome, Rejected) or (isinstance(outcome, Deferred) and outcome.parked)


def _next_step(outcome: Outcome, account: str) -> str:
    if isinstance(outcome, Rejected) and outcome.held:
        return f"mend what `entrega doctor` names, then: entrega resume {account}"
    if isinstance(outcome, Rejected):
        return f"entrega dead-letters list --account {account} --code {outcome.code}"
    return f"entrega limits {account}"
