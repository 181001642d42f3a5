"""What was called lately, for a limiter whose own memory was lost. Reads the attempts, and knows no person."""

from datetime import timedelta

from sqlalchemy import Engine, text

from delivery.limiter import PastCall
from ledger.database import transaction

# An attempt's call left somewhere between the two instants of its row. Started at most an hour before the span: no
# lease is that long, and the bound on `started_at` is what the index answers.
_CALLS = text("""
    SELECT a.delivery_id, extract(epoch FROM now() - a.started_at)::float8 AS begun_s,
           extract(epoch FROM now() - a.ended_at)::float8 AS ended_s,
           extract(epoch FROM d.lease_until - now())::float8 AS left_s
    FROM attempts a JOIN deliveries d ON d.id = a.delivery_id
    WHERE d.account = :account AND a.started_at > now() - (:span_s + 3600) * interval '1 second'
      AND (a.ended_at IS NULL OR a.ended_at > now() - :span_s * interval '1 second')
    ORDER BY a.ended_at DESC NULLS FIRST
    LIMIT :most + (SELECT count(*) FROM deliveries WHERE state = 'attempting')
""")


def calls_lately(database: Engine, account: str, *, span: timedelta, most: int) -> list[PastCall]:
    """Return an account's calls that are under way or ended within `span`, newest first.

    Args:
        database: The ledger's.
        account: Its full name, e.g. "crm:default".
        span: How far back.
        most: No more than so many, not counting those under way.

    Raises:
        LedgerUnavailable: Postgres is away.
    """
    values = {"account": account, "span_s": span.total_seconds(), "most": most}
    with transaction(database) as connection:
        return [
            PastCall(
                delivery=str(row.delivery_id),
                begun_us=_us(row.begun_s),
                ended_us=None if row.ended_s is None else _us(row.ended_s),
                left_us=_us(row.left_s or 0),
            )
            for row in connection.execute(_CALLS, values)
        ]


def _us(seconds: float) -> int:
    return max(0, int(seconds * 1_000_000))
