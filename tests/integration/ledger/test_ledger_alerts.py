"""Open alerts in Postgres, and accounts that the system holds."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from delivery.alerts import Alert
from delivery.outcomes import Rejected
from delivery.ports import Settlement
from ledger.alerts import Alerts
from tests.integration.conftest import claim, lead, new

QUIET = timedelta(minutes=10)
ALERT = Alert("P1", "crm:default", "crm", "unauthorized", "the token was refused", "give a new one")


@pytest.fixture
def alerts(database):
    return Alerts(database)


def hold(ledger, *numbers):
    opened = ledger.open([new(lead(n)) for n in numbers])
    claimed = claim(ledger, *(each.id for each in opened))
    ledger.settle([Settlement(each, Rejected("unauthorized", "the token was refused", held=True)) for each in claimed])


def test_of_all_workers_one_tells(alerts):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: alerts.record(ALERT, quiet=QUIET), range(16)))

    assert sorted(found) == [False] * 15 + [True]


def test_what_is_over_is_forgotten(alerts):
    alerts.record(ALERT, quiet=QUIET)

    alerts.end(ALERT.account, ALERT.code)

    assert (alerts.open(), alerts.record(ALERT, quiet=QUIET)) == ([], True)


def test_it_is_told_again_after_a_while_and_stands_since_the_first_time(alerts, sql):
    alerts.record(ALERT, quiet=QUIET)
    sql("UPDATE alerts SET first_at = first_at - interval '11 minutes', last_at = last_at - interval '11 minutes'")

    again = alerts.record(ALERT, quiet=QUIET)

    (found,) = alerts.open()
    assert again is True
    assert found.last_at - found.first_at > timedelta(minutes=10)


def test_what_nobody_repeats_is_over_after_an_hour(alerts, sql):
    alerts.record(ALERT, quiet=QUIET)

    sql("UPDATE alerts SET last_at = last_at - interval '61 minutes'")

    assert alerts.open() == []


def test_the_alert_of_a_held_account_stands_until_it_is_resumed(ledger, alerts, desk, sql):
    hold(ledger, 1)
    alerts.record(ALERT, quiet=QUIET)
    sql("UPDATE alerts SET last_at = last_at - interval '3 days'")
    before = [each.code for each in alerts.open()]

    desk.resume("crm:default", reason="new credential")

    assert before == ["unauthorized"]
    assert alerts.open() == []
    assert alerts.record(ALERT, quiet=QUIET) is True


def test_an_account_that_the_system_holds_leaves_one_audit_row(ledger, archive, sql):
    hold(ledger, 1, 2, 3)

    (account,) = archive.accounts()
    assert (account.held_code, account.held_at is not None) == ("unauthorized", True)
    assert [tuple(row) for row in sql("SELECT actor, action, account, reason FROM audit WHERE action = 'held'")] == [
        ("system", "held", "crm:default", "the token was refused")
    ]


def test_a_pause_by_a_person_has_no_code_and_is_not_taken_over(ledger, archive, desk):
    opened = ledger.open([new(lead(1))])
    claimed = claim(ledger, opened[0].id)
    desk.pause("crm:default", reason="the CRM moves tonight")

    ledger.settle([Settlement(claimed[0], Rejected("unauthorized", "the token was refused", held=True))])

    (account,) = archive.accounts()
    assert (account.held_reason, account.held_code) == ("the CRM moves tonight", None)
