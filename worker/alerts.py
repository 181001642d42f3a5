"""Tells operators of an alert, once for the whole cluster in a while: a log line, a count, an event in Sentry.

What stands open is kept in the ledger. While it is away each process tells for itself: too often is better than never.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from logging import ERROR, WARNING
from typing import TYPE_CHECKING, Protocol

import structlog

from config.policy import Spec
from delivery.alerts import BREAKER_OPEN, Alert, alert_for, alert_for_breaker
from delivery.errors import LedgerUnavailable
from delivery.ports import Settlement
from worker.metrics import Recorder
from worker.sentry import report_alert

if TYPE_CHECKING:
    from worker.breaker import Changed

# Source of both: our own choice. The first is how often an operator hears of one fault; the second spares the ledger
# while thousands of deliveries fail in the same way, and is short because a resumed account may fail again at once.
_QUIET = timedelta(minutes=10)
_ASK_AGAIN_S = 5.0


class AlertBook(Protocol):
    """Where alerts stand open; `ledger.alerts.Alerts`."""

    def record(self, alert: Alert, *, quiet: timedelta) -> bool:
        """Keep an alert as open; False when somebody told the same within `quiet`."""
        ...

    def end(self, account: str, code: str) -> None:
        """Forget an alert whose cause is over."""
        ...


class Log(Protocol):
    """The one thing needed of a structlog logger: a level chosen at run time."""

    def log(self, level: int, event: str, **fields: object) -> object:
        """Write one record."""
        ...


class Alarm:
    """Turns the ends of attempts into alerts.

    Args:
        book: Decides, for all workers, whether it was told a moment ago.
        report: Where an event goes besides log and metrics.
        clock: Monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 - where an alert goes, all by name
        self,
        *,
        specs: Mapping[str, Spec],
        book: AlertBook,
        recorder: Recorder,
        report: Callable[[Alert], object] = report_alert,
        log: Log | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._specs = specs
        self._book = book
        self._recorder = recorder
        self._report = report
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at: dict[tuple[str, str], float] = {}

    def hear(self, settlement: Settlement) -> None:
        """Tell an operator if this attempt's end asks for it and nobody did a moment ago."""
        alert = alert_for(settlement, self._specs[settlement.claimed.order.command.service])
        if alert is not None:
            self.tell(alert)

    def tell(self, alert: Alert) -> None:
        """Tell an operator of this if nobody did a moment ago."""
        if self._is_due(alert) and self._is_new(alert):
            announce(alert, self._recorder, report=self._report, log=self._log)

    def breaker_changed(self, change: "Changed") -> None:
        """Tell an operator of a circuit breaker that opened, and forget it once it has closed."""
        if change.after == "closed":
            with suppress(LedgerUnavailable):  # it ends after an hour
                self._book.end(change.account, BREAKER_OPEN)
        elif change.after == "open":
            spec = self._specs[change.account.partition(":")[0]]
            alert = alert_for_breaker(change.account, spec, failures=change.failures, calls=change.calls)
            if alert is not None:
                self.tell(alert)

    def _is_due(self, alert: Alert) -> bool:
        now, name = self._clock(), (alert.account, alert.code)
        with self._lock:
            due = now - self._asked_at.get(name, -_ASK_AGAIN_S) >= _ASK_AGAIN_S
            if due:
                self._asked_at[name] = now
        return due

    def _is_new(self, alert: Alert) -> bool:
        try:
            return self._book.record(alert, quiet=_QUIET)
        except LedgerUnavailable:
            return True


def announce(
    alert: Alert, recorder: Recorder, *, report: Callable[[Alert], object] = report_alert, log: Log | None = None
) -> None:
    """Tell operators of an alert, whoever decided that it is due."""
    recorder.alerted(severity=alert.severity, service=alert.service, code=alert.code)
    (log or structlog.stdlib.get_logger("entrega.alerts")).log(
        WARNING if alert.severity == "P2" else ERROR,
        "alert",
        severity=alert.severity,
        account=alert.account,
        service=alert.service,
        code=alert.code,
        reason=alert.reason,
        next=alert.next_step,
    )
    report(alert)
