"""What fails in upkeep costs itself only: it is logged, counted and told to an operator, and the rest goes on.

Upkeep works for everybody: one row, one account or one step that always fails must not stop the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from celery.utils.dispatch import Signal

from delivery.alerts import Alert
from delivery.errors import LedgerUnavailable
from ledger.alerts import Alerts
from ledger.setting_aside import Fault

if TYPE_CHECKING:
    from tasks.app import Entrega

_log = structlog.get_logger(__name__)

_QUIET = timedelta(minutes=10)

upkeep_failed = Signal(name="upkeep_failed", providing_args={"work"})
alert_raised = Signal(name="alert_raised", providing_args={"alert"})


@contextmanager
def apart(app: "Entrega", work: str, **ids: str) -> Iterator[None]:
    """Let the work in this block fail by itself.

    Args:
        work: A word for log, count and alert, e.g. "fallbacks".
        ids: Which row or account, for the log.

    Raises:
        LedgerUnavailable: Postgres is away: that ends the round.
    """
    try:
        yield
    except LedgerUnavailable:
        raise
    except Exception as err:  # noqa: BLE001 - whatever it is, it must cost this work only
        _log.exception("upkeep_failed", work=work, **ids)
        upkeep_failed.send(sender=None, work=work)
        reason = f"{type(err).__name__} in {work}; everything else went on"
        _tell(app, work, "upkeep_failed", reason, "search the workers' log for upkeep_failed")


def event_failed(app: "Entrega", fault: Fault) -> None:
    """Count an event that failed, and tell an operator once it was set aside."""
    upkeep_failed.send(sender=None, work=fault.table)
    if fault.is_set_aside:
        reason = f"an event could not be worked on ({fault.cause}) and was set aside; the others went on"
        _tell(app, fault.table, "event_set_aside", reason, "entrega set-aside list")


def _tell(app: "Entrega", work: str, code: str, reason: str, step: str) -> None:
    alert = Alert("P1", f"upkeep:{work}", "upkeep", code, reason, step)
    if Alerts(app.database).record(alert, quiet=_QUIET):
        alert_raised.send(sender=None, alert=alert)
