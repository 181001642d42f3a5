"""What is due, for each account and kind: how much of it, and which of it is next, most urgent and oldest first.

Each look costs as much as is taken, however much waits: the indexes hold the open deliveries of one account, kind and
priority by due instant, those with an order key apart.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, Engine, text

from delivery.ports import Backlog, Hint
from ledger.database import statement
from ledger.models import PRIORITIES
from ledger.order import RUNNING, SUSPECT
from ledger.order_hints import BY_PRIORITY, LANE, NO_LIVE_HINT, due_in_order


def _pairs(name: str, has_key: str) -> str:
    """Return a walk through an index from one account and kind to the next, whatever lies between them."""
    first = f"""SELECT account, kind FROM deliveries
       WHERE state IN ('ready', 'waiting') AND order_key {has_key}"""  # noqa: S608 - pieces of this module
    ordered = "ORDER BY account, kind LIMIT 1"
    return f"""{name} AS (
      ({first} {ordered})
      UNION ALL
      SELECT n.account, n.kind FROM {name} l CROSS JOIN LATERAL (
        {first} AND (account, kind) > (l.account, l.kind) {ordered}
      ) n
    )"""  # noqa: S608 - pieces of this module


def _front(has_key: str) -> str:
    """Return the first due deliveries of a lane that stands as `l`, as far as anybody counts."""
    return f"""(
        SELECT f.id, f.hinted_at FROM {BY_PRIORITY} CROSS JOIN LATERAL (
          SELECT d.id, d.hinted_at FROM deliveries d
          WHERE d.account = l.account AND d.kind = l.kind AND d.priority = p.priority
            AND d.state IN ('ready', 'waiting') AND d.order_key {has_key}
            AND d.next_at <= now() AND d.expires_at > now()
          ORDER BY d.next_at LIMIT :most
        ) f LIMIT :most
      )"""  # noqa: S608 - pieces of this module


_LANES = f"""{_pairs("free", "IS NULL")}, {_pairs("keyed", "IS NOT NULL")}, lanes AS (
      SELECT account, kind FROM free UNION SELECT account, kind FROM keyed
    )"""  # noqa: S608 - pieces of this module

# What has an order key and a live hint is not counted as live: most of it is blocked, and its hints come to nothing.
_BACKLOGS = text(f"""
    WITH RECURSIVE {_LANES}, counted AS (
      SELECT l.account, l.kind, d.hinted_at, true AS counts FROM lanes l CROSS JOIN LATERAL {_front("IS NULL")} d
      UNION ALL
      SELECT l.account, l.kind, d.hinted_at, false FROM lanes l CROSS JOIN LATERAL {_front("IS NOT NULL")} d
    )
    SELECT d.account, d.kind, count(*) FILTER (WHERE {NO_LIVE_HINT}) AS due,
           count(*) FILTER (WHERE d.counts AND NOT {NO_LIVE_HINT}) AS live
    FROM counted d LEFT JOIN accounts a ON a.name = d.account
    WHERE a.held_reason IS NULL AND {RUNNING}
    GROUP BY d.account, d.kind
    ORDER BY d.account, d.kind
""")  # noqa: S608 - pieces of this module and `ledger.order_hints`

# What nobody hints would end when its time is over; here it waits for the person who holds the account. The lock waits
# for whoever opens it just now, as in a claim.
_SHELVE = text(f"""
    WITH RECURSIVE {_LANES}, held AS (
      SELECT l.* FROM lanes l JOIN accounts a ON a.name = l.account WHERE a.held_reason IS NOT NULL
    ), found AS (
      SELECT d.id FROM held l CROSS JOIN LATERAL {_front("IS NULL")} d
      UNION ALL
      SELECT d.id FROM held l CROSS JOIN LATERAL {_front("IS NOT NULL")} d
    ), picked AS (
      SELECT id FROM deliveries WHERE id = ANY(ARRAY(SELECT id FROM found)) AND state IN ('ready', 'waiting')
      FOR UPDATE SKIP LOCKED
    ), shut AS (
      SELECT name, held_reason FROM accounts
      WHERE held_reason IS NOT NULL AND name IN (SELECT account FROM held) FOR SHARE
    ), shelved AS (
      UPDATE deliveries d SET state = 'held', code = 'account_held', reason = shut.held_reason
      FROM shut WHERE d.id = ANY(ARRAY(SELECT id FROM picked)) AND shut.name = d.account
      RETURNING d.id, d.account, d.reason
    )
    INSERT INTO audit (actor, action, delivery_id, account, reason)
    SELECT 'sweep', 'held', id, account, reason FROM shelved
