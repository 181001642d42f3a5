"""Tells one attempt to the log, the metrics and, where it matters, to operators: one event, fields instead of prose.

The line has the fields that the user's specification asks for, and ours. It holds ids and words only; the log's own
masking is a second net. Telling never decides a delivery, so nothing here may raise.

Source: the user's API specification, section 7.2 (log format), read 2026-11-22.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from logging import ERROR, INFO, WARNING
from typing import Protocol

import structlog

from delivery.outcomes import Deferred, Outcome, Rejected, Succeeded
from delivery.ports import Settlement
from worker.alerts import Alarm
from worker.metrics import Recorder


class Log(Protocol):
    """The one thing needed of a structlog logger: a level chosen at run time."""

    def log(self, level: int, event: str, **fields: object) -> object:
        """Write one record."""
        ...


class AttemptTeller:
    """Writes one log line and updates the counters for each attempt.

    Args:
        recorder: Where to count.
        log: Where to write; the process's own log when left out.
        alarm: Told of every attempt, to alert operators; None alerts nobody.
    """

    def __init__(self, recorder: Recorder, log: Log | None = None, alarm: Alarm | None = None) -> None:
        self._recorder = recorder
        self._alarm = alarm
        self._log: Log = log or structlog.stdlib.get_logger("entrega.attempts")

    def tell(self, settlement: Settlement, *, method: str, endpoint: str) -> None:
        """Record the event; a log or a counter that fails changes nothing."""
        fields = {"method": method, "endpoint": endpoint}
        with suppress(Exception):
            outcome = settlement.outcome
            fault = {"exc_info": settlement.fault} if settlement.fault else {}
            self._log.log(_level(outcome), _event(outcome), **fields, **attempt_fields(settlement), **fault)
        with suppress(Exception):
            self._count(settlement)
        with suppress(Exception):
            if self._alarm is not None:
                self._alarm.hear(settlement)

    def _count(self, settlement: Settlement) -> None:
        order, outcome = settlement.claimed.order, settlement.outcome
        where = {"service": order.command.service, "operation": order.command.kind}
        if not _was_sent(outcome):
            self._recorder.turned_back(**where, code=outcome.code)
            return
        if settlement.usage is not None and settlement.usage.unreadable:
            self._recorder.usage_unreadable(service=order.command.service)
        name = type(outcome).__name__.lower()
        self._recorder.answered(**where, outcome=name, code=outcome.code, took=settlement.duration)
        if order.attempt > 1:
            self._recorder.retried(**where)


def attempt_fields(settlement: Settlement) -> Mapping[str, object]:
    """Return the fields of the attempt line, the ones of the wire excepted.

    Shape: {"service": "crm_integration", "action": "create_lead", "request_id": "0193...", "status_code": 201,
        "response_time_ms": 245, "retry_count": 0, "user_id": "agent-001", "outcome": "succeeded", "code": "ok",
        "provider_code": null, "reason": null, "wait_s": null, "attempt": 1, "fence": 1, "account": "crm:default"}
    """
    claimed, outcome = settlement.claimed, settlement.outcome
    order = claimed.order
    return {
        "service": f"{order.command.service}_integration",
        "action": order.command.kind,
        "request_id": str(order.delivery_id),
        "status_code": settlement.http_status,
        "response_time_ms": settlement.duration // timedelta(milliseconds=1),
        "retry_count": order.attempt - 1,
        "user_id": claimed.producer,
        "outcome": type(outcome).__name__.lower(),
        "code": outcome.code,
        "provider_code": settlement.provider_code,
        "reason": None if isinstance(outcome, Succeeded) else outcome.reason,
        "wait_s": outcome.wait.total_seconds() if isinstance(outcome, Deferred) else None,
        "attempt": order.attempt,
        "fence": claimed.fence,
        "account": order.account,
    }


def _event(outcome: Outcome) -> str:
    return "attempt" if _was_sent(outcome) else "gate_closed"


def _was_sent(outcome: Outcome) -> bool:
    return not (isinstance(outcome, Deferred) and not outcome.burned)


def _level(outcome: Outcome) -> int:
    if isinstance(outcome, Succeeded) or not _was_sent(outcome):
        return INFO  # a closed gate is the system at work, thousands of times in a flood
    return ERROR if isinstance(outcome, Rejected) and outcome.held else WARNING
