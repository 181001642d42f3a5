"""Celery's Redis transport, patient with strangers: an item that is no message is refused and counted.

Left alone, kombu lets an item that is not JSON end the worker, takes JSON that is no message for a lost connection, and
unpacks what is compressed before anything is known about it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.encoding import bytes_to_str

from delivery.errors import FieldIssue
from delivery.refused import RefusedMessage, masked_copy
from tasks.commands import refuse
from tasks.messages import Malformed, check_envelope, copy_of, opened

_BROADCAST = "(broadcast)"
# What a stranger's broadcast may raise while kombu reads it; a lost connection is none of these.
_READING_FAULTS = (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError)


def be_patient() -> None:
    """Let `redis://` and `rediss://` mean this transport in this process: a worker's, never a producer's."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "tasks.transport:PatientTransport"


class PatientChannel(redis.Channel):
    """Reads the queues; what cannot be a message is refused in one line, before kombu keeps or unpacks it."""

    _brpop_sent_at: Any = None

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

    def _brpop_start(self, timeout: float | None = None) -> None:
        # As kombu's own, but the queue that was read last comes last with all its priorities. A foreign client's
        # messages are most urgent by default: a flood of them would keep every wake-up of normal priority waiting.
        queues = self._queue_cycle.consume(len(self.active_queues))
        if queues:
            groups = (queues[:-1], queues[-1:])
            keys = [self._q_for_pri(each, step) for some in groups for step in self.priority_steps for each in some]
            self._in_poll = self.client.connection
            self._brpop_sent_at = monotonic()
            self.client.connection.send_command("BRPOP", *keys, timeout or self.brpop_timeout)

    def _brpop_read(self, **options: Any) -> bool:
        # As kombu's own, with the check between the pop and the rest.
        try:
            queue, item = self._popped(**options)
            self._queue_cycle.rotate(queue)
            self._hand_on(queue, item)
        finally:
            self._in_poll = False
            self._flush_brpop_reauth()
        return True

    def _popped(self, **options: Any) -> tuple[str, bytes]:
        connection = self.client.connection
        try:
            found = self.client.parse_response(connection, "BRPOP", **options)
        except self.connection_errors:
            connection.disconnect()
            raise
        if not found:
            raise Empty
        return bytes_to_str(found[0]).rsplit(self.sep, 1)[0], found[1]

    def _hand_on(self, queue: str, item: bytes) -> None:
        try:
            raw = opened(item, queue)
        except Malformed as err:
            refuse(RefusedMessage(err.reason, queue, issues=err.issues, size=len(item), copy=copy_of(item)))
        else:
            self.connection._deliver(raw, queue)  # noqa: SLF001 - as kombu does

    def _receive_one(self, client: Any) -> bool | None:
        try:
            return bool(super()._receive_one(client))
        except _READING_FAULTS as err:
            refuse(RefusedMessage("unreadable", _BROADCAST, issues=(FieldIssue("message", type(err).__name__),)))
            return None

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        try:
            check_envelope(message)
        except Malformed as err:
            refuse(RefusedMessage(err.reason, _BROADCAST, issues=err.issues, copy=masked_copy(message)))
            return True
        return bool(super()._deliver_fanout_message(message, exchange))


class PatientTransport(redis.Transport):
    """Hands messages on through patient channels."""

    Channel = PatientChannel
