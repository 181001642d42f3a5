"""Order within a key, and the quarantine: what the claim asks before it takes a row, as pieces of SQL.

A delivery waits while an earlier one of its order key is on its way. It does not wait for ever: one that is uncertain,
or in the fallback queue, blocks its key for a time only. Held and dead ones wait for a person and block nobody.
"""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import Engine, text

from delivery.errors import DOUBTFUL_CODES
from delivery.ports import Hint
from delivery.producers import HELD_BECAUSE
from ledger.database import transaction
from ledger.models import PRIORITIES

# Source: our study of queues with order keys (procrastinate's locks, SQS message groups), 2026-11-22: for a chat, block
# for at most ten minutes, then go on with a flag.
BLOCKS_FOR = "interval '10 minutes'"
# Claims of one delivery that ended without a result; from then on it may be what kills its workers. Source: as above,
# after River and SQS: three, then a lane with one place, then dead.
QUARANTINE_AFTER = 3

# The switch of `entrega pause --all`; one look at a table that is almost always empty.
RUNNING = "NOT EXISTS (SELECT FROM switches WHERE name = 'pause_all')"

# An `OR` around the sub-select keeps the planner from joining: one index look-up for a row that has a key, none else.
UNBLOCKED = f"""(d.order_key IS NULL OR NOT EXISTS (
          SELECT FROM deliveries e
          WHERE e.order_key = d.order_key AND e.environment = d.environment AND e.id < d.id
            AND e.state IN ('ready', 'waiting', 'attempting', 'uncertain')
            AND (e.state = 'attempting' OR e.stuck_since IS NULL OR e.stuck_since > now() - {BLOCKS_FOR})))"""

# The index `ix_deliveries_suspect` says the same.
SUSPECT = f"(coalesce((d.tries ->> 'lease_lost')::int, 0) >= {QUARANTINE_AFTER})"
# Its claim in quarantine ended without a result as well.
POISON = f"(coalesce((d.tries ->> 'lease_lost')::int, 0) > {QUARANTINE_AFTER})"

_DOUBTFUL = ", ".join(f"'{each}'" for each in sorted(DOUBTFUL_CODES))
_APPROVABLE = ", ".join(f"'{each}'" for each in sorted(HELD_BECAUSE))
# Held by its producer's policy, before any attempt: only an approval or a rejection moves it.
AWAITS_APPROVAL = f"(d.state = 'held' AND coalesce(d.code, '') IN ({_APPROVABLE}))"
# How long a delivery still has, and how long it has been due.
TIMES = """extract(epoch FROM d.expires_at - now())::float8 AS left_s,
                extract(epoch FROM now() - d.next_at)::float8 AS late_s"""
# Surely without effect so far, so that "canceled" stays a promise: nothing was, is or will be sent.
CANCELABLE = f"""(d.state IN ('ready', 'waiting', 'held') AND d.resent = 0
          AND NOT jsonb_exists_any(d.tries, ARRAY[{_DOUBTFUL}]))"""

_NEXT = text(f"""
    WITH freed AS (
      SELECT DISTINCT order_key FROM deliveries
      WHERE id = ANY(CAST(:ids AS uuid[])) AND order_key IS NOT NULL
    ), picked AS (
      SELECT n.id FROM freed CROSS JOIN LATERAL (
        SELECT d.id FROM deliveries d
        WHERE d.order_key = freed.order_key AND d.state IN ('ready', 'waiting') AND d.next_at <= now()
          AND (d.state = 'ready' OR d.parks = 0) AND {UNBLOCKED}
        ORDER BY d.id LIMIT 1 FOR UPDATE SKIP LOCKED
      ) n
    )
    UPDATE deliveries d SET state = 'ready', hinted_at = now() FROM picked
    WHERE d.id = picked.id AND d.state IN ('ready', 'waiting')
    RETURNING d.id, d.kind, d.priority
""")  # noqa: S608 - pieces of this module alone


def next_in_order(engine: Engine, settled: Collection[UUID]) -> list[Hint]:
    """Return the deliveries that were waiting for these, by their order keys, and mark them as hinted."""
    with transaction(engine) as connection:
        rows = connection.execute(_NEXT, {"ids": list(settled)})
        return [Hint(row.id, row.kind, PRIORITIES[row.priority], alone=True) for row in rows]


_NEXT_SUSPECT = text(f"""
    UPDATE deliveries SET state = 'ready', hinted_at = now()
    WHERE id = (
      SELECT d.id FROM deliveries d
      WHERE d.state IN ('ready', 'waiting') AND {SUSPECT} AND d.next_at <= now() AND {UNBLOCKED}
      ORDER BY d.next_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, kind, priority
""")  # noqa: S608 - pieces of this module alone


def next_suspect(engine: Engine) -> list[Hint]:
    """Return the suspect that is due and may take the free place in quarantine, if any, and mark it as hinted."""
    with transaction(engine) as connection:
        return [
            Hint(row.id, row.kind, PRIORITIES[row.priority], alone=True) for row in connection.execute(_NEXT_SUSPECT)
        ]
