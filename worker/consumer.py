"""Celery's consumer, silent about people: a message it cannot use is refused and counted, never printed.

Celery prints the whole body of an unknown or unreadable message; a foreign client's body may hold a person.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.bootsteps import RUN
from celery.worker.consumer import Consumer
from celery.worker.consumer.consumer import logger as celery_logger
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from vine import promise

from delivery.errors import FieldIssue
from delivery.refused import RefusedMessage, masked_copy, shown_issues, shown_word
from tasks.app import FOREIGN_QUEUE
from tasks.commands import SEND_AT, CommandTask, refuse
from tasks.messages import Malformed, called

# Celery reconnects on these. Its own list names KeyError as well, which a message can cause.
_BROKER_FAULTS = (OSError, OperationalError, RedisError)
# Longer than Celery's own backoff while the ledger is away, and shorter than the visibility time-out.
_LONGEST_WAIT = timedelta(seconds=90)
# Flower may learn of a task this much later; a message for each single event cost a sixth of a worker's time.
_EVENTS_TOGETHER_S = 0.2


class QuietConsumer(Consumer):
    """Refuses what it cannot use, in one line without the content."""

    _events_due = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Workers have nothing to say to each other, so nothing is heard that could be forged.
        super().__init__(*args, **{**kwargs, "without_gossip": True, "without_mingle": True})

    def on_send_event_buffered(self) -> None:
        """Let the events of a moment travel together. Called by any thread."""
        if self.hub and not self._events_due:
            self._events_due = True
            self.hub.call_soon(self.hub.call_later, _EVENTS_TOGETHER_S, self._flush_events)

    def _flush_events(self) -> None:
        self._events_due = False
        super()._flush_events()

    def create_task_handler(self, promise: Any = promise) -> Callable[[Any], None]:
        """Check each message before Celery's own handler sees it, and outlive what that handler does not expect."""
        handle = super().create_task_handler(promise)

        def handle_checked(message: Any) -> None:
            try:
                self._check(message)
                handle(message)
            except Malformed as err:
                self._refuse(err.reason, message, *err.issues)
            except _BROKER_FAULTS:
                raise
            except Exception as err:
                if self.blueprint.state != RUN:  # a worker that ends gives its messages back
                    raise
                self._refuse("unexpected", message, FieldIssue("message", type(err).__name__))

        return handle_checked

    def _check(self, message: Any) -> None:
        name, args, kwargs = called(message)
        message.headers.pop("shadow", None)  # a name that stands in logs and in Flower instead of the task's own
        task = self.app.tasks.get(name)
        is_foreign = (message.delivery_info or {}).get("routing_key") == FOREIGN_QUEUE
        if task is None or name.startswith("celery.") or (is_foreign and not isinstance(task, CommandTask)):
            raise Malformed("unknown_task", FieldIssue("headers.task", "unknown"))
        try:
            task.__header__(*args, **kwargs)
        except TypeError:
            raise Malformed("malformed", FieldIssue("body", "not the arguments of this task")) from None
        if is_foreign:
            _shorten_wait(message.headers)

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Refuse a message that is not a task."""
        self._refuse("not_a_task", message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Refuse a task that nobody here carries out."""
        self._refuse("unknown_task", message)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Refuse a task message whose parts do not fit together."""
        self._refuse("malformed", message)

    def on_decode_error(self, message: Any, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Refuse a body that cannot be read, or of a content type that is not JSON."""
        self._refuse("unreadable", message)

    def _refuse(self, reason: str, message: Any, *issues: FieldIssue) -> None:
        refuse(
            RefusedMessage(
                reason,
                (message.delivery_info or {}).get("routing_key", "?"),
                shown_word(message.headers.get("task")),
                shown_word(message.headers.get("id")),
                shown_issues(issues),
                len(message.body or b""),
                _copy(reason, message),
            )
        )
        if not message.acknowledged:
            message.reject_log_error(celery_logger, self.connection_errors)


def _shorten_wait(headers: dict[str, Any]) -> None:
    """Let the ledger keep a long wait: here it would take up memory, and the message would come again meanwhile."""
    if eta := headers.get("eta"):
        at = datetime.fromisoformat(eta)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        if at - datetime.now(UTC) > _LONGEST_WAIT:
            headers |= {"eta": None, SEND_AT: at.isoformat()}


def _copy(reason: str, message: Any) -> str:
    try:
        # A body that was refused for its size is not parsed for its copy either.
        body = message.body if reason == "too_large" else message.payload
    except Exception:  # noqa: BLE001 - whatever kept it from being read, its size is all there is to show
        body = message.body
    return masked_copy({"headers": message.headers, "properties": message.properties, "body": body})
