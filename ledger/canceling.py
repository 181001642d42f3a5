"""Cancel: a delivery that was surely not carried out is never sent. Compare-and-set, so that a claim or it wins."""

from collections.abc import Collection, Mapping
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from ledger import quotas
from ledger.database import transaction
from ledger.order import CANCELABLE

_CANCEL = text(f"""
    WITH ended AS (
      UPDATE deliveries d SET state = 'canceled', code = 'canceled', reason = :reason, settled_at = now()
      WHERE d.id = :id AND {CANCELABLE}
      RETURNING d.id
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT :actor, 'canceled', id, :reason FROM ended
    )
    SELECT id FROM ended
""")  # noqa: S608 - a piece of our own
# Apart from the statement that settles the first: one that waited for the start of the fallback has an older snapshot,
# and would not see it.
_CALL_BACK = text(f"""
    WITH ended AS (
      UPDATE deliveries d SET state = 'canceled', code = 'canceled', settled_at = now(),
             reason = 'the delivery it stood for succeeded'
      WHERE d.id = ANY(CAST(:ids AS uuid[])) AND {CANCELABLE}
      RETURNING d.id, d.reason
    )
    INSERT INTO audit (actor, action, delivery_id, reason) SELECT 'ledger', 'canceled', id, reason FROM ended
""")  # noqa: S608 - a piece of our own
_STATE = text("SELECT state FROM deliveries WHERE id = :id")

_IN_DOUBT = (
    "an earlier attempt may have been carried out, so it cannot be promised that nothing was sent;"
    " let it end, or pause the account"
)
_WHY_NOT: Mapping[str, str] = {
    "attempting": "it is being sent right now; look again in a minute",
    "uncertain": "it may have been carried out, and is being looked up; wait for what is found",
    "succeeded": "it was already carried out",
    "dead": "it already ended as a dead letter, and nothing more is sent by itself",
    "canceled": "it is already canceled",
    "expired": "its time ran out, and nothing more is sent",
}


class NotCancelable(Exception):
    """A delivery stays as it is; the message says why."""


def cancel(engine: Engine, delivery_id: UUID, *, actor: str, reason: str) -> None:
    """Make sure that a delivery is never sent.

    Args:
        actor: Who acts, for the audit trail.
        reason: Why, for the audit trail; it is shown, so it should name nobody.

    Raises:
        NotCancelable: It may have been carried out, it has ended, or there is none; nothing was changed.
        LedgerUnavailable: Postgres is away; nothing was changed.
    """
    with transaction(engine) as connection:
        quotas.give_back(connection, [delivery_id])
        values = {"id": delivery_id, "actor": actor, "reason": reason}
        if connection.scalar(_CANCEL, values) is not None:
            return
        state = connection.scalar(_STATE, {"id": delivery_id})
    if state is None:
        raise NotCancelable(f"there is no delivery {delivery_id}; list them with: entrega deliveries")
    raise NotCancelable(f"delivery {delivery_id} was not canceled: {_WHY_NOT.get(state, _IN_DOUBT)}")


def call_back(connection: Connection, fallbacks: Collection[UUID]) -> None:
    """Cancel those fallbacks that were not attempted yet: what they stand for succeeded after all."""
    if fallbacks:
        connection.execute(_CALL_BACK, {"ids": list(fallbacks)})
