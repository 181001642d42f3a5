"""Opens callbacks: what a transaction noted for a producer becomes a delivery of its own, in the order it happened.

A trigger writes `callback_events` within the transaction that changes a delivery, so nothing that happened is untold
and nothing is told that did not happen (docs/adr/0018). Here each event becomes a row of `deliveries`, once.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import Connection, Row, select, text

from delivery.callbacks import Callback, account_of
from delivery.commands import Options
from delivery.errors import LedgerUnavailable
from delivery.ids import id_of_event, new_id
from delivery.ports import Hint, NewDelivery
from ledger.database import transaction
from ledger.models import attempts
from ledger.reading import Attempt, attempt_of, delivery_of, public_view
from ledger.setting_aside import WAITS, Apart, Fault
from ledger.store import PostgresLedger

# Who takes a delivery's first event takes all of them: two that work at once never part the events of one delivery.
_HEADS = f"""
      SELECT t.delivery_id FROM callback_events t
      WHERE NOT EXISTS (SELECT FROM callback_events e WHERE e.delivery_id = t.delivery_id AND e.id < t.id) AND {WAITS}
"""  # noqa: S608 - a piece of `ledger.setting_aside`
_TAKE = text(f"""
    WITH heads AS ({_HEADS}
        AND (CAST(:ids AS uuid[]) IS NULL OR t.delivery_id = ANY(CAST(:ids AS uuid[])))
      ORDER BY t.id LIMIT :most FOR UPDATE OF t SKIP LOCKED
    ), taken AS (
      DELETE FROM callback_events t USING heads h WHERE t.delivery_id = h.delivery_id RETURNING t.*
    )
    SELECT d.*, t.id AS event_id, t.event, t.at AS event_at, t.state AS event_state, t.progress AS event_progress,
           t.code AS event_code, t.reason AS event_reason, t.receipt AS event_receipt, t.attempts AS event_attempts,
           t.settled_at AS event_settled_at, e.account AS endpoint_account, e.disabled_reason
    FROM taken t JOIN deliveries d ON d.id = t.delivery_id JOIN endpoints e ON e.id = d.endpoint_id
    ORDER BY t.id
""")  # noqa: S608 - as above
_NOTED = text(f"{_HEADS} ORDER BY t.id LIMIT :most")
_UNTOLD = text("""
    INSERT INTO audit (actor, action, delivery_id, reason)
    SELECT 'callbacks', 'not_told', told.id, told.reason
    FROM unnest(CAST(:ids AS uuid[]), CAST(:reasons AS text[])) AS told (id, reason)
