"""Which deliveries with an order key want a hint, at a bounded price however many wait behind the head of their key."""

from datetime import timedelta

from sqlalchemy import Connection, Row, text

from ledger.order import BLOCKS_FOR, UNBLOCKED

# Looked at in one sweep: each costs one look in an index, some 15 microseconds measured, so 30 ms at most.
_WINDOW = 2000
_HEADS = 500

_DUE = """d.next_at <= now() AND d.expires_at > now()
        AND (d.hinted_at IS NULL OR d.hinted_at < now() - :stale_s * interval '1 second')
        AND (d.state = 'ready' OR d.parks = 0)"""

_FIRST_DUE = text(f"""
    WITH seen AS (
      SELECT d.id, d.order_key FROM deliveries d
      WHERE d.order_key IS NOT NULL AND d.state IN ('ready', 'waiting') AND {_DUE}
      ORDER BY d.priority, d.next_at LIMIT {_WINDOW}
    ), free AS (
      SELECT d.id FROM seen d WHERE {UNBLOCKED} LIMIT :most
    ), picked AS (
      SELECT d.id FROM deliveries d JOIN free ON free.id = d.id
      WHERE d.state IN ('ready', 'waiting') FOR UPDATE OF d SKIP LOCKED
    ), hinted AS (
      UPDATE deliveries d SET state = 'ready', hinted_at = now() FROM picked WHERE d.id = picked.id
      RETURNING d.id, d.kind, d.priority, d.next_at
    )
    SELECT hinted.*, n.seen FROM (SELECT count(*) AS seen FROM seen) n LEFT JOIN hinted ON true
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
    ), picked AS (
      SELECT d.id FROM keys CROSS JOIN LATERAL (
        SELECT h.id FROM deliveries h
        WHERE h.order_key = keys.order_key AND h.state IN ('ready', 'waiting', 'attempting', 'uncertain')
          AND (h.state = 'attempting' OR h.stuck_since IS NULL OR h.stuck_since > now() - {BLOCKS_FOR})
        ORDER BY h.id LIMIT 1
      ) head JOIN deliveries d ON d.id = head.id
      WHERE d.state IN ('ready', 'waiting') AND {_DUE}
      LIMIT :most FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE deliveries d SET state = 'ready', hinted_at = now() FROM picked WHERE d.id = picked.id
    RETURNING d.id, d.kind, d.priority, d.next_at
""")  # noqa: S608 - pieces of `ledger.order`


def due_in_order(connection: Connection, *, stale: timedelta, most: int) -> list[Row[tuple[object, ...]]]:
    """Mark due deliveries with an order key as hinted, none that is blocked, and return them.

    Args:
        stale: Age after which a hint counts as lost.
        most: At most this many.
    """
    values = {"stale_s": stale.total_seconds(), "most": most}
    rows = connection.execute(_FIRST_DUE, values).all()
    found = [row for row in rows if row.id is not None]
    if rows[0].seen < _WINDOW or len(found) >= most:
        return list(found)
    return [*found, *connection.execute(_HEADS_DUE, values | {"most": most - len(found)})]
