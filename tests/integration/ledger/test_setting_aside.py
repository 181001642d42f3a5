"""One event that always fails costs itself only: it is tried again, then set aside, counted, and listed."""

from datetime import UTC, datetime, timedelta

import pytest

from delivery.inbound import Event
from ledger.callbacks import Callbacks
from ledger.inbound import Inbound
from ledger.setting_aside import MOST_TRIES, SetAside
from tests.integration.conftest import claim, lead, new
from tests.integration.ledger.test_ledger_callbacks import SENT, ended
from tests.integration.ledger.test_ledger_inbound import ACCOUNT, message, opened


class Picky:
    """A forwarder that cannot forward what one person said."""

    def __init__(self):
        self.told = []

    def forward(self, connection, heard):
        said = [each.content["written_by_contact"]["text"] for each in heard]
        if "veneno" in said:
            raise RuntimeError("no word of a person here")
        self.told += said
        return ()


@pytest.fixture
def faults():
    return []


@pytest.fixture
def inbound(ledger, faults):
    return Inbound(ledger, Picky(), faults.append)


def said(n, text):
    return message(n, content={"from": "+5511999990001", "written_by_contact": {"text": text}})


def again(sql):
    sql("UPDATE inbound_events SET try_at = now(); UPDATE callback_events SET try_at = now()")


def left(sql):
    return [row.fault for row in sql("SELECT fault FROM inbound_events WHERE worked_at IS NULL ORDER BY id")]


def test_the_others_go_on_past_an_event_that_cannot_be_worked_on(inbound, faults, sql):
    inbound.keep(ACCOUNT, [said(n, "veneno" if n == 3 else f"Oi {n}") for n in range(9)])

    done = inbound.absorb(most=100)

    assert done.worked == 9
    assert sorted(inbound.forwarder.told) == [f"Oi {n}" for n in (0, 1, 2, 4, 5, 6, 7, 8)]
    assert left(sql) == ["RuntimeError"]
    assert [(each.table, each.cause, each.is_set_aside) for each in faults] == [
        ("inbound_events", "RuntimeError", False)
    ]


def test_it_is_tried_again_after_a_while_and_then_set_aside_and_listed(inbound, faults, database, sql):
    inbound.keep(ACCOUNT, [said(1, "veneno")])

    rounds = []
    for _ in range(MOST_TRIES + 2):
        rounds.append(inbound.absorb(most=100).worked)
        inbound.absorb(most=100)  # too early: it waits
        again(sql)

    (kept,) = SetAside(database).list()
    assert rounds == [1] * MOST_TRIES + [0, 0]
    assert [each.is_set_aside for each in faults] == [False] * (MOST_TRIES - 1) + [True]
    assert (kept.table, kept.account, kept.kind, kept.fault) == ("inbound_events", ACCOUNT, "message", "RuntimeError")
    assert SetAside(database).count() == 1


def test_a_fault_that_is_not_of_an_event_sets_none_aside(inbound, faults, sql):
    inbound.keep(ACCOUNT, [said(n, "veneno") for n in range(3)])

    with pytest.raises(RuntimeError):
        inbound.absorb(most=100)

    assert faults == []
    assert sql("SELECT sum(tries), count(set_aside_at) FROM inbound_events") == [(0, 0)]


def test_what_was_set_aside_is_worked_on_again_when_an_operator_asks(inbound, database, sql):
    inbound.keep(ACCOUNT, [said(1, "veneno")])
    for _ in range(MOST_TRIES):
        inbound.absorb(most=100)
        again(sql)
    told = Inbound(inbound.ledger)

    retried = SetAside(database).retry(actor="ana", reason="version 1.1 reads them")

    assert (retried, told.absorb(most=100).worked, SetAside(database).count()) == (1, 1, 0)
    assert sql("SELECT actor, action, reason FROM audit WHERE action = 'retried_set_aside'") == [
        ("ana", "retried_set_aside", "1 events: version 1.1 reads them")
    ]


