"""Celery's consumer, silent about people: a message it cannot use is refused and counted, never printed.

Celery prints the whole body of an unknown or unreadable message; a foreign client's body may hold a person.
"""

from typing import Any

import structlog
from celery import signals
from celery.worker.consumer import Consumer
from celery.worker.consumer.consumer import logger as celery_logger

from tasks.commands import message_refused

_log = structlog.get_logger(__name__)


# Flower may learn of a task this much later; a message for each single event cost a sixth of a worker's time.
_EVENTS_TOGETHER_S = 0.2


class QuietConsumer(Consumer):
    """Refuses what it cannot use, in one line without the content."""

    _events_due = False

    def on_send_event_buffered(self) -> None:
        """Let the events of a moment travel together. Called by any thread."""
        if self.hub and not self._events_due:
            self._events_due = True
            self.hub.call_soon(self.hub.call_later, _EVENTS_TOGETHER_S, self._flush_events)

    def _flush_events(self) -> None:
        self._events_due = False
        super()._flush_events()

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Refuse a message that is not a task."""
        self._refuse("not_a_task", message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Refuse a task that nobody here carries out."""
        self._refuse("unknown_task", message)
        signals.task_unknown.send(sender=self, message=message, exc=exc, name="unknown", id=None)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Refuse a task message whose parts do not fit together."""
        self._refuse("malformed", message)
        signals.task_rejected.send(sender=self, message=message, exc=exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Refuse a body that cannot be read, or of a content type that is not JSON."""
        self._refuse("unreadable", message, acknowledge=True)

    def _refuse(self, reason: str, message: Any, *, acknowledge: bool = False) -> None:
        message_refused.send(sender=self, reason=reason)
        queue = (message.delivery_info or {}).get("routing_key", "?")
        _log.warning(
            "message_refused", code=reason, queue=queue, next="look at the client that publishes to this queue"
        )
        if acknowledge:
            message.ack_log_error(celery_logger, self.connection_errors)
        else:
            message.reject_log_error(celery_logger, self.connection_errors)
