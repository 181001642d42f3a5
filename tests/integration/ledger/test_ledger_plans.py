"""However much waits, the statements of the hot path and of upkeep find what they need through an index.

Times are the business of `make bench-claims`; here the plans are read.
"""

import pytest
from pydantic_core import to_json
from sqlalchemy import text

from delivery.ids import new_id
from delivery.producers import DEFAULT
from ledger import backlogs, endings, entries, order_hints, store
from ledger import statements as sql_of
from tests.integration.conftest import new

FILL = """
    INSERT INTO deliveries (id, kind, account, producer, state, priority, next_at, expires_at, hold_uncertain,
                            order_key, person, recipient)
    SELECT uuidv7(), 'create_lead', 'crm:default', 'tests', CASE WHEN n % 5 = 0 THEN 'succeeded' ELSE 'waiting' END,
           n % 3, now() + (random() - 0.1) * interval '10 hours', now() + interval '1 day', 0,
           CASE WHEN n % 20 = 3 THEN md5((n / 1000)::text) END, sha256(n::text::bytea), 'a***@exemplo.com.br'
    FROM generate_series(1, 20000) n
"""
LANE = {"account": "crm:default", "kind": "create_lead", "stale_s": 8.0, "most": 100}
ENDING = endings.Ending(new_id(), 1, "succeeded", "succeeded", "ok")
PLANS = {
    "claim": (
        sql_of.CLAIM,
        {"ids": [new_id()], "here": "sandbox", "worker": "w1", "leases": '{"create_lead": 45}'},
        {"pk_deliveries"},
    ),
    "settle": (sql_of.SETTLE, endings.rows_of([ENDING]) | {"short_s": 30}, {"pk_deliveries", "pk_attempts"}),
    "backlogs": (backlogs._BACKLOGS, LANE, {"ix_deliveries_due", "ix_deliveries_keyed_due"}),
    "take": (backlogs._TAKE, LANE, {"ix_deliveries_due"}),
    "take in order": (order_hints._FIRST_DUE, LANE, {"ix_deliveries_keyed_due", "ix_deliveries_order_key"}),
    "heads": (order_hints._HEADS_DUE, LANE | {"taken": []}, {"ix_deliveries_order_key"}),
    "leases": (sql_of.FREE_LEASES, {"idempotent": [], "retries": 3}, {"ix_deliveries_lease"}),
    "expire": (sql_of.EXPIRE, {}, {"ix_deliveries_expiry"}),
    "shelve": (backlogs._SHELVE, {"most": 100}, {"ix_deliveries_due", "ix_deliveries_keyed_due"}),
}


@pytest.fixture
def crowded(database):
    with database.begin() as connection:
        connection.execute(text("INSERT INTO accounts (name) VALUES ('crm:default')"))
        connection.execute(text(FILL))
    with database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM ANALYZE deliveries, accounts"))
        yield connection


def opening(connection, ledger):
    entry = ledger._entry(new(policy=DEFAULT))
    row = entries.new_row(entry, ledger.vault.data_keys([entry.person])[entry.person], None, 0, environment="sandbox")
    values = {"rows": to_json([row]).decode(), "wanted": to_json(entries.wanted_keys(entry)).decode()} | store._LOOP
    return "\n".join(each[0] for each in connection.execute(text(f"EXPLAIN {sql_of.OPEN.text}"), values))


def test_the_loop_guard_reads_the_same_content_of_one_person_alone(crowded, ledger):
    plan = opening(crowded, ledger)

    assert "Seq Scan on deliveries" not in plan, plan
    assert "Index Only Scan using ix_deliveries_same" in plan or "Index Scan using ix_deliveries_same" in plan, plan


@pytest.mark.parametrize("name", ["claim", "settle"])
def test_a_plan_of_the_hot_path_that_was_made_on_the_first_day_serves_the_second(database, name):
    statement, values, indexes = PLANS[name]
    with database.begin() as connection:
        connection.execute(text("TRUNCATE deliveries, people CASCADE"))
        rows = connection.execute(text(f"EXPLAIN {statement.text}"), values)
        plan = "\n".join(row[0] for row in rows)

    assert "Seq Scan on deliveries" not in plan, plan
    assert "Seq Scan on attempts" not in plan, plan
    assert {each for each in indexes if each not in plan} == set(), plan


def test_a_plan_that_was_made_on_the_first_day_serves_the_second(database, ledger):
    with database.begin() as connection:
        connection.execute(text("TRUNCATE deliveries, people CASCADE"))  # as new: no pages, no statistics
        plan = opening(connection, ledger)

    assert "Seq Scan on" not in plan, plan
    assert "ix_deliveries_same" in plan, plan
    assert "ix_deliveries_producer" not in plan, plan


@pytest.mark.parametrize("name", PLANS)
def test_no_statement_scans_what_waits(crowded, name):
    statement, values, indexes = PLANS[name]

    rows = crowded.execute(text(f"EXPLAIN {statement.text}"), values)

    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan on deliveries" not in plan, plan
    assert {each for each in indexes if each not in plan} == set(), plan
