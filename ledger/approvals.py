"""Deliveries that wait for a person's yes or no: which there are, what they say, and the answer.

What is approved gets its whole time, however long it waited; what is rejected is canceled and never sent. An approval
is bound to the whole command, its fallback included, by a keyed hash: a delivery whose content is another one is never
sent. A producer cannot approve what it asked for.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, Row, text

from delivery.ports import Hint
from ledger import quotas
from ledger.database import transaction
from ledger.letters import Signed
from ledger.models import PRIORITIES
from ledger.order import AWAITS_APPROVAL
from ledger.reading import Delivery, delivery_of
from ledger.sealing import Unreadable
from ledger.store import PostgresLedger

_LIST = text(f"""
    SELECT d.* FROM deliveries d
    WHERE d.state IN ('dead', 'held') AND {AWAITS_APPROVAL}
      AND (CAST(:producer AS text) IS NULL OR d.producer = :producer)
      AND (CAST(:code AS text) IS NULL OR d.code = :code)
      AND (CAST(:after AS uuid) IS NULL OR d.id > :after)
    ORDER BY d.id LIMIT :most
""")  # noqa: S608 - a piece of `ledger.order`
_COUNT = text(f"""
    SELECT count(*) AS n, min(d.created_at) AS oldest_at FROM deliveries d
    WHERE d.state IN ('dead', 'held') AND {AWAITS_APPROVAL}
""")  # noqa: S608 - as above
# An edited delivery was asked for by its producer and by who edited it.
_OPEN = f"""
    SELECT d.*, p.body, k.data_key,
           CAST(:producer AS text) IS NOT NULL AND (d.producer = :producer OR EXISTS (
             SELECT FROM audit a WHERE a.delivery_id = d.id AND a.action = 'resubmission'
               AND split_part(a.actor, '#', 1) = split_part(CAST(:actor AS text), '#', 1)
           )) AS own
    FROM deliveries d LEFT JOIN payloads p ON p.delivery_id = d.id LEFT JOIN people k ON k.person = d.person
    WHERE d.id = ANY(CAST(:ids AS uuid[])) AND {AWAITS_APPROVAL}
"""  # noqa: S608 - as above
_SHOW = text(_OPEN)
_TAKE = text(f"{_OPEN} ORDER BY d.id FOR UPDATE OF d")
_NOTE = text("INSERT INTO audit (actor, action, delivery_id, reason) VALUES (:actor, :action, :id, :reason)")
_APPROVE = text("""
    WITH seen AS (
      SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:hashes AS bytea[])) AS seen (id, hash)
    ), freed AS (
      UPDATE deliveries d
         SET state = CASE WHEN d.next_at > now() THEN 'waiting' ELSE 'ready' END, code = NULL, reason = NULL,
             next_at = greatest(d.next_at, now()), expires_at = greatest(d.next_at, now()) + d.lifetime,
             hinted_at = CASE WHEN d.next_at > now() THEN NULL ELSE now() END, approved = seen.hash
      FROM seen WHERE d.id = seen.id
      RETURNING d.id, d.account, d.kind, d.priority, d.state, d.order_key IS NOT NULL AS in_order, seen.hash
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason)
      SELECT :actor, 'approved', id, :reason FROM freed
      UNION ALL SELECT :actor, 'approved content', id, encode(hash, 'hex') FROM freed
    )
    SELECT id, account, kind, priority, state, in_order FROM freed ORDER BY priority, id
""")
_REJECT = text(f"""
    WITH ended AS (
      UPDATE deliveries d SET state = 'canceled', code = 'not_approved', reason = :reason, settled_at = now()
      WHERE d.id = ANY(CAST(:ids AS uuid[])) AND {AWAITS_APPROVAL}
      RETURNING d.id
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT :actor, 'rejected', id, :reason FROM ended
    )
    SELECT id FROM ended
