"""What the health tick and the sweep do for rollouts, against a real ledger."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from config.settings import load_settings
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded
from delivery.ports import Settlement
from ledger.alerts import Alerts
from ledger.rollouts import Rollouts
from tasks import app, health, sweep
from tasks.rollouts import rolled_back
from tests.integration.conftest import claim, lead, new

CRM = "crm:default"
WELL, REFUSED = Succeeded(Receipt("r")), Rejected("invalid", "422")
SLOW = timedelta(seconds=11)


@pytest.fixture
def rollouts(monkeypatch, ledger, database):
    settings = load_settings({"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"})
    hints = SimpleNamespace(backlog=lambda: None, publish=lambda hints: 0)
    parts = {"settings": settings, "ledger": ledger, "database": database, "hints": hints}
    for name, part in parts.items():
        monkeypatch.setitem(app.__dict__, name, part)
    monkeypatch.setitem(app.__dict__, "engine", SimpleNamespace(providers={}))
    found = Rollouts(database, actor="ana")
    found.begin(CRM, reason="version 2")
    return found


@pytest.fixture
def heard():
    told = []

    def hear(alert, **_):
        told.append(alert)

    rolled_back.connect(hear)
    yield told
    rolled_back.disconnect(hear)


def calls(ledger, n, outcome, *, duration=timedelta(), first=0):
    ids = [each.id for each in ledger.open([new(lead(first + number)) for number in range(n)])]
    ledger.settle([Settlement(each, outcome, duration=duration) for each in claim(ledger, *ids)])


def pass_hours(sql, hours, *tables):
    moved = {"switches": "at", "attempts": "started_at"}
    for table in tables:
        column = moved[table]
        sql(f"UPDATE {table} SET {column} = {column} - :hours * interval '1 hour'", hours=hours)  # noqa: S608


def actions(sql):
    return [tuple(row) for row in sql("SELECT actor, action FROM audit WHERE account = 'crm:default' ORDER BY id")]


def test_a_rollout_that_goes_well_stands(rollouts, ledger, sql, heard):
    pass_hours(sql, 1, "switches")
    calls(ledger, 19, WELL)
    calls(ledger, 1, REFUSED, first=50)

    health.run()

    assert [each.is_back for each in rollouts.standing()] == [False]
    assert (heard, actions(sql)) == ([], [("ana", "rollout_begun")])


def test_refused_calls_take_it_back_and_tell_why_and_what_to_do(rollouts, ledger, database, sql, heard):
    pass_hours(sql, 1, "switches")
    calls(ledger, 18, WELL)
    calls(ledger, 2, REFUSED, first=50)

    health.run()
    health.run()

    why = "the rollout was taken back: 2 of 20 calls failed, over 0.05 of them, with 10% of the deliveries"
    step = f"mend it, then: entrega rollout begin {CRM}; or let everything go: entrega rollout finish {CRM}"
    assert [(each.is_back, each.actor, each.reason) for each in rollouts.standing()] == [(True, "health", why)]
    assert actions(sql) == [("ana", "rollout_begun"), ("health", "rolled_back")]
    assert [(each.severity, each.code, each.reason, each.next_step) for each in heard] == [
        ("P1", "rollback", why, step)
    ]
    standing = [(each.account, each.next_step) for each in Alerts(database).open() if each.code == "rollback"]
    assert standing == [(CRM, step)]


def test_slow_calls_take_it_back_as_well(rollouts, ledger, sql, heard):
    pass_hours(sql, 1, "switches")
    calls(ledger, 20, WELL, duration=SLOW)

    health.run()

    assert "took 11 s (p95), over 10 s" in heard[0].reason


def test_a_few_failures_say_nothing(rollouts, ledger, sql, heard):
    pass_hours(sql, 1, "switches")
    calls(ledger, 19, REFUSED)

    health.run()

    assert [each.is_back for each in rollouts.standing()] == [False]


def test_what_failed_in_an_earlier_stage_is_no_fault_of_this_one(rollouts, ledger, sql, heard):
    calls(ledger, 40, REFUSED)
    pass_hours(sql, 1, "attempts")
    pass_hours(sql, 48, "switches")

    health.run()

    assert heard == []


def test_a_bad_hour_is_not_hidden_by_good_days(rollouts, ledger, sql, heard):
    calls(ledger, 500, WELL)
    pass_hours(sql, 5, "attempts")
    pass_hours(sql, 6, "switches")
    calls(ledger, 20, REFUSED, first=600)

    health.run()

    assert "20 of 20 calls failed" in heard[0].reason


def test_where_an_hour_holds_too_few_calls_a_day_is_looked_at(rollouts, ledger, sql, heard):
    calls(ledger, 15, REFUSED)
    pass_hours(sql, 5, "attempts")
    pass_hours(sql, 6, "switches")
    calls(ledger, 5, WELL, first=50)

    health.run()

    assert "15 of 20 calls failed" in heard[0].reason


def test_after_the_last_stage_it_is_completed_once(rollouts, ledger, sql, heard):
    calls(ledger, 40, REFUSED)
    pass_hours(sql, 3 * 48, "switches")

    health.run()
    health.run()

    assert (rollouts.standing(), heard) == ([], [])
    assert actions(sql) == [("ana", "rollout_begun"), ("health", "rollout_completed")]


def test_what_was_taken_back_stays_so_until_a_person_acts(rollouts, ledger, sql, heard):
    rollouts.back(CRM, reason="tags are missing")
    pass_hours(sql, 1000, "switches")

    health.run()

    assert [each.is_back for each in rollouts.standing()] == [True]


def test_a_service_without_a_form_is_left_alone(rollouts, heard):
    rollouts.begin("fax:default", reason="no such form")

    health.run()

    assert len(rollouts.standing()) == 2


def test_the_sweep_gives_time_before_it_ends_what_is_overdue(rollouts, ledger, archive, sql):
    (opened,) = ledger.open([new()])
    held_back = Deferred("rollout", timedelta(seconds=60), "waits", burned=False, paced=True, lone=True)
    ledger.settle([Settlement(each, held_back) for each in claim(ledger, opened.id)])
    sql("UPDATE deliveries SET expires_at = now() - interval '1 minute'")

    sweep.run()

    assert archive.find(opened.id).state == "waiting"


def test_a_ledger_too_busy_to_judge_keeps_nobody_from_probing(rollouts, archive, database, monkeypatch, sql):
    pass_hours(sql, 1, "switches")
    provider = SimpleNamespace(probe=lambda: "token accepted")
    monkeypatch.setitem(app.__dict__, "engine", SimpleNamespace(providers={CRM: provider}))

    with database.begin() as connection:
        connection.execute(text("LOCK TABLE attempts IN ACCESS EXCLUSIVE MODE"))
        health.run()

    assert [(each.name, each.health) for each in archive.accounts()] == [(CRM, "ok")]
    assert [each.is_back for each in rollouts.standing()] == [False]
