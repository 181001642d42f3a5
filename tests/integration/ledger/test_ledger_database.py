"""The schema's steps, and how the ledger speaks when Postgres is away."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from delivery.errors import LedgerUnavailable
from ledger.database import connect, statement, transaction
from ledger.producer_models import metadata
from ledger.schema import check_schema, migrate


def test_the_steps_lead_to_what_the_models_say(migrated):
    with migrated.begin() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)

    assert found == []


def test_migrating_again_changes_nothing(migrated):
    before, after = migrate(migrated)

    assert before == after
    check_schema(migrated)


def test_an_empty_database_says_what_to_run(migrated, postgres_url):
    with migrated.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE empty"))
    empty = connect(postgres_url.rsplit("/", 1)[0] + "/empty")

    with pytest.raises(LedgerUnavailable, match="run: entrega migrate"):
        check_schema(empty)

    empty.dispose()


def test_postgres_away_is_said_without_the_password():
    away = connect("postgresql://entrega:segredo@127.0.0.1:1/entrega")

    with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1:1") as caught, transaction(away):
        pass

    assert "segredo" not in str(caught.value)


def test_a_broken_statement_is_our_fault_and_not_the_ledgers(migrated):
    with pytest.raises(Exception, match="nowhere") as caught, transaction(migrated) as connection:
        connection.execute(text("SELECT * FROM nowhere"))

    assert not isinstance(caught.value, LedgerUnavailable)


def test_a_connection_that_died_at_rest_is_replaced_without_a_word(migrated, postgres_url):
    rested = connect(postgres_url, fresh_s=0)
    with transaction(rested) as connection:
        ended = connection.scalar(text("SELECT pg_backend_pid()"))
    with transaction(migrated) as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": ended})

    with transaction(rested) as connection:
        found = connection.scalar(text("SELECT pg_backend_pid()"))

    rested.dispose()
    assert found != ended


def test_each_statement_stands_by_itself_even_when_the_next_one_fails(migrated):
    with statement(migrated) as connection:
        connection.execute(text("CREATE TABLE stands ()"))
        with pytest.raises(Exception, match="nowhere"):
            connection.execute(text("SELECT * FROM nowhere"))

    with transaction(migrated) as connection:
        connection.execute(text("DROP TABLE stands"))  # fails when there is none