""")
_DISABLED = text("SELECT disabled_at IS NOT NULL FROM endpoints WHERE id = :id")


@dataclass(frozen=True)
class Event:
    """Something a producer is told that is not about a delivery of its own, e.g. a message that came in.

    Attributes:
        type: Two words or more, e.g. "whatsapp.message".
        at: When it happened.
        data: What the producer gets; clean of what it must not see.
        key: The event's own name, so that the same event is told once.
        order: Events with the same text arrive in the order in which they were forwarded.
        about: The person whose data it carries, as `Command.recipient` writes them; erasing them erases it.
    """

    type: str
    at: datetime
    data: dict[str, JsonValue]
    key: str
    order: str
    about: str | None = None


@dataclass(frozen=True)
class Callbacks:
    """Opens callbacks in a Postgres ledger.

    Attributes:
        expires_in: Promise to try until then.
        key_kept: How long a repeated event is recognised.
        failed: Told of each event that cannot be opened; it is tried again later, and then set aside.
    """

    ledger: PostgresLedger
    expires_in: timedelta
    key_kept: timedelta = timedelta(days=7)
    failed: Callable[[Fault], object] = lambda _: None

    def open_noted(self, *, most: int = 100) -> list[Hint]:
        """Open a callback for every event that was noted, oldest first, and return them.

        Events of an endpoint that is disabled are told to nobody; the delivery's audit trail says so. An event that
        fails costs no other one.

        Args:
            most: Events of at most this many deliveries.
        """
        try:
            return self._open(most)
        except LedgerUnavailable:
            raise
        except Exception:  # noqa: BLE001 - one of them fails, whatever it is: the others are opened without it
            apart = Apart(self.ledger.engine, "callback_events", self.failed)
            opened = apart.work(self._noted(most), lambda ids: self._open(len(ids), ids))
        return [hint for each in opened for hint in each]

    def _noted(self, most: int) -> list[UUID]:
        with transaction(self.ledger.engine) as connection:
            return list(connection.execute(_NOTED, {"most": most}).scalars())

    def _open(self, most: int, only: Sequence[UUID] | None = None) -> list[Hint]:
        with transaction(self.ledger.engine) as connection:
            rows = connection.execute(_TAKE, {"most": most, "ids": only}).all()
            if not rows:
                return []
            timelines = _timelines(connection, {row.id for row in rows})
            open_ones = [row for row in rows if row.disabled_reason is None]
            opened = self.ledger.open_within(
                connection, [self._of_delivery(row, timelines.get(row.id, ())) for row in open_ones]
            )
            _note_untold(connection, [row for row in rows if row.disabled_reason is not None])
        return [Hint(each.id, Callback.kind, alone=True) for each in opened if each.fresh]

    def try_out(self, endpoint: UUID) -> Hint | None:
        """Open a callback `endpoint.test`; None when there is no such endpoint, or it is disabled."""
        known = self.ledger.endpoints.find(endpoint)
        if known is None:
            return None
        key = str(new_id())
        # `id` and `state`, as every event about a delivery has: a receiver that works with them works with this one.
        data: dict[str, JsonValue] = {
            "id": key, "state": "test", "endpoint": str(endpoint), "message": "a test asked for by an operator",
        }  # fmt: skip
        event = Event("endpoint.test", datetime.now(UTC), data, key=key, order=f"endpoint:{endpoint}")
        with transaction(self.ledger.engine) as connection:
            return self.forward(connection, event, producer=known.producer, url=known.url)

    def forward(self, connection: Connection, event: Event, *, producer: str, url: str) -> Hint | None:
        """Open a callback for an event as a part of the caller's transaction.

        Args:
            producer: Whose secret signs it.
            url: Where it goes; the caller has checked it with `delivery.destinations.url_issue`.

        Returns:
            What to hint once the transaction is committed; None when the event was forwarded before, or the endpoint
            is disabled.
        """
        endpoint = self.ledger.endpoints.register(producer, url)
        if connection.scalar(_DISABLED, {"id": endpoint}):
            return None
        options = Options(order_key=event.order)
        command = Callback(
            endpoint=endpoint, type=event.type, timestamp=event.at, data=event.data, about=event.about, options=options
        )
        new = self._new(new_id(), command, producer=producer, account=account_of(url), key=f"event:{event.key}")
        opened = self.ledger.open_within(connection, [new])[0]
        return Hint(opened.id, Callback.kind, alone=True) if opened.fresh else None

    def _of_delivery(self, row: Row[Any], timeline: Sequence[Attempt]) -> NewDelivery:
        then = replace(
            delivery_of(row, tuple(each for each in timeline if each.started_at <= row.event_at)),
            state=row.event_state,
            progress=row.event_progress,
            code=row.event_code,
            reason=row.event_reason,
            receipt=row.event_receipt,
            attempts=row.event_attempts,
            settled_at=row.event_settled_at,
            next_at=None,
        )
        command = Callback(
            endpoint=row.endpoint_id,
            type=f"delivery.{row.event}",
            timestamp=row.event_at,
            data=public_view(then),
            options=Options(order_key=str(row.id)),
        )
        id_ = id_of_event(row.event_at, row.event_id)
        new = self._new(id_, command, producer=row.producer, account=row.endpoint_account, key=f"event:{id_}")
        return replace(new, environment=row.environment)

    def _new(self, id_: UUID, command: Callback, *, producer: str, account: str, key: str) -> NewDelivery:
        return NewDelivery(
            id=id_,
            command=command,
            account=account,
            producer=producer,
            recipient=account.partition(":")[2],
            key=key,
            origin=None,
            key_kept=self.key_kept,
            same_within=self.key_kept,
            expires_in=self.expires_in,
            hold_uncertain=False,
        )


def _timelines(connection: Connection, ids: Collection[UUID]) -> dict[UUID, tuple[Attempt, ...]]:
    lines = select(attempts).where(attempts.c.delivery_id.in_(ids)).order_by(attempts.c.delivery_id, attempts.c.n)
    rows = connection.execute(lines).all()
    return {id_: tuple(map(attempt_of, some)) for id_, some in groupby(rows, key=lambda row: row.delivery_id)}


def _note_untold(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    if not rows:
        return
    values = {
        "ids": [row.id for row in rows],
        "reasons": [f"delivery.{row.event}: its endpoint is disabled ({row.disabled_reason})" for row in rows],
    }
    connection.execute(_UNTOLD, values)
