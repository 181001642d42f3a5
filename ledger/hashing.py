"""Hashes what earlier versions kept in clear: providers' ids that name a person, and the keys that producers chose.

Runs after a migration and with every purge, so that also the last row of an old process is found.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from delivery.ids import first_id, new_id
from ledger.database import transaction
from ledger.entries import CLEAR_KEYS, hashed_key
from ledger.vault import Vault

# Rows read, and rewritten, in one transaction.
_AT_ONCE = 5000
_PLACES = {"deliveries": "uuid", "inbound_events": "bigint", "callback_events": "bigint"}
_CLEAR_KEYS = text("""
    SELECT producer, key FROM idempotency
    WHERE (producer, key) > (:producer, :key) AND split_part(key, ':', 1) = ANY(CAST(:sorts AS text[]))
    ORDER BY producer, key LIMIT :most
""")
# A key that a new process has written meanwhile stays; what the old row stood for is the older one, and is dropped.
_HASH_KEYS = text("""
    WITH new AS (
      SELECT * FROM unnest(CAST(:producers AS text[]), CAST(:clear AS text[]), CAST(:hashed AS text[]))
        AS new (producer, clear, hashed)
    ), old AS (
      DELETE FROM idempotency i USING new WHERE i.producer = new.producer AND i.key = new.clear
      RETURNING i.*, new.hashed
    )
    INSERT INTO idempotency (producer, key, body_hash, delivery_id, kept_until)
    SELECT producer, hashed, body_hash, delivery_id, kept_until FROM old ON CONFLICT DO NOTHING
""")


# From the newest on, and no further than to the first old one.
_LAST_OLD_EVENT = text("""
    SELECT id FROM inbound_events WHERE at < now() - CAST(:lately AS interval) ORDER BY id DESC LIMIT 1
""")


def hash_clear(vault: Vault, *, lately: timedelta | None = None) -> int:
    """Replace what stands in clear by its keyed hash, in transactions of bounded size; return how many values.

    Args:
        lately: Look only at deliveries and events that are younger; None reads all of them.

    Raises:
        LedgerUnavailable: Postgres is away; run it again.
        Unreadable: No master key at hand opens the index key.
    """
    receipts = sum(_hash_receipts(vault, table, id_type, lately) for table, id_type in _PLACES.items())
    return receipts + _hash_keys(vault)


def _hash_receipts(vault: Vault, table: str, id_type: str, lately: timedelta | None) -> int:
    # What cannot name a person is not even read: no id of WhatsApp's, no address, no number, no long word.
    find = text(f"""
        SELECT id, receipt FROM {table}
        WHERE (CAST(:id AS {id_type}) IS NULL OR id > :id) AND receipt NOT LIKE 'hashed:%'
          AND receipt ~ '^wamid[.]|@|[+]|%2[Bb]|[A-Za-z0-9+/_-]{{14}}'
        ORDER BY id LIMIT :most
    """)  # noqa: S608 - names of our own tables and types
    keep = text(f"""
        UPDATE {table} t SET receipt = new.hashed
        FROM unnest(CAST(:ids AS {id_type}[]), CAST(:clear AS text[]), CAST(:hashed AS text[]))
          AS new (id, clear, hashed)
        WHERE t.id = new.id AND t.receipt = new.clear AND new.clear <> new.hashed
    """)  # noqa: S608 - as above
    changed = 0
    for connection, rows in _pages(vault, find, {"id": _first(vault, table, lately)}):
        clear = [row.receipt for row in rows]
        values = {"ids": [row.id for row in rows], "clear": clear, "hashed": list(map(vault.proof, clear))}
        changed += connection.execute(keep, values).rowcount
    return changed


def _first(vault: Vault, table: str, lately: timedelta | None) -> object:
    """Return the id after which to look; None for all."""
    if lately is None or table == "callback_events":  # whose rows live for seconds
        return None
    if table == "deliveries":
        return first_id(before=new_id(), span=lately)
    with transaction(vault.engine) as connection:
        return connection.scalar(_LAST_OLD_EVENT, {"lately": lately})


def _hash_keys(vault: Vault) -> int:
    changed = 0
    for connection, rows in _pages(vault, _CLEAR_KEYS, {"producer": "", "key": "", "sorts": list(CLEAR_KEYS)}):
        clear = [row.key for row in rows]
        hashed = [hashed_key(vault, *each.split(":", 1)) for each in clear]
        connection.execute(_HASH_KEYS, {"producers": [row.producer for row in rows], "clear": clear, "hashed": hashed})
        changed += len(rows)
    return changed


def _pages(vault: Vault, find: TextClause, start: Mapping[str, Any]) -> Iterator[tuple[Connection, Sequence[Row[Any]]]]:
    """Yield the rows in pages, each within its own transaction, in the order of the columns that stand in `start`."""
    values = {**start, "most": _AT_ONCE}
    while True:
        with transaction(vault.engine) as connection:
            connection.execute(text("SET LOCAL statement_timeout = '10min'"))  # a large table is read to its end
            rows = connection.execute(find, values).all()
            if rows:
                yield connection, rows
        if len(rows) < _AT_ONCE:
            return
        values |= {name: value for name, value in rows[-1]._mapping.items() if name in start}  # noqa: SLF001 - public
