"""A Postgres that ends at once: what was settled stays settled, because a settlement waits for the disk (ADR 0021)."""

from contextlib import contextmanager

import pytest
from sqlalchemy import text

from delivery.outcomes import Receipt, Succeeded
from delivery.ports import Settlement
from ledger.database import connect, statement
from ledger.schema import migrate
from ledger.sealing import MasterKeys
from ledger.store import PostgresLedger
from ledger.vault import Vault
from sandbox.postgres import temporary_postgres
from tests.integration.conftest import claim, letter, new


@contextmanager
def connected(server):
    database = connect(server.url)
    try:
        yield database
    finally:
        database.dispose()


def ledger_on(database):
    return PostgresLedger(database, Vault(database, MasterKeys([bytes(32)])))


def configure(server, **settings):
    with connected(server) as database, statement(database) as connection:
        for name, value in settings.items():
            connection.execute(text(f"ALTER SYSTEM SET {name} = '{value}'"))
    server.restart()


@pytest.fixture
def server():
    with temporary_postgres(durable=True) as server:
        yield server


@pytest.mark.parametrize(("waits", "state"), [("on", "succeeded"), ("off", "attempting")])
def test_what_is_settled_when_postgres_dies_stays_settled_only_where_the_disk_was_waited_for(server, waits, state):
    accepted = new(letter())
    with connected(server) as database:
        migrate(database)
        ledger_on(database).open([accepted])
        (claimed,) = claim(ledger_on(database), accepted.id)
    # Nobody else writes the log to the disk in the meantime.
    configure(server, wal_writer_delay="10s", synchronous_commit=waits)

    with connected(server) as database:
        settled = ledger_on(database).settle([Settlement(claimed, Succeeded(Receipt("250 ok")))])
        server.kill()
    server.start()

    assert settled == {accepted.id}
    with connected(server) as database, statement(database) as connection:
        assert connection.scalar(text("SELECT state FROM deliveries")) == state
