"""The purge: nothing is older than its period, nothing open goes, and the books balance."""

import time
from datetime import timedelta

import pytest

from config.retention import Periods
from delivery.ids import new_id
from delivery.inbound import Event
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Settlement
from ledger.letters import LetterFilter, Letters, Signed
from ledger.models import OPEN_STATES
from ledger.replays import Replays, StopRule
from ledger.retention import Retention
from tests.integration.conftest import claim, lead, new

PERIODS = Periods(
    payloads=timedelta(days=30), dead_letters=timedelta(days=90), events=timedelta(days=30), records=timedelta(days=400)
)
OUTCOMES = {
    "succeeded": Succeeded(Receipt("LEAD-1")),
    "dead": Rejected("invalid", "no"),
    "waiting": Deferred("unavailable", timedelta(hours=1), "busy"),
    "uncertain": Uncertain("answer_lost", "no"),
    "held": Rejected("unauthorized", "no", held=True),
}
ENDED = ("succeeded", "dead", "canceled", "expired")


@pytest.fixture
def retention(database):
    return Retention(database, PERIODS)


@pytest.fixture
def aged(ledger, sql):
    """Return a function that makes a delivery in a state, accepted and ended so many days ago."""

    def make(state, days):
        id_ = new_id(now_ms=round((time.time() - days * 86400) * 1000))
        made = new(lead(id_.int % 10**9), id=id_)
        ledger.open([made])
        if state in OUTCOMES or state == "attempting":
            (claimed,) = claim(ledger, id_)
            if state != "attempting":
                ledger.settle([Settlement(claimed, OUTCOMES[state])])
        if state in ("canceled", "expired"):
            sql("UPDATE deliveries SET state = :state, settled_at = now() WHERE id = :id", state=state, id=id_)
        sql("UPDATE accounts SET held_reason = NULL")
        back = timedelta(days=days)
        sql(
            "UPDATE deliveries SET created_at = created_at - :back, settled_at = settled_at - :back,"
            " next_at = next_at - :back, expires_at = expires_at - :back WHERE id = :id",
            back=back, id=id_,
        )  # fmt: skip
        return id_

    return make


def left(sql, table, column="id"):
    return {row[0] for row in sql(f"SELECT {column} FROM {table}")}  # noqa: S608 - names of our own


def balanced(archive):
    verdict = archive.verify()
    return not verdict.faults and verdict.accepted == sum(verdict.states.values())


def test_statement_47_nothing_is_older_than_its_period_after_the_purge(retention, aged, inbound, ledger, archive, sql):
    for state in ENDED:
        aged(state, 500)
        aged(state, 100)
    inbound.keep("whatsapp:default", [Event("m1", "message", person="+5511999990001", content={"from": "x"})])
    inbound.absorb(most=10)
    sql("UPDATE inbound_events SET at = now() - interval '31 days'")
    sql("UPDATE idempotency SET kept_until = now() - interval '4 hours'")

    before = retention.overdue()
    gone = retention.purge()

    assert before == {"payloads": 8, "events": 1, "keys": 8, "records": 4}
    assert gone == before | {"payloads": 8}
    assert retention.overdue() == {}
    assert sql("SELECT count(*) FROM idempotency") == [(0,)]
    assert balanced(archive)


@pytest.mark.parametrize("state", OPEN_STATES)
def test_what_is_open_is_never_purged_however_old(retention, aged, inbound, archive, sql, state):
    id_ = aged(state, 1000)
    inbound.keep("crm:default", [Event("s1", "status", delivery_id=id_, status=None)])
    inbound.absorb(most=10)
    sql("UPDATE inbound_events SET at = now() - interval '999 days'")

    gone = retention.purge()

    assert gone.keys() <= {"keys"}
    assert archive.find(id_).state == state
    assert left(sql, "payloads", "delivery_id") == {id_}
    assert left(sql, "inbound_events", "delivery_id") == {id_}


@pytest.mark.parametrize(("state", "days", "kept"), [
    ("succeeded", 29, True), ("succeeded", 31, False), ("canceled", 31, False), ("expired", 31, False),
    ("dead", 31, True), ("dead", 89, True), ("dead", 91, False),
])  # fmt: skip
def test_a_payload_stays_for_its_period_and_the_delivery_longer(retention, aged, sql, state, days, kept):
    id_ = aged(state, days)

    retention.purge()

    assert left(sql, "payloads", "delivery_id") == ({id_} if kept else set())
    assert left(sql, "deliveries") == {id_}


def test_a_period_begins_at_the_end_and_not_when_the_command_came(retention, aged, sql):
    id_ = aged("succeeded", 500)
    sql("UPDATE deliveries SET settled_at = now() - interval '1 day'")

    retention.purge()

    assert left(sql, "payloads", "delivery_id") == left(sql, "deliveries") == {id_}


def test_the_books_balance_after_a_purge_and_a_row_that_vanishes_is_still_found(retention, aged, archive, sql):
    for state in (*ENDED, "waiting"):
        aged(state, 500)
    kept = aged("succeeded", 1)
    before = archive.verify()

    retention.purge()

    after = archive.verify()
    assert left(sql, "attempts", "delivery_id") == left(sql, "deliveries")
    assert (after.accepted, after.states, after.faults) == (before.accepted, before.states, {})
    sql("DELETE FROM deliveries WHERE id = :id", id=kept)
    assert archive.verify().faults == {"vanished": 1}


def test_a_dead_letter_whose_payload_was_purged_says_so(retention, aged, ledger):
    id_ = aged("dead", 91)
    retention.purge()

    found = Letters(ledger, "ana").view(id_, reason="a look")

    assert (found.stored, "ENTREGA_KEEP" in found.closed) == (None, True)


def test_a_letter_that_is_replayed_during_the_purge_keeps_its_payload(retention, aged, ledger, database, sql):
    id_ = aged("dead", 91)
    with database.begin() as connection:
        connection.exec_driver_sql("SELECT 1 FROM deliveries FOR UPDATE")

        assert retention.purge() == {}

    assert Letters(ledger, "ana").replay([id_], reason="again").ids == (id_,)
    assert retention.purge() == {}
    assert left(sql, "payloads", "delivery_id") == {id_}


def test_more_than_one_round_is_purged(retention, aged, sql, monkeypatch):
    monkeypatch.setattr("ledger.retention._AT_ONCE", 2)
    for _ in range(5):
        aged("succeeded", 500)

    assert retention.purge()["records"] == 5


def test_old_replays_go(retention, aged, database, sql):
    aged("dead", 1)
    replays = Replays(database)
    replays.start(LetterFilter(), Signed("ana", "again"), pace=None, stop=StopRule(), most=10)
    sql("UPDATE replays SET stopped_at = now() - interval '401 days'")

    assert retention.purge() == {"replays": 1}


def test_a_fresh_ledger_owes_nothing(retention):
    assert (retention.overdue(), retention.purge()) == ({}, {})
