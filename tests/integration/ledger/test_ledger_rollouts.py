"""Rollouts in the ledger: one row for each account, changed by one of many, and no time that runs out meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from delivery.alerts import Alert
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Settlement
from ledger.alerts import Alerts
from ledger.rollouts import Rollouts
from tests.integration.conftest import claim, lead, letter, new

CRM = "crm:default"
ALERT = Alert("P1", CRM, "crm", "rollback", "2 of 20 calls failed", "mend it")
HELD_BACK = Deferred("rollout", timedelta(seconds=60), "this one waits", burned=False, paced=True, lone=True)
DAY = timedelta(days=1)


@pytest.fixture
def rollouts(database):
    return Rollouts(database, actor="ana")


def audit(sql):
    return [tuple(row) for row in sql("SELECT actor, action, account, reason FROM audit ORDER BY id")]


def settle(ledger, outcome, *numbers, duration=timedelta(), command=lead):
    ids = [each.id for each in ledger.open([new(command(n)) for n in numbers])]
    ledger.settle([Settlement(each, outcome, duration=duration) for each in claim(ledger, *ids)])
    return ids


def test_a_rollout_begins_once_and_is_on_record(rollouts, sql):
    first = rollouts.begin(CRM, reason="version 2")
    again = rollouts.begin(CRM, reason="version 3")

    (found,) = rollouts.standing()
    assert (first, again) == (True, False)
    assert (found.account, found.is_back, found.actor, found.reason) == (CRM, False, "ana", "version 2")
    assert timedelta() <= found.age < timedelta(minutes=5)
    assert audit(sql) == [("ana", "rollout_begun", CRM, "version 2")]


def test_its_age_goes_by_the_ledgers_clock(rollouts, sql):
    rollouts.begin(CRM, reason="version 2")
    sql("UPDATE switches SET at = at - interval '3 hours'")

    (found,) = rollouts.standing()

    assert found.age >= timedelta(hours=3)


def test_what_was_finished_is_gone_and_can_begin_again(rollouts, sql):
    rollouts.begin(CRM, reason="version 2")

    finished, again = rollouts.finish(CRM, reason="well"), rollouts.finish(CRM, reason="well")

    assert (finished, again, rollouts.standing()) == (True, False, [])
    assert rollouts.begin(CRM, reason="version 3")
    assert [row[1] for row in audit(sql)] == ["rollout_begun", "rollout_finished", "rollout_begun"]


def test_an_operator_takes_it_back_and_begins_again_from_the_first_stage(rollouts, sql):
    rollouts.begin(CRM, reason="version 2")
    sql("UPDATE switches SET at = at - interval '3 hours'")

    back, again = rollouts.back(CRM, reason="tags are missing"), rollouts.back(CRM, reason="again")
    (stood,) = rollouts.standing()
    rollouts.begin(CRM, reason="mended")
    (stands,) = rollouts.standing()

    assert (back, again) == (True, False)
    assert (stood.is_back, stood.reason, stands.is_back) == (True, "tags are missing", False)
    assert stands.age < timedelta(hours=1)
    assert [row[1] for row in audit(sql)] == ["rollout_begun", "rolled_back", "rollout_begun"]


def test_nothing_is_taken_back_where_no_rollout_is_under_way(rollouts, sql):
    assert not rollouts.back(CRM, reason="never begun")
    assert (rollouts.standing(), audit(sql)) == ([], [])


def test_of_many_beats_one_takes_it_back_and_tells(rollouts, database, sql):
    rollouts.begin(CRM, reason="version 2")
    (found,) = rollouts.standing()

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: rollouts.take_back(found, ALERT), range(16)))

    assert sum(done) == 1
    assert [(each.account, each.is_back) for each in rollouts.standing()] == [(CRM, True)]
    assert [each.code for each in Alerts(database).open()] == ["rollback"]
    assert [row[1] for row in audit(sql)] == ["rollout_begun", "rolled_back"]


def test_of_many_beats_one_completes_it(rollouts, sql):
    rollouts.begin(CRM, reason="version 2")
    (found,) = rollouts.standing()

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: rollouts.complete(found), range(16)))

    assert (sum(done), rollouts.standing()) == (1, [])
    assert [row[1] for row in audit(sql)] == ["rollout_begun", "rollout_completed"]


def test_what_was_begun_anew_meanwhile_is_not_judged_by_what_came_before(rollouts):
    rollouts.begin(CRM, reason="version 2")
    (old,) = rollouts.standing()
    rollouts.finish(CRM, reason="broken")
    rollouts.begin(CRM, reason="version 3")

    assert (rollouts.take_back(old, ALERT), rollouts.complete(old)) == (False, False)
    assert [(each.is_back, each.reason) for each in rollouts.standing()] == [(False, "version 3")]


def test_an_account_never_has_two_standings_whoever_acts_at_once(rollouts):
    acts = [
        lambda: rollouts.begin(CRM, reason="on"),
        lambda: rollouts.back(CRM, reason="back"),
        lambda: rollouts.begin(CRM, reason="on"),
        lambda: rollouts.finish(CRM, reason="off"),
    ]

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda n: (acts[n % 4](), len(rollouts.standing()))[1], range(80)))

    assert max(seen) <= 1


def test_its_alert_stands_until_somebody_begins_or_finishes(rollouts, database, sql):
    alerts = Alerts(database)
    rollouts.begin(CRM, reason="version 2")
    rollouts.take_back(rollouts.standing()[0], ALERT)
    sql("UPDATE alerts SET last_at = last_at - interval '3 days'")
    before = [each.code for each in alerts.open()]

    rollouts.begin(CRM, reason="mended")

    assert (before, alerts.open()) == (["rollback"], [])


def test_what_is_held_back_spends_no_attempt_and_leaves_no_line(ledger, archive):
    (id_,) = settle(ledger, HELD_BACK, 1)

    found = archive.find(id_)

    assert (found.state, found.code, found.attempts, found.timeline) == ("waiting", "rollout", 0, ())


def test_figures_are_of_one_account_within_the_span_and_of_what_says_something(ledger, rollouts, sql):
    old = settle(ledger, Rejected("invalid", "no"), 1)
    sql("UPDATE attempts SET started_at = started_at - interval '2 hours' WHERE delivery_id = :id", id=old[0])
    settle(ledger, Succeeded(Receipt("r")), 2, 3, 4, 5, 6, 7, duration=timedelta(seconds=1))
    settle(ledger, Rejected("invalid", "no"), 8, duration=timedelta(seconds=3))
    settle(ledger, Deferred("unavailable", timedelta(seconds=1), "503"), 9, duration=timedelta(seconds=2))
    settle(ledger, Uncertain("answer_lost", "cut"), 10, duration=timedelta(seconds=9))
    settle(ledger, Deferred("rate_limited", timedelta(seconds=1), "429"), 11, duration=timedelta(seconds=30))
    settle(ledger, HELD_BACK, 12)
    settle(ledger, Rejected("invalid", "no"), 13, command=letter)
    claim(ledger, *(each.id for each in ledger.open([new(lead(14))])))

    short, long = (rollouts.figures(CRM, span=timedelta(hours=hours)) for hours in (1, 3))

    assert (short.calls, short.failures, short.p95) == (9, 3, timedelta(seconds=9))
    assert (long.calls, long.failures) == (10, 4)


def test_figures_of_an_account_that_made_no_call_are_none(rollouts):
    found = rollouts.figures(CRM, span=DAY)

    assert (found.calls, found.failures, found.p95) == (0, 0, None)


def test_the_time_of_what_a_rollout_holds_back_does_not_run_out(ledger, archive, rollouts, sql):
    rollouts.begin(CRM, reason="version 2")
    (held,) = settle(ledger, HELD_BACK, 1)
    (other,) = settle(ledger, Deferred("unavailable", timedelta(0), "503", parked=True), 2)
    sql("UPDATE deliveries SET expires_at = now() + interval '10 minutes'")

    rollouts.give_time()

    left = {each: archive.find(each).expires_at - archive.find(each).created_at for each in (held, other)}
    assert left[held] >= DAY
    assert left[other] < timedelta(hours=1)


def test_while_it_is_back_no_time_of_its_account_runs_out(ledger, archive, rollouts, sql):
    ids = [each.id for each in ledger.open([new(lead(1)), new(letter(1))])]
    rollouts.begin(CRM, reason="version 2")
    rollouts.back(CRM, reason="tags are missing")
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second', lifetime = '5 minutes'")

    rollouts.give_time()
    ledger.sweep(idempotent=["create_lead"], lease_retries=3)

    assert [archive.find(each).state for each in ids] == ["ready", "expired"]


def test_time_is_given_to_any_number(ledger, rollouts, sql, monkeypatch):
    monkeypatch.setattr("ledger.rollouts._AT_ONCE", 7)
    settle(ledger, HELD_BACK, *range(20))
    rollouts.begin(CRM, reason="version 2")
    sql("UPDATE deliveries SET expires_at = now()")

    rollouts.give_time()

    assert sql("SELECT count(*) FROM deliveries WHERE expires_at > now()") == [(20,)]
