"""Hints over Celery: a message that holds a delivery id and nothing else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from kombu.exceptions import OperationalError

from delivery.ports import Hint

if TYPE_CHECKING:
    from tasks.app import Entrega

_log = structlog.get_logger(__name__)

# On Redis the smallest number is the most urgent.
PRIORITIES: Mapping[str, int] = {"high": 0, "normal": 3, "low": 6}
# What a broker that is away, frozen or refusing raises; kombu wraps some of it and lets the rest through.
_BROKER_FAULTS = (OperationalError, OSError)


@dataclass(frozen=True)
class CeleryHints:
    """Publishes hints, best effort.

    Attributes:
        queues: The queue of each kind.
    """

    app: "Entrega"
    queues: Mapping[str, str]

    def send(self, hints: Iterable[Hint]) -> int:
        """See `delivery.ports.Hints.send`."""
        sent = 0
        wanted = list(hints)
        if not wanted or self.app.settings.redis_url is None:
            return 0  # a producer that knows Postgres alone: the workers' sweep finds its deliveries
        try:
            with self.app.producer_pool.acquire(block=True, timeout=5) as producer:
                for each in wanted:
                    self._publish(each, producer)
                    sent += 1
        except self._faults() as err:
            _log.warning(
                "hints_lost", lost=len(wanted) - sent, fault=type(err).__name__, next="the sweep sends them again"
            )
        return sent

    def backlog(self) -> int | None:
        """See `delivery.ports.Hints.backlog`."""
        if self.app.settings.redis_url is None:
            return None
        try:
            with self.app.pool.acquire(block=True, timeout=5) as connection:
                channel = connection.default_channel
                return sum(channel.queue_declare(queue=name).message_count for name in set(self.queues.values()))
        except self._faults():
            return None

    def _publish(self, hint: Hint, producer: object) -> None:
        self.app.send_task(
            hint.kind,
            args=[str(hint.id)],
            task_id=str(hint.id),  # Flower and the ledger speak of the same id
            queue=self.queues[hint.kind],
            priority=PRIORITIES[hint.priority],
            producer=producer,
        )

    def _faults(self) -> tuple[type[BaseException], ...]:
        connection = self.app.connection_for_write()
        return (*_BROKER_FAULTS, *connection.connection_errors, *connection.channel_errors)
