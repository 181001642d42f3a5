"""What upkeep does for rollouts: end those that are over, take back those that go badly, let no time run out.

Each change is a compare-and-set in the ledger, so any number of beats and workers may do this at once.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from celery.utils.dispatch import Signal

from config.policy import Spec
from delivery.alerts import Alert
from delivery.errors import LedgerUnavailable
from delivery.rollout import Figures, Stage, Standing, fault, stage
from ledger.rollouts import ALERT, Rollouts
from tasks.faults import apart

if TYPE_CHECKING:
    from tasks.app import Entrega

_log = structlog.get_logger(__name__)

# A stage is judged by its last hour, so that two good days do not hide a bad one; where that holds too few calls, by
# its last day. Source: our own choice.
_LOOK_BACK = (timedelta(hours=1), timedelta(days=1))

rolled_back = Signal(name="rolled_back", providing_args={"alert"})


def give_time(app: "Entrega") -> None:
    """Let the time of no delivery run out because a rollout holds it back."""
    rollouts = Rollouts(app.database, actor="sweep")
    if rollouts.standing():
        rollouts.give_time()


def watch(app: "Entrega") -> None:
    """Judge every rollout under way by the attempts of its stage."""
    rollouts = Rollouts(app.database, actor="health")
    for each in rollouts.standing():
        spec = app.specs.get(each.account.partition(":")[0])
        if spec is None or each.is_back:
            continue
        with apart(app, "rollouts", account=each.account):
            _watch_in_time(rollouts, each, spec)


def _watch_in_time(rollouts: Rollouts, standing: Standing, spec: Spec) -> None:
    try:
        _watch(rollouts, standing, spec)
    except LedgerUnavailable as err:  # too busy for this question; the next tick asks again
        _log.warning("rollout_not_judged", account=standing.account, reason=str(err))


def _watch(rollouts: Rollouts, standing: Standing, spec: Spec) -> None:
    now = stage(spec.rollout, standing)
    if now is None:
        if rollouts.complete(standing):
            _log.info("rollout_completed", account=standing.account)
        return
    why = fault(_figures(rollouts, standing.account, now, spec.rollout.rollback.minimum_calls), spec.rollout.rollback)
    if why is None:
        return
    alert = _alert(standing.account, spec.name, f"{why}, with {now.share:.0%} of the deliveries")
    if rollouts.take_back(standing, alert):
        rolled_back.send(sender=None, alert=alert)


def _figures(rollouts: Rollouts, account: str, now: Stage, enough: int) -> Figures:
    short, long = (min(now.lasted, each) for each in _LOOK_BACK)
    figures = rollouts.figures(account, span=short)
    return figures if figures.calls >= enough or short == long else rollouts.figures(account, span=long)


def _alert(account: str, service: str, why: str) -> Alert:
    step = f"mend it, then: entrega rollout begin {account}; or let everything go: entrega rollout finish {account}"
    return Alert("P1", account, service, ALERT, f"the rollout was taken back: {why}", step)
