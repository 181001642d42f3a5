"""Events that cannot be worked on: each is tried alone a few times, and is then set aside for a person.

Events of two tables are worked on in sets: what providers reported (`inbound_events`) and what producers are to be
told (`callback_events`). Without this module an event that always fails would stop all others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeVar

import structlog
from sqlalchemy import Engine, text

from delivery.errors import LedgerUnavailable
from ledger.database import transaction

_log = structlog.get_logger(__name__)
_Id = TypeVar("_Id")
_Done = TypeVar("_Done")

Table = Literal["inbound_events", "callback_events"]
MOST_TRIES = 3
_WAIT = timedelta(seconds=20)
WAITS = "set_aside_at IS NULL AND (try_at IS NULL OR try_at <= now())"

_FAILED = """ SET tries = tries + 1, fault = :fault, try_at = now() + (tries + 1) * :wait_s * interval '1 second',
           set_aside_at = CASE WHEN tries + 1 >= :most THEN now() END
"""
# Events about one delivery stay together, so that they keep their order.
_FAIL: Mapping[Table, str] = {
    "inbound_events": f"UPDATE inbound_events {_FAILED} WHERE id = :id RETURNING set_aside_at IS NOT NULL",
    "callback_events": f"UPDATE callback_events {_FAILED} WHERE delivery_id = :id RETURNING set_aside_at IS NOT NULL",
}
_FORGIVEN = " SET tries = 0, try_at = NULL, set_aside_at = NULL WHERE set_aside_at IS NOT NULL"
_RETRY = [text(f"UPDATE {table} {_FORGIVEN}") for table in _FAIL]
_LIST = text("""
    SELECT 'inbound_events' AS table, id::text AS id, account, kind, at, set_aside_at, fault
    FROM inbound_events WHERE set_aside_at IS NOT NULL
    UNION ALL
    SELECT 'callback_events', c.delivery_id::text, min(d.account), string_agg(c.event, ', ' ORDER BY c.id), min(c.at),
           min(c.set_aside_at), min(c.fault)
    FROM callback_events c LEFT JOIN deliveries d ON d.id = c.delivery_id
    WHERE c.set_aside_at IS NOT NULL GROUP BY c.delivery_id
    ORDER BY set_aside_at, id LIMIT :most
""")
_COUNT = text("""
    SELECT (SELECT count(*) FROM inbound_events WHERE set_aside_at IS NOT NULL)
         + (SELECT count(DISTINCT delivery_id) FROM callback_events WHERE set_aside_at IS NOT NULL)
""")
_NOTE = text("INSERT INTO audit (actor, action, reason) VALUES (:actor, 'retried_set_aside', :reason)")


@dataclass(frozen=True)
class Fault:
    """One event that failed.

    Attributes:
        cause: The name of an exception; never its text, which may hold a person.
        is_set_aside: It failed for the last time.
    """

    table: Table
    cause: str
    is_set_aside: bool


@dataclass(frozen=True)
class Kept:
    """One event that waits for a person.

    Attributes:
        kind: What a provider told, or what a producer should be told.
    """

    table: str
    id: str
    account: str | None
    kind: str
    at: datetime
    set_aside_at: datetime
    fault: str


@dataclass(frozen=True)
class SetAside:
    """The events that wait for a person."""

    engine: Engine

    def list(self, *, most: int = 100) -> list[Kept]:
        """Return them, those that wait longest first."""
        with transaction(self.engine) as connection:
            return [Kept(*row) for row in connection.execute(_LIST, {"most": most})]

    def count(self) -> int:
        """Return how many there are."""
        with transaction(self.engine) as connection:
            return connection.scalar(_COUNT) or 0

    def retry(self, *, actor: str, reason: str) -> int:
        """Let all of them be worked on again; return how many."""
        with transaction(self.engine) as connection:
            found = connection.scalar(_COUNT) or 0
            for each in _RETRY:
                connection.execute(each)
            if found:
                connection.execute(_NOTE, {"actor": actor, "reason": f"{found} events: {reason}"})
        return found


@dataclass(frozen=True)
class Apart:
    """Works on events so that one that fails costs itself only.

    Attributes:
        failed: Told of each event that failed.
    """

    engine: Engine
    table: Table
    failed: Callable[[Fault], object]

    def work(self, ids: Sequence[_Id], step: Callable[[Sequence[_Id]], _Done]) -> list[_Done]:
        """Take the step with sets as large as can be: one that fails is halved, until what fails stands alone.

        Raises:
            LedgerUnavailable: Postgres is away; that is no fault of an event.
            Exception: All of several events failed: that is no fault of an event either, and none is set aside.
        """
        done, failures = _in_halves(ids, step)
        if failures and not done and len(ids) > 1:
            raise failures[0][1]
        for id_, err in failures:
            _log.error("event_failed", table=self.table, id=str(id_), exc_info=err)
            self.failed(self._note(id_, err))
        return done

    def _note(self, id_: object, err: Exception) -> Fault:
        cause = type(err).__name__
        values = {"id": id_, "fault": cause, "wait_s": _WAIT.total_seconds(), "most": MOST_TRIES}
        with transaction(self.engine) as connection:
            is_set_aside = bool(connection.scalar(text(_FAIL[self.table]), values))
        return Fault(self.table, cause, is_set_aside)


def _in_halves(
    ids: Sequence[_Id], step: Callable[[Sequence[_Id]], _Done]
) -> tuple[list[_Done], list[tuple[_Id, Exception]]]:
    if not ids:
        return [], []
    try:
        return [step(ids)], []
    except LedgerUnavailable:
        raise
    except Exception as err:  # noqa: BLE001 - whatever it is, it must cost this event only
        if len(ids) == 1:
            return [], [(ids[0], err)]
    middle = len(ids) // 2
    done, failures = _in_halves(ids[:middle], step)
    more_done, more_failures = _in_halves(ids[middle:], step)
    return [*done, *more_done], [*failures, *more_failures]
