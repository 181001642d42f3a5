"""The purge: deletes what the ledger no longer needs, in small transactions.

It never touches an open delivery. It counts each delivery that it deletes in `purged`, so that accepted = succeeded +
open + dead + canceled + expired still holds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, TextClause, text

from config.retention import Periods
from delivery.ids import first_id, new_id
from ledger.database import transaction
from ledger.models import OPEN_STATES

# Rows of one transaction.
_AT_ONCE = 5000
# Transactions of one kind in one purge; the rest follows with the next one.
_MOST_ROUNDS = 500
# Counting ends here: that it is not zero says enough.
_MOST_COUNTED = 10_000
# What became too old since the last purge is not overdue.
_GRACE = timedelta(hours=3)
_OPEN = ", ".join(f"'{each}'" for each in OPEN_STATES)


@dataclass(frozen=True)
class _Kind:
    """What is purged together.

    Attributes:
        old: FROM and WHERE: which rows are too old at the instant :now.
        purge: Deletes at most :most of them; the number of its rows, or its one value, is how many.
    """

    old: str
    purge: TextClause

    @property
    def overdue(self) -> TextClause:
        """The statement that counts them."""
        return text(f"SELECT count(*) FROM (SELECT {self.old} LIMIT :most) AS old")  # noqa: S608 - constants of here


def _kind(table: str, key: str, old: str, *, lock: str) -> _Kind:
    # Rows without a number come in any order: sorting them would read the whole table for each round.
    order = "" if key.endswith(".ctid") else "ORDER BY 1"
    purge = text(f"""
        WITH old AS (SELECT {key} AS key {old} {order} LIMIT :most FOR UPDATE OF {lock} SKIP LOCKED), gone AS (
          DELETE FROM {table} t USING old WHERE t.{key.partition(".")[2]} = old.key RETURNING 1
        )
        SELECT count(*) FROM gone
    """)  # noqa: S608 - names of our own
    return _Kind(old, purge)


# The tables are read from their oldest row on, and not beyond the first young one: ids grow with time, and what is old
# is soon gone. So a purge of a large table with nothing old costs next to nothing. Keys have no such order.
_RECORDS = f"""
    FROM deliveries d
    WHERE d.id < :records_before AND d.state NOT IN ({_OPEN}) AND d.settled_at < :now - CAST(:records AS interval)
"""
_KINDS: Mapping[str, _Kind] = {
    "payloads": _kind(
        "payloads",
        "p.delivery_id",
        f"""
        FROM payloads p JOIN deliveries d ON d.id = p.delivery_id
        WHERE p.delivery_id < :payloads_before AND d.state NOT IN ({_OPEN})
          AND d.settled_at < :now - CASE d.state WHEN 'dead' THEN CAST(:dead_letters AS interval)
                                                 ELSE CAST(:payloads AS interval) END
        """,
        lock="d",
    ),
    "events": _kind(
        "inbound_events",
        "e.id",
        f"""
        FROM inbound_events e
        WHERE e.worked_at IS NOT NULL AND e.at < :now - CAST(:events AS interval)
          AND e.id < coalesce((SELECT y.id FROM inbound_events y WHERE y.at >= :now - CAST(:events AS interval)
                               ORDER BY y.id LIMIT 1), 9223372036854775807)
          AND NOT EXISTS (SELECT FROM deliveries d WHERE d.id = e.delivery_id AND d.state IN ({_OPEN}))
        """,  # noqa: S608 - words of our own
        lock="e",
    ),
    "keys": _kind("idempotency", "i.ctid", "FROM idempotency i WHERE i.kept_until <= :now", lock="i"),
    "rejected": _kind(
        "rejected_messages", "r.id", "FROM rejected_messages r WHERE r.at < :now - CAST(:events AS interval)", lock="r"
    ),
    "windows": _kind("windows", "w.ctid", "FROM windows w WHERE w.until < :now - CAST(:events AS interval)", lock="w"),
    "replays": _kind(
        "replays", "r.id", "FROM replays r WHERE r.stopped_at < :now - CAST(:records AS interval)", lock="r"
    ),
    "records": _Kind(
        _RECORDS,
        text(f"""
            WITH old AS (
              SELECT d.id {_RECORDS} ORDER BY d.id LIMIT :most FOR UPDATE OF d SKIP LOCKED
            ), gone AS (
              DELETE FROM deliveries d USING old WHERE d.id = old.id RETURNING d.state
            ), counted AS (
              INSERT INTO purged AS p (what, n) SELECT state, count(*) FROM gone GROUP BY state ORDER BY state
              ON CONFLICT (what) DO UPDATE SET n = p.n + excluded.n
            )
            SELECT count(*) FROM gone
        """),  # noqa: S608 - words of our own
    ),
}


@dataclass(frozen=True)
class Retention:
    """Purges a Postgres ledger, and tells what is overdue."""

    engine: Engine
    periods: Periods

    def purge(self) -> dict[str, int]:
        """Delete what is too old; return how many rows of each kind, those of which there were any.

        Raises:
            LedgerUnavailable: Postgres is away; what is deleted is deleted, the rest goes with the next purge.
        """
        gone = {name: self._purge(kind) for name, kind in _KINDS.items()}
        return {name: n for name, n in gone.items() if n}

    def overdue(self) -> dict[str, int]:
        """Return how many rows of each kind should have been purged by now; empty while the purge does its work.

        Raises:
            LedgerUnavailable: Postgres is away.
        """
        with transaction(self.engine) as connection:
            late = {"most": _MOST_COUNTED} | self._values(datetime.now(UTC) - _GRACE)
            counts = {name: connection.scalar(kind.overdue, late) for name, kind in _KINDS.items()}
        return {name: n for name, n in counts.items() if n}

    def _purge(self, kind: _Kind) -> int:
        gone = 0
        for _ in range(_MOST_ROUNDS):
            with transaction(self.engine) as connection:
                connection.execute(text("SET LOCAL statement_timeout = '10min'"))  # keys are read to the table's end
                values = {"most": _AT_ONCE} | self._values(datetime.now(UTC))
                last = connection.scalar(kind.purge, values) or 0
            gone += last
            if last < _AT_ONCE:
                break
        return gone

    def _values(self, now: datetime) -> dict[str, Any]:
        periods = asdict(self.periods)
        spans = {"payloads": min(self.periods.payloads, self.periods.dead_letters), "records": self.periods.records}
        present = new_id(now_ms=round(now.timestamp() * 1000))
        bounds = {f"{name}_before": first_id(before=present, span=span) for name, span in spans.items()}
        return {"now": now, **periods, **bounds}