""")  # noqa: S608 - pieces of this module

# A LIMIT ends the walk from priority to priority as soon as enough is found and locked.
_TAKE = text(f"""
    WITH picked AS (
      SELECT f.id FROM {BY_PRIORITY} CROSS JOIN LATERAL (
        SELECT d.id FROM deliveries d
        WHERE {LANE} AND d.priority = p.priority AND d.state IN ('ready', 'waiting') AND d.order_key IS NULL
          AND d.next_at <= now() AND d.expires_at > now() AND {NO_LIVE_HINT}
        ORDER BY d.next_at LIMIT :most FOR UPDATE SKIP LOCKED
      ) f LIMIT :most
    )
    SELECT d.id, d.priority, d.next_at, {SUSPECT} AS suspect FROM picked JOIN deliveries d ON d.id = picked.id
""")  # noqa: S608 - pieces of this module and `ledger.order_hints`

_FIRST_READY = text(f"""
    SELECT d.id FROM {BY_PRIORITY} CROSS JOIN LATERAL (
      SELECT d.id FROM deliveries d
      WHERE {LANE} AND d.priority = p.priority AND d.state = 'ready' AND d.order_key IS NULL
        AND d.next_at <= now() AND d.expires_at > now() AND {RUNNING}
      ORDER BY d.next_at LIMIT 1
    ) d LIMIT 1
""")  # noqa: S608 - pieces of `ledger.order` and `ledger.order_hints`

_MARK = text("""
    UPDATE deliveries d SET state = 'ready', hinted_at = now() + new.wait_s * interval '1 second'
    FROM unnest(CAST(:ids AS uuid[]), CAST(:waits AS float8[])) AS new (id, wait_s)
    WHERE d.id = new.id
""")


def count(connection: Connection, *, stale: timedelta, most: int) -> list[Backlog]:
    """See `delivery.ports.Ledger.backlogs`."""
    rows = connection.execute(_BACKLOGS, {"stale_s": stale.total_seconds(), "most": most})
    return [Backlog(row.account, row.kind, row.due, row.live) for row in rows]


def shelve(connection: Connection, *, most: int) -> None:
    """Put aside what is due of accounts that a person holds, at most so many of each kind."""
    connection.execute(_SHELVE, {"most": most})


def take(connection: Connection, backlog: Backlog, *, stale: timedelta, waits: Sequence[timedelta]) -> list[Hint]:
    """See `delivery.ports.Ledger.due`."""
    most = min(len(waits), backlog.due)
    if not most:
        return []
    values = {"account": backlog.account, "kind": backlog.kind, "stale_s": stale.total_seconds()}
    # Half for those with an order key, at most, so that neither sort keeps the other waiting.
    keyed = due_in_order(connection, values, most=max(1, most // 2))
    free = connection.execute(_TAKE, values | {"most": most - len(keyed)}).all()
    ordered = sorted([*keyed, *free], key=lambda row: (row.priority, row.next_at))
    alone = {row.id for row in keyed} | {row.id for row in free if row.suspect}
    hints = [
        Hint(row.id, backlog.kind, PRIORITIES[row.priority], wait, row.id in alone, backlog.account)
        for row, wait in zip(ordered, waits, strict=False)
    ]
    marks = {"ids": [each.id for each in hints], "waits": [each.wait.total_seconds() for each in hints]}
    connection.execute(_MARK, marks)
    return hints


def first_ready(engine: Engine, account: str, kind: str) -> list[Hint]:
    """Return an urgent hint for what a lane would take next, so that another turn begins; none when nothing waits."""
    with statement(engine) as connection:
        found = connection.execute(_FIRST_READY, {"account": account, "kind": kind})
        return [Hint(row.id, kind, "high", account=account, leads=True) for row in found]
