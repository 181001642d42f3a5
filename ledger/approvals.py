"""Deliveries that wait for a person's yes or no: which there are, and the answer. Compare-and-set, with an audit row.

What is approved gets its whole time, however long it waited; what is rejected is canceled and never sent.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import Engine, text

from delivery.ports import Hint
from ledger.database import transaction
from ledger.letters import Signed
from ledger.models import PRIORITIES
from ledger.order import AWAITS_APPROVAL
from ledger.reading import Delivery, delivery_of

_LIST = text(f"""
    SELECT d.* FROM deliveries d
    WHERE d.state IN ('dead', 'held') AND {AWAITS_APPROVAL}
      AND (CAST(:producer AS text) IS NULL OR d.producer = :producer)
      AND (CAST(:code AS text) IS NULL OR d.code = :code)
      AND (CAST(:after AS uuid) IS NULL OR d.id > :after)
    ORDER BY d.id LIMIT :most
""")  # noqa: S608 - a piece of `ledger.order`
_APPROVE = text(f"""
    WITH freed AS (
      UPDATE deliveries d
         SET state = CASE WHEN d.next_at > now() THEN 'waiting' ELSE 'ready' END, code = NULL, reason = NULL,
             next_at = greatest(d.next_at, now()), expires_at = greatest(d.next_at, now()) + d.lifetime,
             hinted_at = CASE WHEN d.next_at > now() THEN NULL ELSE now() END
      WHERE d.id = ANY(CAST(:ids AS uuid[])) AND {AWAITS_APPROVAL}
      RETURNING d.id, d.account, d.kind, d.priority, d.state, d.order_key IS NOT NULL AS in_order
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT :actor, 'approved', id, :reason FROM freed
    )
    SELECT id, account, kind, priority, state, in_order FROM freed ORDER BY priority, id
""")  # noqa: S608 - as above
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


@dataclass(frozen=True)
class Approved:
    """What an approval moved.

    Attributes:
        ids: Deliveries that go on.
        hints: Those that are due now.
    """

    ids: tuple[UUID, ...]
    hints: tuple[Hint, ...]


@dataclass(frozen=True)
class Approvals:
    """Lists what waits for approval, and takes the answer."""

    engine: Engine

    def list(
        self, *, producer: str | None = None, code: str | None = None, after: UUID | None = None, most: int = 50
    ) -> list[Delivery]:
        """Return what waits, oldest first.

        Args:
            code: Only what waits for this reason, a word of `delivery.producers.HELD_BECAUSE`.
            after: Cursor: the last id of the page before.
        """
        values = {"producer": producer, "code": code, "after": after, "most": most}
        with transaction(self.engine) as connection:
            return [delivery_of(row) for row in connection.execute(_LIST, values)]

    def approve(self, ids: Collection[UUID], signed: Signed) -> Approved:
        """Let deliveries go, each with its whole time; those that do not wait for approval are left alone."""
        with transaction(self.engine) as connection:
            rows = connection.execute(_APPROVE, {"ids": list(ids), **asdict(signed)}).all()
        hints = tuple(
            Hint(row.id, row.kind, PRIORITIES[row.priority], alone=row.in_order, account=row.account)
            for row in rows
            if row.state == "ready"
        )
        return Approved(tuple(row.id for row in rows), hints)

    def reject(self, ids: Collection[UUID], signed: Signed) -> set[UUID]:
        """Make sure that deliveries are never sent; return those that waited for approval."""
        with transaction(self.engine) as connection:
            return set(connection.execute(_REJECT, {"ids": list(ids), **asdict(signed)}).scalars())