""")  # noqa: S608 - as above

Obstacle = Literal["own_request", "other_content", "unreadable"]


@dataclass(frozen=True)
class Approver:
    """Who answers, and why, for the audit trail.

    Attributes:
        producer: Whose key it is; None for an operator at the command line, who asks for nothing.
    """

    signed: Signed
    producer: str | None = None


@dataclass(frozen=True)
class Waiting:
    """How many deliveries wait for approval, and since when."""

    count: int
    oldest_at: datetime | None


@dataclass(frozen=True)
class Request:
    """One delivery that waits for approval, opened. Holds personal data in clear: mask it before it is shown.

    Attributes:
        stored: The command's fields and options, its fallback among them; None when they cannot be opened.
            Shape: {"content": {"nome": "Ana Teste", ...}, "options": {"fallback": {...}, ...}}
        content_hash: What an approval is bound to, as hexadecimal digits; None when `stored` is.
    """

    delivery: Delivery
    stored: Mapping[str, Any] | None
    content_hash: str | None


@dataclass(frozen=True)
class Approved:
    """What an approval moved.

    Attributes:
        ids: Deliveries that go on.
        hints: Those that are due now.
        refused: Why others do not, although they wait for approval.
    """

    ids: tuple[UUID, ...]
    hints: tuple[Hint, ...]
    refused: Mapping[UUID, Obstacle]


@dataclass(frozen=True)
class Approvals:
    """Lists and opens what waits for approval, and takes the answer."""

    ledger: PostgresLedger

    def list(
        self, *, producer: str | None = None, code: str | None = None, after: UUID | None = None, most: int = 50
    ) -> list[Delivery]:
        """Return what waits, oldest first.

        Args:
            code: Only what waits for this reason, a word of `delivery.producers.HELD_BECAUSE`.
            after: Cursor: the last id of the page before.
        """
        values = {"producer": producer, "code": code, "after": after, "most": most}
        with transaction(self.ledger.engine) as connection:
            return [delivery_of(row) for row in connection.execute(_LIST, values)]

    def waiting(self) -> Waiting:
        """Return how many there are."""
        with transaction(self.ledger.engine) as connection:
            row = connection.execute(_COUNT).one()
        return Waiting(row.n, row.oldest_at)

    def open(self, delivery_id: UUID, by: Approver, *, action: Literal["viewed", "revealed"]) -> Request | None:
        """Open one, and keep on record that it was viewed masked or revealed; None when it does not wait."""
        with transaction(self.ledger.engine) as connection:
            row = next(iter(self._rows(connection, _SHOW, [delivery_id], by)), None)
            if row is None:
                return None
            values = {"actor": by.signed.actor, "reason": by.signed.reason, "action": action, "id": delivery_id}
            connection.execute(_NOTE, values)
        stored = self._stored(row)
        return Request(delivery_of(row), stored, None if stored is None else self._hash(row, stored).hex())

    def approve(self, ids: Collection[UUID], by: Approver, *, content_hash: str | None = None) -> Approved:
        """Let deliveries go, each with its whole time; those that do not wait for approval are left alone.

        Args:
            content_hash: What the approver saw; a delivery with another content is not approved.
        """
        seen: dict[UUID, bytes] = {}
        refused: dict[UUID, Obstacle] = {}
        with transaction(self.ledger.engine) as connection:
            for row in self._rows(connection, _TAKE, ids, by):
                found = self._approvable(row, content_hash)
                if isinstance(found, bytes):
                    seen[row.id] = found
                else:
                    refused[row.id] = found
            values = {"ids": list(seen), "hashes": list(seen.values()), **vars(by.signed)}
            rows = connection.execute(_APPROVE, values).all()
        hints = tuple(
            Hint(row.id, row.kind, PRIORITIES[row.priority], alone=row.in_order, account=row.account)
            for row in rows
            if row.state == "ready"
        )
        return Approved(tuple(row.id for row in rows), hints, refused)

    def reject(self, ids: Collection[UUID], signed: Signed) -> set[UUID]:
        """Make sure that deliveries are never sent; return those that waited for approval."""
        with transaction(self.ledger.engine) as connection:
            quotas.give_back(connection, ids)
            return set(connection.execute(_REJECT, {"ids": list(ids), **vars(signed)}).scalars())

    def _approvable(self, row: Row[Any], content_hash: str | None) -> bytes | Obstacle:
        if row.own:
            return "own_request"
        stored = self._stored(row)
        if stored is None:
            return "unreadable"
        found = self._hash(row, stored)
        return found if content_hash in (None, found.hex()) else "other_content"

    def _rows(self, connection: Connection, chosen: Any, ids: Collection[UUID], by: Approver) -> Sequence[Row[Any]]:
        values = {"ids": list(ids), "producer": by.producer, "actor": by.signed.actor}
        return connection.execute(chosen, values).all()

    def _stored(self, row: Row[Any]) -> Mapping[str, Any] | None:
        try:
            return self.ledger.stored(row)
        except (Unreadable, ValueError):
            return None

    def _hash(self, row: Row[Any], stored: Mapping[str, Any]) -> bytes:
        return self.ledger.content_hash(row.kind, row.account, stored)
