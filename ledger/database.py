"""Connections to Postgres, and the one translation of its faults: away means `LedgerUnavailable`."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache, partial
from typing import Any

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection, Dialect, Engine, TextClause, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from delivery.errors import LedgerUnavailable, LedgerUnusable
from delivery.instants import EARLIEST, LATEST

__all__ = ["Engine", "connect", "fetch", "statement", "transaction"]

# A forgotten transaction would hold back vacuum and slow every claim: the server ends it. Source: measured, claims fell
# from 3,700/s to 123/s within 15 s behind one held snapshot.
# Without just-in-time compilation: behind a million rows the planner expects much and would compile for longer than the
# statement then runs.
# The last one tells whether they were heard: a pooler between us and Postgres may drop them without a word.
_SESSION = (
    "-c timezone=UTC -c jit=off -c statement_timeout=15000 -c lock_timeout=5000"
    " -c idle_in_transaction_session_timeout=10000 -c entrega.session=ours"
)

POOLER = (
    "DATABASE_URL leads to a connection pooler such as PgBouncer, which drops the time-outs of a session and mixes up"
    " prepared statements; name Postgres itself (each process keeps a small pool of its own)"
)
# Others tell of our own mistakes, unless they came with the end of the connection (an idle time-out, an administrator).
_AWAY = (OperationalError, InterfaceError)


def connect(url: str, *, pool_size: int = 8, name: str = "entrega", fresh_s: float = 1.0) -> Engine:
    """Return a pool of connections; reaches nothing yet.

    Args:
        url: `postgresql://...`, psycopg 3.
        pool_size: Connections kept; as many again may be opened under load.
        name: What the server shows as the application.
        fresh_s: A connection that rested longer is asked whether it still lives before it is lent. Asking every time
            would be one round trip more for each statement.
    """
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=10,
        hide_parameters=True,  # a parameter may be personal data, and errors are logged
        connect_args={
            "connect_timeout": 5,
            "options": _SESSION,
            "application_name": name,
            "client_encoding": "utf8",  # a database of another encoding could not even say so
        },
    )
    event.listen(engine, "connect", _read_every_instant)
    event.listen(engine, "checkin", _note_rest)
    event.listen(engine, "checkout", partial(_check_rested, engine, fresh_s))
    return engine


class _Instants(Loader):
    """Reads instants; one outside the years 2000 to 2099 is read as the nearest of them, so that it hides no other row.

    No door lets such an instant in. Rows of earlier versions may hold one, and Python ends with year 9999.
    """

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        usual = psycopg.adapters.get_loader(oid, self.format)
        assert usual is not None  # noqa: S101 - psycopg knows the type
        self._usual = usual(oid, context).load

    def load(self, data: Buffer) -> datetime:
        try:
            found: datetime = self._usual(data)
        except psycopg.DataError:
            written = bytes(data)
            return EARLIEST if written.startswith(b"-") or written.endswith(b"BC") else LATEST
        return min(max(found, EARLIEST), LATEST)


def _read_every_instant(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    assert isinstance(connection, psycopg.Connection)  # noqa: S101 - `connect` made it
    connection.adapters.register_loader("timestamptz", _Instants)


def _note_rest(_: object, entry: ConnectionPoolEntry) -> None:
    entry.info["rests_since"] = time.monotonic()


def _check_rested(engine: Engine, fresh_s: float, lent: DBAPIConnection, entry: ConnectionPoolEntry, _: object) -> None:
    now = time.monotonic()
    if now - entry.info.get("rests_since", now) < fresh_s:
        return
    try:
        engine.dialect.do_ping(lent)
    except engine.dialect.loaded_dbapi.Error as err:
        raise DisconnectionError from err  # the pool takes another one


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Open one transaction that commits when the block ends.

    Raises:
        LedgerUnavailable: Postgres is away, too busy or ended the transaction; the block may be run again.
    """
    with _translated(engine), engine.begin() as connection:
        yield connection


@contextmanager
def statement(engine: Engine) -> Iterator[Connection]:
    """Lend a connection on which each statement is a transaction of its own: one round trip instead of three.

    Raises:
        LedgerUnavailable: As `transaction`.
    """
    with _translated(engine), engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


def fetch(connection: Connection, sql: TextClause, values: Mapping[str, Any]) -> list[Any]:
    """Carry out one statement that is asked very often and return its rows, as named tuples.

    `connection.execute` does the same and takes twice the time of the processor: measured, 0.1 ms more.

    Raises:
        DBAPIError: As `connection.execute`; `statement` and `transaction` tell which of them mean an absent ledger.
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 - `connect` made it
    try:
        with driver.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(_as_psycopg_writes_it(sql, connection.dialect), values).fetchall()
    except psycopg.Error as err:
        if driver.closed:
            connection.invalidate(err)
        raise DBAPIError.instance(
            str(sql), None, err, psycopg.Error, hide_parameters=True, connection_invalidated=driver.closed
        ) from err


@cache
def _as_psycopg_writes_it(sql: TextClause, dialect: Dialect) -> str:
    return str(sql.compile(dialect=dialect))


def require_session(connection: Connection) -> None:
    """Make sure that the connection leads to Postgres itself and has the settings that `connect` asked for.

    Raises:
        LedgerUnusable: A pooler dropped them.
    """
    if connection.scalar(text("SELECT current_setting('entrega.session', true)")) != "ours":
        raise LedgerUnusable(POOLER)


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeout) as err:
        if "unsupported startup parameter" in str(err):  # PgBouncer's words
            raise LedgerUnusable(POOLER) from err
        if isinstance(err, DBAPIError) and not (isinstance(err, _AWAY) or err.connection_invalidated):
            raise
        where = engine.url.render_as_string(hide_password=True).partition("?")[0]
        cause = type(getattr(err, "orig", None) or err).__name__
        advice = "check that Postgres runs there"
        if "server does not support SSL" in str(err):
            advice = "it offers no encrypted line; set up TLS, or ENTREGA_PRIVATE_NETWORK=true in a private network"
        raise LedgerUnavailable(f"the ledger at {where} did not carry out a transaction ({cause}); {advice}") from err
