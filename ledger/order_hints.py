"""Which deliveries with an order key want a hint, at a bounded price however many wait behind the head of their key."""

from collections.abc import Mapping

from sqlalchemy import Connection, Row, text

from ledger.models import PRIORITIES
from ledger.order import BLOCKS_FOR, UNBLOCKED

# Looked at in one round for each account and kind: each costs one look in an index, some 15 microseconds measured.
_WINDOW = 500
_HEADS = 500

_PLACES = ", ".join(f"({place}::smallint)" for place in range(len(PRIORITIES)))
# A look at each priority by itself, most urgent first: what a LIMIT ends early.
BY_PRIORITY = f"(VALUES {_PLACES}) p (priority)"
LANE = "d.account = :account AND d.kind = :kind"
NO_LIVE_HINT = "(d.hinted_at IS NULL OR d.hinted_at < now() - :stale_s * interval '1 second')"
_DUE = f"{LANE} AND d.next_at <= now() AND d.expires_at > now() AND {NO_LIVE_HINT}"

_FIRST_DUE = text(f"""
    WITH seen AS (
      SELECT d.id, d.order_key, d.environment FROM deliveries d
      WHERE d.order_key IS NOT NULL AND d.state IN ('ready', 'waiting') AND {_DUE}
      ORDER BY d.priority, d.next_at LIMIT {_WINDOW}
    ), free AS (
      SELECT d.id FROM seen d WHERE {UNBLOCKED} LIMIT :most
    ), picked AS (
      SELECT d.id, d.priority, d.next_at FROM deliveries d JOIN free ON free.id = d.id
      WHERE d.state IN ('ready', 'waiting') FOR UPDATE OF d SKIP LOCKED
    )
    SELECT picked.*, n.seen FROM (SELECT count(*) AS seen FROM seen) n LEFT JOIN picked ON true
""")  # noqa: S608 - pieces of `ledger.order`

# Where the first ones are all blocked, one long key may hide the others: walk from key to key instead, from anywhere,
# so that every key has its turn.
_HEADS_DUE = text(f"""
    WITH RECURSIVE keys (order_key, n) AS (
      SELECT (SELECT min(order_key) FROM deliveries d
              WHERE d.order_key >= (SELECT CASE WHEN random() < 0.5 THEN '' ELSE md5(random()::text) END)
                AND d.state IN ('ready', 'waiting', 'attempting', 'uncertain')), 1
      UNION ALL
      SELECT (SELECT min(d.order_key) FROM deliveries d
              WHERE d.order_key > keys.order_key AND d.state IN ('ready', 'waiting', 'attempting', 'uncertain')), n + 1
      FROM keys WHERE keys.order_key IS NOT NULL AND n < {_HEADS}
    )
    SELECT d.id, d.priority, d.next_at FROM keys CROSS JOIN LATERAL (
        SELECT h.id FROM deliveries h
        WHERE h.order_key = keys.order_key AND h.state IN ('ready', 'waiting', 'attempting', 'uncertain')
          AND (h.state = 'attempting' OR h.stuck_since IS NULL OR h.stuck_since > now() - {BLOCKS_FOR})
        ORDER BY h.id LIMIT 1
      ) head JOIN deliveries d ON d.id = head.id
      WHERE d.state IN ('ready', 'waiting') AND d.id <> ALL(CAST(:taken AS uuid[])) AND {_DUE}
      LIMIT :most FOR UPDATE OF d SKIP LOCKED
""")  # noqa: S608 - pieces of `ledger.order`


def due_in_order(connection: Connection, values: Mapping[str, object], *, most: int) -> list[Row[tuple[object, ...]]]:
    """Lock due deliveries with an order key, none that is blocked, and return their id, priority and due instant.

    Args:
        values: Account and kind, and `stale_s`, the age after which a hint counts as lost.
        most: At most this many.
    """
    rows = connection.execute(_FIRST_DUE, {**values, "most": most}).all()
    found = [row for row in rows if row.id is not None]
    if rows[0].seen < _WINDOW or len(found) >= most:
        return list(found)
    more = {"most": most - len(found), "taken": [row.id for row in found]}
    return [*found, *connection.execute(_HEADS_DUE, {**values, **more})]
