"""Celery's Redis transport, patient with strangers: an item that is no message is refused and counted.

Left alone, kombu lets an item that is not JSON end the worker, and takes JSON that is no message for a lost connection.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from json import JSONDecodeError
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis

from tasks.commands import message_refused

_log = structlog.get_logger(__name__)
# What kombu and Celery read of every message before they look at its task.
_NEEDED = ("exchange", "routing_key")


def be_patient() -> None:
    """Let `redis://` and `rediss://` mean this transport in this process: a worker's, never a producer's."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "tasks.transport:PatientTransport"


class PatientChannel(redis.Channel):
    """Reads the queues; an item that is not JSON is refused in one line."""

    @cached_property
    def _lasting_client(self) -> Any:
        return self._create_client()

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Lend the one client of this channel: kombu makes a new one for every command, and that is dear.

        A client holds no connection of its own, it borrows one of the pool for each command.
        """
        yield client or self._lasting_client

    def _disconnect_pools(self) -> None:
        self.__dict__.pop("_lasting_client", None)  # it knows the pool that goes away
        super()._disconnect_pools()

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (JSONDecodeError, UnicodeDecodeError) as err:
            _refuse(err)
            return True


class PatientTransport(redis.Transport):
    """Hands messages on; JSON that is no message is refused in one line."""

    Channel = PatientChannel

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            found = self.Channel.Message(message, channel=self.channels[0])
            missing = [name for name in _NEEDED if name not in found.delivery_info]
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            _refuse(err)
            return
        if missing:
            _refuse(KeyError(missing[0]))
        else:
            super()._deliver(message, queue)


def _refuse(err: Exception) -> None:
    message_refused.send(sender=None, reason="unreadable")
    advice = "look at the client that publishes to this Redis"
    _log.warning("message_refused", code="unreadable", fault=type(err).__name__, next=advice)
