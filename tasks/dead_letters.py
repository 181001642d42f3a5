"""What the health task tells of deliveries that died: where no alert of their own told it, a notice once a day.

A delivery dies in many ways: refused, expired in the fallback queue, never confirmed, with its worker. They are read
from the ledger, so that none is missed, whichever process ended it.
"""

from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from celery.utils.dispatch import Signal

from delivery.alerts import LEASE_LOST, alerts_for_dead
from ledger.alerts import Alerts

if TYPE_CHECKING:
    from tasks.app import Entrega

# Longer than the health task's interval, so that a missed tick misses nothing, and shorter than the time in which an
# alert is not told again, so that one death is not told twice. Source of the day: our own choice.
_LOOK_BACK = timedelta(minutes=5)
_QUIET = timedelta(minutes=10)
_NOTICE_QUIET = timedelta(days=1)

died = Signal(name="died", providing_args={"alert"})


def tell(app: "Entrega") -> None:
    """Tell of each account whose deliveries died lately; once in a while, however many die."""
    alerts = Alerts(app.database)
    for account, group in groupby(alerts.died(within=_LOOK_BACK), lambda each: each.account):
        spec = app.specs.get(account.partition(":")[0])
        for alert in alerts_for_dead(account, spec, {each.code: each.n for each in group}) if spec else ():
            if alerts.record(alert, quiet=_QUIET if alert.code == LEASE_LOST else _NOTICE_QUIET):
                died.send(sender=None, alert=alert)
