"""Hints over Celery: a message that holds a delivery id and nothing else."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import structlog
from kombu.exceptions import BatchPublishError, OperationalError
from kombu.messaging import Producer
from kombu.pools import ProducerPool
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from delivery.ports import Hint
from tasks.later import Later

if TYPE_CHECKING:
    from tasks.app import Entrega

_log = structlog.get_logger(__name__)

# On Redis the smallest number is the most urgent.
PRIORITIES: Mapping[str, int] = {"high": 0, "normal": 3, "low": 6}
# Messages with an ETA sit in a worker's memory; on a queue of their own they hold up nobody.
RETRY_QUEUE = "retry"
# What a broker that is away, frozen or refusing raises; kombu wraps some of it and lets the rest through.
_BROKER_FAULTS = (BatchPublishError, OperationalError, OSError, RedisError)
# Headers: the account by whose lane a delivery may go, and that this hint leads the lane.
LANE, LEADS = "entrega_lane", "entrega_leads"
_PULSE_EVERY_S = 1.0
_CONNECTIONS = 10
# A few hints go out as they are. Of more at once one in eight leads its lane (`delivery.lane`): two at least, because
# one may be lost, and no more than eight, enough for every worker to get one.
_FEW, _EACH, _AT_LEAST, _AT_MOST = 4, 8, 2, 8


class CeleryHints:
    """Publishes hints, best effort.

    Celery's own connection waits about six seconds for a broker that refuses (measured: the Redis client retries ten
    times, out of our reach). Nobody should wait that long for a hint, so a quick pulse is felt first, once a second.

    Args:
        queues: The queue of each kind.
        clock: Monotonic seconds.
    """

    def __init__(
        self, app: "Entrega", queues: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._queues = queues
        self._clock = clock
        self._pulse = _pulse(app)
        self._felt_at = -_PULSE_EVERY_S
        self._later = Later(self.publish)

    def send(self, hints: Iterable[Hint]) -> None:
        """See `delivery.ports.Hints.send`. Of many for now only some are published: see `delivery.lane`."""
        _ = self._imported
        self._later.put(_thinned(hints))

    def publish(self, hints: Iterable[Hint]) -> int:
        """Publish the hints now, best effort; return how many went out. Never raises for an absent broker."""
        wanted = _thinned(hints)
        if not wanted or not self._is_alive(len(wanted)):
            return 0
        try:
            # One pipeline for all: a lost one loses hints, and hints may be lost.
            with self._producers.acquire(block=True, timeout=5) as producer, producer.batch():
                for each in wanted:
                    self._publish(each, producer)
        except _BROKER_FAULTS as err:
            self._lost(len(wanted), err)
            return 0
        return len(wanted)

    @cached_property
    def _imported(self) -> bool:
        # A program that forks while the thread imports leaves its child a module that never gets whole.
        for name in ("celery.app.amqp", "celery.loaders.app", "kombu.transport.redis", "tasks.transport"):
            import_module(name)
        return True

    @cached_property
    def _producers(self) -> Any:
        # The host program's own meaning of `redis://` stays as it is.
        connection = self._app.connection_for_write(transport="tasks.transport:PatientTransport")
        return ProducerPool(connection.Pool(_CONNECTIONS), limit=_CONNECTIONS)

    def wake(self, task: str, *, queue: str) -> bool:
        """Ask a worker to carry out a task without arguments now, best effort; return whether the broker took it."""
        if not self._is_alive(1):
            return False
        try:
            with self._app.producer_pool.acquire(block=True, timeout=5) as producer:
                self._app.send_task(task, queue=queue, producer=producer)
        except _BROKER_FAULTS as err:
            self._lost(1, err)
            return False
        return True

    def backlog(self) -> int | None:
        """Return how many hints wait for a worker, or None when the broker cannot be asked."""
        if not self._is_alive(0):
            return None
        try:
            with self._producers.acquire(block=True, timeout=5) as producer:
                return sum(
                    producer.channel.queue_declare(queue=name).message_count
                    for name in {*self._queues.values(), RETRY_QUEUE}
                )
        except _BROKER_FAULTS:
            return None

    def _is_alive(self, hints: int) -> bool:
        if self._pulse is None:
            return False  # a producer that knows Postgres alone: the workers' sweep finds its deliveries
        if self._clock() - self._felt_at < _PULSE_EVERY_S:
            return True
        try:
            self._pulse.ping()
        except _BROKER_FAULTS as err:
            self._lost(hints, err)
            return False
        self._felt_at = self._clock()
        return True

    def _publish(self, hint: Hint, producer: Producer) -> None:
        # `send_task` looks for routes, a parent and a result as well and declares the queue: half of the price, and
        # nothing that a hint has.
        named = str(hint.id)  # Flower and the ledger speak of the same id
        message = self._app.amqp.create_task_message(
            named,
            hint.kind,
            args=[named],
            argsrepr=str([named]),
            kwargsrepr="{}",
            ignore_result=True,
            countdown=hint.wait.total_seconds() or None,
            reply_to=self._app.thread_oid,
        )
        producer.publish(
            message.body,
            headers=message.headers | _lane_of(hint),
            serializer="json",
            routing_key=RETRY_QUEUE if hint.wait else self._queues[hint.kind],
            # Leaders let single messages go first: a bulk has many of them, and a lane needs one.
            priority=PRIORITIES["low" if hint.leads and hint.priority != "high" else hint.priority],
            **message.properties,
        )

    def _lost(self, hints: int, err: Exception) -> None:
        self._felt_at = -_PULSE_EVERY_S
        _log.warning("broker_away", hints_lost=hints, fault=type(err).__name__, next="the sweep sends them again")


def _lane_of(hint: Hint) -> dict[str, Any]:
    if hint.alone or hint.wait or not hint.account:
        return {}
    return {LANE: hint.account} | ({LEADS: True} if hint.leads else {})


def _thinned(hints: Iterable[Hint]) -> list[Hint]:
    """Leave out what lanes find by themselves: of many hints for now a few stay and lead the others."""
    own: list[Hint] = []
    lanes: dict[tuple[str, str], list[Hint]] = {}
    for each in hints:
        is_own = each.wait or each.alone or each.leads or each.priority == "high" or not each.account
        (own if is_own else lanes.setdefault((each.account, each.kind), [])).append(each)
    return own + [each for lane in lanes.values() for each in _leading(lane)]


def _leading(lane: Sequence[Hint]) -> Sequence[Hint]:
    if len(lane) <= _FEW:
        return lane
    few = min(_AT_MOST, max(_AT_LEAST, len(lane) // _EACH))
    return [replace(lane[len(lane) * place // few], leads=True) for place in range(few)]


def _pulse(app: "Entrega") -> Redis | None:
    url = app.settings.redis_url
    if url is None:
        return None
    once = Retry(NoBackoff(), 0)
    return Redis.from_url(url.get_secret_value(), socket_timeout=1, socket_connect_timeout=1, retry=once)
