"""The base of the three command tasks: the Celery door, the fast clock of retries, and silence about people.

A message of ours carries a delivery id. A message of a foreign client carries the command itself: it becomes a row as
the task's first step, and only the id travels from then on.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from celery import Task
from celery.exceptions import Ignore, Reject
from celery.result import AsyncResult
from celery.utils.dispatch import Signal
from celery.worker.request import Request

from delivery.errors import FieldIssue, InvalidCommand, KeyReused, LedgerUnavailable, ProducerRefused
from delivery.instants import LATEST
from delivery.lane import Turn
from delivery.outcomes import Deferred, Rejected, Succeeded
from delivery.ports import Hint, Settlement
from delivery.refused import RefusedMessage, masked_copy, shown_issues, shown_word
from ledger.backlogs import first_ready
from ledger.order import QUARANTINE_AFTER, next_in_order, next_suspect
from ledger.store import SHORT_WAIT
from tasks.hints import LANE, LEADS, RETRY_QUEUE

if TYPE_CHECKING:
    from tasks.app import Entrega

_log = structlog.get_logger(__name__)

PRODUCER = "celery"
_NOT_SHOWN = "(not shown)"
# Header: when a foreign client's command is to be sent, where the client gave Celery a far ETA.
SEND_AT = "entrega_send_at"
# A delivery that was due for so long before a worker took it does not wait alone.
_LATE = timedelta(milliseconds=50)

message_refused = Signal(name="message_refused", providing_args={"reason", "refused"})


def refuse(refused: RefusedMessage) -> None:
    """Count a message that no task can take, keep its masked copy, and say so in one line without its content."""
    message_refused.send(sender=None, reason=refused.reason, refused=refused)
    _log.warning(
        "message_refused", code=refused.reason, queue=refused.queue, kind=refused.task, message_id=refused.message_id,
        detail="; ".join(f"{each.field}: {each.issue}" for each in refused.issues), next="entrega broker rejected",
    )  # fmt: skip


class ComeBack(Exception):
    """A delivery is due again soon; Celery's retry is the fast clock, the row's `next_at` the sure one."""

    def __init__(self, code: str, wait: timedelta) -> None:
        super().__init__(code, wait)
        self.code = code
        self.wait = wait

    def __str__(self) -> str:
        return f"{self.code}: next attempt in {self.wait.total_seconds():.1f} s"


class QuietRequest(Request):
    """A request that shows ids and nothing else, whatever a foreign client wrote into the message's headers."""

    @property
    def argsrepr(self) -> str:
        """What events, Flower and the worker's log show."""
        return _shown(self.args)

    @property
    def kwargsrepr(self) -> str:
        """Never the command."""
        return _NOT_SHOWN if self.kwargs else "{}"

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002, ARG002 - Celery's signature
        """What `inspect active` and Flower's worker page show."""
        return super().info(safe=True) | {"args": self.argsrepr, "kwargs": self.kwargsrepr}


def _shown(args: object) -> str:
    if not args:
        return "()"
    try:
        return f"('{UUID(args[0])}',)" if isinstance(args, list | tuple) and len(args) == 1 else _NOT_SHOWN
    except (TypeError, ValueError, AttributeError):
        return _NOT_SHOWN


