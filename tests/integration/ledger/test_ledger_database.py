"""The schema's steps, and how the ledger speaks when Postgres is away."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from delivery.errors import LedgerUnavailable, LedgerUnusable
from ledger.database import connect, fetch, statement, transaction
from ledger.producer_models import metadata
from ledger.schema import check_schema, lock_schema, migrate


def test_the_steps_lead_to_what_the_models_say(migrated):
    with migrated.begin() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)

    assert found == []


def test_migrating_again_changes_nothing(migrated):
    before, after = migrate(migrated)

    assert before == after
    check_schema(migrated)


def test_a_step_on_a_large_table_may_take_as_long_as_it_needs(migrated):
    with transaction(migrated) as connection:
        lock_schema(connection)
        limits = [connection.scalar(text(f"SHOW {name}")) for name in ("statement_timeout", "lock_timeout")]

    assert limits == ["0", "15s"]


def test_an_empty_database_says_what_to_run(migrated, postgres_url):
    with migrated.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE empty"))
    empty = connect(postgres_url.rsplit("/", 1)[0] + "/empty")

    with pytest.raises(LedgerUnavailable, match="run: entrega migrate"):
        check_schema(empty)

    empty.dispose()


@pytest.fixture
def made(migrated, postgres_url):
    """Make a database: `made("name", "its options")` returns a pool of connections to it."""
    pools = []

    def make(name, options=""):
        with migrated.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"CREATE DATABASE {name} {options}"))
        pools.append(connect(postgres_url.rsplit("/", 1)[0] + "/" + name))
        return pools[-1]

    yield make
    for each in pools:
        each.dispose()


@pytest.mark.parametrize("step", [check_schema, migrate])
def test_a_ledger_that_a_newer_version_migrated_is_left_alone_and_named(made, step):
    newer = made(f"newer_{step.__name__}")
    with transaction(newer) as connection:
        connection.execute(text("CREATE TABLE alembic_version AS SELECT '9999' AS version_num"))

    with pytest.raises(LedgerUnusable, match=r"newer than this program: .* revision 9999, .* install the version"):
        step(newer)


def test_a_database_that_is_not_utf8_is_refused_before_anything_is_made(made):
    ascii_only = made("ascii_only", "ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0")

    with pytest.raises(LedgerUnusable, match=r"encoding SQL_ASCII, and the ledger needs UTF8; .* CREATE DATABASE"):
        migrate(ascii_only)

    with transaction(ascii_only) as connection:
        assert connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")) == 0


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


def test_what_is_fetched_past_sqlalchemy_is_the_same(migrated):
    sql = text("SELECT unnest(CAST(:ids AS int[])) AS id, CAST(:word AS text) AS word")
    values = {"ids": [1, 2], "word": "100%"}

    with statement(migrated) as connection:
        assert fetch(connection, sql, values) == connection.execute(sql, values).all()


def test_a_broken_statement_that_is_fetched_is_our_fault_too(migrated):
    with pytest.raises(ProgrammingError, match="nowhere"), transaction(migrated) as connection:
        fetch(connection, text("SELECT * FROM nowhere"), {})


def test_a_connection_that_dies_while_it_fetches_is_the_ledger_away_and_replaced(postgres_url):
    engine = connect(postgres_url, pool_size=1)

    with pytest.raises(LedgerUnavailable), statement(engine) as connection:
        fetch(connection, text("SELECT pg_terminate_backend(pg_backend_pid())"), {})
    with statement(engine) as connection:
        found = fetch(connection, text("SELECT 1 AS one"), {})

    engine.dispose()
    assert found[0].one == 1


def test_each_statement_stands_by_itself_even_when_the_next_one_fails(migrated):
    with statement(migrated) as connection:
        connection.execute(text("CREATE TABLE stands ()"))
        with pytest.raises(Exception, match="nowhere"):
            connection.execute(text("SELECT * FROM nowhere"))

    with transaction(migrated) as connection:
        connection.execute(text("DROP TABLE stands"))  # fails when there is none


def test_a_server_without_tls_says_what_to_do_where_tls_is_wanted(postgres_url):
    wanting = connect(f"{postgres_url}?sslmode=require")

    with pytest.raises(LedgerUnavailable, match="set up TLS, or ENTREGA_PRIVATE_NETWORK=true"):
        check_schema(wanting)

    wanting.dispose()


def test_statement_30_an_error_of_the_database_carries_no_parameters(database):
    with pytest.raises(DBAPIError) as told, transaction(database) as connection:
        connection.execute(text("SELECT 1 / CAST(:value AS int)"), {"value": 0, "other": "zefirina"})
    with pytest.raises(DBAPIError) as fetched, transaction(database) as connection:
        fetch(connection, text("SELECT 1 / length(:value)"), {"value": ""})

    assert [each.value.hide_parameters for each in (told, fetched)] == [True, True]
    assert "zefirina" not in str(told.value)
    assert "hidden due to hide_parameters" in str(told.value)
    assert not database.echo
