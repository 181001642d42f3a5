"""Fills a ledger with deliveries that are over, by SQL alone: as many rows as years of work would leave.

The proportions are those of a ledger that has worked for a month: every fourth delivery is for somebody new, one in ten
took two attempts, one in fifty is a dead letter, a few were canceled or expired, a WhatsApp message has two events of
its own. Bodies are as long as a sealed lead and cannot be opened. No index, plan or setting of a table is touched.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from sqlalchemy import Connection, Engine, TextClause, text

_CHUNK = 250_000
_AT_ONCE = 2
_EACH_FOR = 4  # deliveries for each person

# Within a chunk rows go in by person and by key, so that the pages of those indexes are each visited once.
_PEOPLE = text("""
    INSERT INTO people (person, data_key, created_at)
    SELECT sha256(('person ' || n)::bytea) AS person, decode(repeat(md5(n::text), 4), 'hex'), now() - interval '30 days'
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) n ORDER BY person
    ON CONFLICT DO NOTHING
""")
_DELIVERIES = text("""
    WITH made AS (
      INSERT INTO deliveries (id, kind, account, producer, state, priority, fence, attempts, tries, next_at, expires_at,
                              created_at, settled_at, hold_uncertain, person, recipient, content, progress, receipt,
                              code, reason)
      SELECT uuidv7(-age), lane.kind, lane.account, 'producer-' || n % 5, state.word,
             CASE n % 10 WHEN 7 THEN 0 WHEN 8 THEN 2 ELSE 1 END, tries.count, tries.count,
             CASE WHEN tries.count > 1 THEN '{"unavailable": 1}'::jsonb ELSE '{}' END,
             now() - age, now() - age + interval '24 hours', now() - age, now() - age + interval '2 seconds', 0,
             sha256(('person ' || n % CAST(:people AS int))::bytea), '+55119****' || lpad((n % 10000)::text, 4, '0'),
             hashtextextended(n::text, 0), CASE WHEN state.word = 'succeeded' THEN 'sent' END,
             CASE WHEN state.word = 'succeeded' THEN 'wamid.' || md5(n::text) END,
             CASE WHEN state.word = 'succeeded' THEN 'ok' ELSE 'invalid' END,
             CASE WHEN state.word = 'dead' THEN 'the provider refused a field' END
      FROM generate_series(CAST(:first AS int), CAST(:last AS int)) n
      CROSS JOIN LATERAL (SELECT interval '1 hour' + interval '30 days' * (1 - n / CAST(:rows AS float8)) AS age) clock
      CROSS JOIN LATERAL (SELECT CASE n % 100 WHEN 1 THEN 'dead' WHEN 51 THEN 'dead' WHEN 2 THEN 'canceled'
                                 WHEN 3 THEN 'expired' ELSE 'succeeded' END AS word) state
      CROSS JOIN LATERAL (SELECT CASE WHEN n % 100 IN (2, 3) THEN 0 WHEN n % 10 = 0 THEN 2 ELSE 1 END AS count) tries
      JOIN (VALUES (0, 'send_whatsapp', 'whatsapp:default'), (1, 'create_lead', 'crm:default'),
                   (2, 'send_email', 'email:default')) lane (place, kind, account) ON lane.place = n % 3
      ORDER BY sha256(('person ' || n % CAST(:people AS int))::bytea)
      RETURNING id, kind, account, producer, attempts, created_at, settled_at, state, code, receipt
    ), sealed AS (
      INSERT INTO payloads (delivery_id, body) SELECT id, decode(repeat(md5(id::text), 14), 'hex') FROM made ORDER BY id
    ), tried AS (
      INSERT INTO attempts (delivery_id, n, fence, worker, started_at, ended_at, outcome, code, http_status,
                            duration_ms)
      SELECT id, k, k, 'bench:1', created_at, settled_at,
             CASE WHEN k < attempts THEN 'deferred' WHEN state = 'dead' THEN 'rejected' ELSE 'succeeded' END,
             CASE WHEN k < attempts THEN 'unavailable' ELSE code END,
             CASE WHEN k < attempts THEN 503 WHEN state = 'dead' THEN 422 ELSE 200 END, 120
      FROM made, generate_series(1, made.attempts) k ORDER BY created_at
    ), keyed AS (
      INSERT INTO idempotency (producer, key, body_hash, delivery_id, kept_until)
      SELECT producer, 'key:' || md5(id::text), sha256(id::text::bytea), id, created_at + interval '7 days'
      FROM made ORDER BY 1, 2
    ), heard AS (
      INSERT INTO inbound_events (account, key, at, occurred_at, delivery_id, status, receipt, worked_at)
      SELECT account, status || receipt, settled_at, settled_at, id, status, receipt, settled_at
      FROM made CROSS JOIN (VALUES ('sent'), ('delivered')) told (status)
      WHERE kind = 'send_whatsapp' AND state = 'succeeded' ORDER BY 1, 2
    )
    INSERT INTO audit (at, actor, action, delivery_id) SELECT created_at, producer, 'accepted', id FROM made ORDER BY id
""")


def fill(engine: Engine, rows: int) -> None:
    """Put so many deliveries that are over into a new ledger, and have them looked at as autovacuum would in time."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("SET statement_timeout = 0"))
        with _roomy_log(connection):
            _insert(engine, rows)
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))


@contextmanager
def _roomy_log(connection: Connection) -> Iterator[None]:
    # Each checkpoint has whole pages written to the log again; a server that works has far fewer of them in a month.
    connection.execute(text("ALTER SYSTEM SET max_wal_size = '8GB'"))
    connection.execute(text("SELECT pg_reload_conf()"))
    try:
        yield
    finally:
        connection.execute(text("ALTER SYSTEM RESET max_wal_size"))
        connection.execute(text("SELECT pg_reload_conf()"))


def _insert(engine: Engine, rows: int) -> None:
    people = max(1, rows // _EACH_FOR)
    for statement, count in ((_PEOPLE, people), (_DELIVERIES, rows)):
        spans = [
            {"first": first, "last": min(count, first + _CHUNK - 1), "rows": rows, "people": people}
            for first in range(1, count + 1, _CHUNK)
        ]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(partial(_insert_chunk, engine, statement), spans))


def _insert_chunk(engine: Engine, statement: TextClause, span: Mapping[str, int]) -> None:
    with engine.begin() as connection:
        # Half the time would go into foreign keys that hold anyhow; and nobody wants callbacks of these.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        connection.execute(statement, span)