class CommandTask(Task):
    """A task whose keyword arguments are a command, or whose one argument is a delivery id."""

    abstract = True
    Request = "tasks.commands:QuietRequest"
    app: "Entrega"

    def apply_async(
        self,
        args: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        as_is: bool = False,
        **options: Any,
    ) -> AsyncResult:
        """Accept a command (keyword arguments), or pass a hint on (one delivery id).

        Where this process reaches the ledger the row is written first; the result's id is the delivery id.
        `countdown` and `eta` become the command's `send_at`, `expires` its `expires_at`.

        Raises:
            InvalidCommand: A field is missing, wrong, too long or unknown; nothing was written or sent.
            KeyReused: The idempotency key was used before with another body.
            ProducerRefused: The policy of the producer `celery` forbids it now.
            LedgerUnavailable: Postgres does not answer; nothing was promised.
            ConfigurationError: Neither the ledger nor a broker is known to this process.
        """
        body = dict(kwargs or {})
        if not self.app.reaches_ledger:
            self.app.require_broker()
        if not body or as_is or not self.app.reaches_ledger:
            shown = {"argsrepr": _shown(args), "kwargsrepr": _NOT_SHOWN if body else "{}"}
            return super().apply_async(args, kwargs, **(options | shown))
        answer = self.app.intake.submit(self.name, _with_times(body, options), producer=PRODUCER)
        return AsyncResult(answer.id, app=self.app)

    def retry(self, *args: Any, exc: BaseException | None = None, **options: Any) -> Any:
        """Send the same message again after the wait that the row asks for.

        Celery turns a broker that is away into an acknowledged, lost message here. A hint may be lost: the sweep sends
        it again. A foreign command may not, so its message goes back to its queue.
        """
        if isinstance(exc, ComeBack):
            options |= {"countdown": exc.wait.total_seconds(), "queue": RETRY_QUEUE}
        try:
            return super().retry(*args, exc=exc, as_is=True, **options)
        except Reject as err:
            if isinstance(exc, ComeBack):
                _log.warning("hints_lost", lost=1, delivery_id=self.request.id, next="the sweep sends it again")
                raise Ignore from err
            raise Reject(err.reason, requeue=True) from err

    def carry_out(self, delivery_id: object, surplus: tuple[object, ...], body: Mapping[str, Any]) -> None:
        """Do what the message says: accept a foreign command, or attempt a delivery.

        Raises:
            ComeBack: The delivery is due again within seconds.
            Reject: The message is neither an id nor an acceptable command.
            LedgerUnavailable: Postgres is away; the message is retried.
        """
        if surplus or (body and delivery_id is not None):
            self._refuse("malformed", f"{self.name} wants one delivery id or a command's fields, and nothing beside")
        if body or isinstance(delivery_id, dict):
            self._accept(body or delivery_id)  # type: ignore[arg-type]  # one of the two is the command
        else:
            self._follow(self._id(delivery_id))

    def _accept(self, body: Mapping[str, Any]) -> None:
        if (send_at := self.request.get(SEND_AT)) and isinstance(body.get("options") or {}, dict):
            body = _with_times(dict(body), {"eta": send_at})
        try:
            answer = self.app.intake.submit(self.name, body, producer=PRODUCER, origin=self.request.id)
        except (InvalidCommand, KeyReused) as err:
            issues = err.issues if isinstance(err, InvalidCommand) else ()
            self._refuse("invalid_command" if issues else "key_reused", str(err), issues)
        except ProducerRefused as err:  # for a person who was erased; whatever else is refused is held
            self._refuse(err.code, str(err))
        else:
            _log.info("accepted", kind=self.name, delivery_id=answer.id, message_id=self.request.id)

    def _follow(self, delivery_id: UUID) -> None:
        """Work the lane that a hint leads, hand its delivery to a lane that is being worked, or attempt it alone."""
        account = self.request.get(LANE)
        if not isinstance(account, str) or not self._goes_by_lane(account, delivery_id):
            self._attempt(delivery_id)

    def _goes_by_lane(self, account: str, delivery_id: UUID) -> bool:
        if self.request.get(LEADS):
            return self._work_lane(account) is not Turn.SHUT
        if self.app.lanes.takes(account, self.name, delivery_id):
            return True
        return self.app.threads.is_half_used(account) and self._work_lane(account) is not Turn.SHUT

    def _attempt(self, delivery_id: UUID) -> None:
        ended = self.app.lone_engine.deliver([delivery_id])
        self._call_next(ended)
        self._open_callbacks(ended)
        for each in ended:
            if (wait := _short_wait(each)) is not None:
                raise ComeBack(each.outcome.code, wait)
            account = each.claimed.order.account
            # One that waited for its slot at a gate, or beside one that found no thread, does not wait alone either.
            if each.claimed.late > _LATE or self.request.eta or self.app.threads.was_full(account):
                self._work_lane(account)

    def _work_lane(self, account: str) -> Turn:
        """Carry out what waits behind this message as well: a message is dearer than a delivery."""
        with self.app.threads.held_by(account) as may_work:
            if not may_work:  # its deliveries wait for those that work on them
                return Turn.BUSY
            turn = self.app.lanes.work(account, self.name, self._settled_in_lane)
        if turn is Turn.OVER or self.app.threads.was_full(account):
            self.app.hints.send(first_ready(self.app.database, account, self.name))
        return turn

    def _settled_in_lane(self, ended: Sequence[Settlement]) -> None:
        self._call_next(ended)
        self._open_callbacks(ended)
        again = [(each.claimed.order, wait) for each in ended if (wait := _short_wait(each)) is not None]
        self.app.hints.send(
            Hint(order.delivery_id, self.name, order.command.options.priority, wait) for order, wait in again
        )

    def _call_next(self, ended: Sequence[Settlement]) -> None:
        """Tell workers of deliveries that waited for these: by order key, or for the place in quarantine."""
        done = [each.claimed.order for each in ended if isinstance(each.outcome, Succeeded | Rejected)]
        keyed = [each.delivery_id for each in done if each.command.options.order_key]
        if keyed:
            self.app.hints.send(next_in_order(self.app.database, keyed))
        if any(each.claimed.tries.get("lease_lost", 0) >= QUARANTINE_AFTER for each in ended):
            self.app.hints.send(next_suspect(self.app.database))

    def _open_callbacks(self, ended: Sequence[Settlement]) -> None:
        """Open the callbacks that these settlements noted, now; the sweep opens what is missed here."""
        settled = [each for each in ended if not isinstance(each.outcome, Deferred)]
        if any(each.claimed.order.command.options.callback_url for each in settled):
            self.app.hints.send(self.app.callbacks.open_noted())

    def _id(self, value: object) -> UUID:
        try:
            return UUID(str(value))
        except ValueError:
            self._refuse("malformed", f"{self.name} wants a delivery id or a command's fields")
            raise

    def _refuse(self, reason: str, message: str, issues: Sequence[FieldIssue] = ()) -> None:
        request = self.request
        queue = (request.delivery_info or {}).get("routing_key") or "?"
        refuse(
            RefusedMessage(
                reason,
                queue,
                self.name,
                shown_word(request.id),
                shown_issues(issues or [FieldIssue("body", message)]),
                copy=masked_copy({"args": request.args, "kwargs": request.kwargs}),
            )
        )
        raise Reject(message, requeue=False)