def test_a_row_that_the_database_itself_refuses_stops_no_other(inbound, sql, faults):
    inbound.keep(ACCOUNT, [Event("template:1", "template", content={"name": "a", "language": "pt_BR"}), said(2, "Oi")])
    # A row of an earlier version, whose facts are no object with a name.
    sql("UPDATE inbound_events SET facts = CAST('[1]' AS jsonb) WHERE kind = 'template'")

    inbound.absorb(most=100)

    assert inbound.forwarder.told == ["Oi"]
    assert [each.cause for each in faults] == ["IntegrityError"]


def test_a_webhook_with_a_time_beyond_the_calendar_is_an_event_like_any_other(ledger, inbound, sql):
    id_ = opened(ledger, lead())
    late = datetime(2026, 11, 22, tzinfo=UTC)
    status = Event("status:1:sent", "status", delivery_id=id_, status="sent", receipt="1", at=late)
    inbound.keep("crm:default", [status])
    # As an earlier version stored it.
    sql("UPDATE inbound_events SET occurred_at = '10000-01-01T13:59:59Z', window_until = 'infinity'")
    inbound.keep(ACCOUNT, [said(2, "Oi")])

    done = inbound.absorb(most=100)

    assert (done.worked, inbound.forwarder.told, left(sql)) == (2, ["Oi"], [])


@pytest.fixture
def callbacks(ledger, faults):
    return Callbacks(ledger, timedelta(days=3), failed=faults.append)


def test_a_callback_that_cannot_be_written_holds_up_no_other_producer(ledger, callbacks, faults, database, sql):
    bad, good = (ended(ledger, SENT, n=n).order.delivery_id for n in (1, 2))
    sql("UPDATE callback_events SET event = 'no event!' WHERE delivery_id = :id", id=bad)

    hints = [len(callbacks.open_noted()), len(callbacks.open_noted())]

    assert hints == [1, 0]
    assert [(each.table, each.is_set_aside) for each in faults] == [("callback_events", False)]
    assert {row.delivery_id for row in sql("SELECT delivery_id FROM callback_events")} == {bad}
    assert good not in {row.delivery_id for row in sql("SELECT delivery_id FROM callback_events")}
    for _ in range(MOST_TRIES):
        again(sql)
        callbacks.open_noted()
    assert [(each.table, each.id, each.kind) for each in SetAside(database).list()] == [
        ("callback_events", str(bad), "no event!")
    ]


def test_a_later_event_of_the_same_delivery_waits_with_it(ledger, callbacks, sql):
    bad = ended(ledger, SENT).order.delivery_id
    sql("UPDATE callback_events SET event = 'no event!'")
    callbacks.open_noted()
    sql(
        "INSERT INTO callback_events (delivery_id, event, at, state, attempts)"
        " VALUES (:id, 'delivered', now(), 'succeeded', 1)",
        id=bad,
    )

    assert callbacks.open_noted() == []


def test_an_event_behind_one_that_was_set_aside_hides_no_other(ledger, callbacks, faults, sql):
    aside, bad = (ended(ledger, SENT, n=n).order.delivery_id for n in (1, 2))
    sql("UPDATE callback_events SET event = 'no event!'")
    sql("UPDATE callback_events SET set_aside_at = now() WHERE delivery_id = :id", id=aside)
    sql(
        "INSERT INTO callback_events (delivery_id, event, at, state, attempts)"
        " VALUES (:id, 'delivered', now(), 'succeeded', 1)",
        id=aside,
    )

    callbacks.open_noted(most=1)

    assert [each.table for each in faults] == ["callback_events"]
    assert sql("SELECT tries FROM callback_events WHERE delivery_id = :id", id=bad) == [(1,)]


def test_a_claimed_set_with_one_unreadable_payload_goes_on(ledger, sql, archive):
    bad, good = (each.id for each in ledger.open([new(lead(1)), new(lead(2))]))
    sql("UPDATE payloads SET body = '\\x00' WHERE delivery_id = :id", id=bad)

    claimed = claim(ledger, bad, good)

    assert [each.order.delivery_id for each in claimed] == [good]
    assert archive.find(bad).state == "dead"
