"""Wraps everything that any master key wraps with the first one, so that the others can be removed.

What the wrapped keys protect does not change. The index key is wrapped anew but stays the same: with another one no
person would be found again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from ledger.database import transaction
from ledger.vault import Vault, person_place

# Rows of one transaction.
_AT_ONCE = 2000


@dataclass(frozen=True)
class _Column:
    """A column that holds wrapped values; each begins with the name of its master key."""

    table: str
    key: str
    key_type: str
    name: str

    def place(self, key: Any) -> str:
        """Return what a value is bound to, as its own module writes it."""
        if self.table == "people":
            return person_place(bytes(key))
        return f"vault.{key}" if self.table == "vault" else f"{self.table}.{self.name}/{key}"

    @property
    def by_others(self) -> str:
        """FROM and WHERE: the rows that another master key than the :first one wraps."""
        return f"FROM {self.table} WHERE substr({self.name}, 1, 4) <> :first"

    @property
    def find(self) -> TextClause:
        """The statement that reads the next of them."""
        return text(f"""
            SELECT {self.key} AS key, {self.name} AS wrapped {self.by_others}
              AND (CAST(:after AS {self.key_type}) IS NULL OR {self.key} > :after) ORDER BY {self.key} LIMIT :most
        """)

    @property
    def keep(self) -> TextClause:
        """The statement that replaces values that are still the old ones."""
        return text(f"""
            UPDATE {self.table} t SET {self.name} = new.wrapped
            FROM unnest(CAST(:keys AS {self.key_type}[]), CAST(:old AS bytea[]), CAST(:wrapped AS bytea[]))
              AS new (key, old, wrapped)
            WHERE t.{self.key} = new.key AND t.{self.name} = new.old
        """)  # noqa: S608 - as above


_COLUMNS = (
    _Column("vault", "name", "text", "wrapped"),
    _Column("people", "person", "bytea", "data_key"),
    _Column("accounts", "name", "text", "settings"),
    _Column("credentials", "account", "text", "sealed"),
    _Column("endpoints", "id", "uuid", "url"),
    _Column("signing_secrets", "id", "uuid", "secret"),
)


def rewrap(vault: Vault) -> int:
    """Wrap with the first master key whatever another one wraps, in transactions of bounded size; return how many.

    Processes that work meanwhile are not disturbed: they know both keys.

    Raises:
        Unreadable: A value was wrapped by a master key that is not at hand; what was rewrapped before stays so.
        LedgerUnavailable: Postgres is away; run it again.
    """
    return sum(
        _rewrapped(vault, connection, column, rows) for column in _COLUMNS for connection, rows in _pages(vault, column)
    )


def wrapped_by_others(vault: Vault) -> int:
    """Return how many values another master key than the first one wraps."""
    first = {"first": vault.masters.first_name}
    with transaction(vault.engine) as connection:
        counts = [connection.scalar(text(f"SELECT count(*) {each.by_others}"), first) for each in _COLUMNS]
    return sum(each or 0 for each in counts)


def _rewrapped(vault: Vault, connection: Connection, column: _Column, rows: Sequence[Row[Any]]) -> int:
    masters = vault.masters
    places = [column.place(row.key) for row in rows]
    old = [bytes(row.wrapped) for row in rows]
    new = [masters.wrap(masters.unwrap(each, place), place) for each, place in zip(old, places, strict=True)]
    return connection.execute(column.keep, {"keys": [row.key for row in rows], "old": old, "wrapped": new}).rowcount


def _pages(vault: Vault, column: _Column) -> Iterator[tuple[Connection, Sequence[Row[Any]]]]:
    after = None
    while True:
        with transaction(vault.engine) as connection:
            connection.execute(text("SET LOCAL statement_timeout = '10min'"))  # a large table is read to its end
            values = {"after": after, "first": vault.masters.first_name, "most": _AT_ONCE}
            rows = connection.execute(column.find, values).all()
            if rows:
                yield connection, rows
        if len(rows) < _AT_ONCE:
            return
        after = rows[-1].key