def _short_wait(settlement: Settlement) -> timedelta | None:
    """Return how long until the next attempt where Celery's clock carries it, else None."""
    outcome = settlement.outcome
    if not isinstance(outcome, Deferred) or outcome.parked or outcome.paced or outcome.wait > SHORT_WAIT:
        return None
    return outcome.wait


def _with_times(body: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    times = {}
    if send_at := options.get("eta") or _from_now(options.get("countdown")):
        times["send_at"] = send_at
    if expires := options.get("expires"):
        times["expires_at"] = expires if isinstance(expires, datetime | str) else _from_now(expires)
    return body | {"options": dict(body.get("options") or {}) | times} if times else body


def _from_now(seconds: float | None) -> datetime | None:
    try:
        return datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
    except (OverflowError, ValueError):
        return LATEST  # which the intake refuses, and names the field


# Celery's own policy for what the same message may try again. For a delivery the row's wait, which follows the spec for
# each class of error, takes the place of the countdown; for an absent ledger Celery's backoff with jitter stays.
RETRYING: Mapping[str, Any] = {
    "shared": False,  # ours alone: a host program's own Celery application must not find them in its registry
    "autoretry_for": (ComeBack, LedgerUnavailable),
    "retry_backoff": True,
    "retry_backoff_max": 60,
    "retry_jitter": True,
    "max_retries": None,  # the row counts, for each class of error apart
}
