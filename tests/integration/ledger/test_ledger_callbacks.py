"""What a delivery's producer is told: noted in the transaction that changes it, opened once and in order."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Conclusion, Settlement
from ledger.callbacks import Callbacks, Event
from ledger.canceling import cancel
from ledger.doubts import PostgresDoubts
from ledger.fallbacks import Fallbacks
from ledger.inbound import Inbound
from tests.integration.conftest import claim, lead, new

URL = "https://loja.exemplo.com.br/retorno?token=inventado"
SENT = Succeeded(Receipt("LEAD-1"))
REFUSED = Rejected("invalid", "no")
HOUR = timedelta(hours=1)
FALLBACK = {"kind": "send_email", "to": "ana.teste@exemplo.com.br", "subject": "Oi", "text": "Olá"}


@pytest.fixture
def callbacks(ledger):
    return Callbacks(ledger, expires_in=timedelta(days=3))


def opened(ledger, n=1, **options):
    (row,) = ledger.open([new(lead(n, callback_url=URL, **options))])
    return row.id


def ended(ledger, outcome, **options):
    id_ = opened(ledger, **options)
    (claimed,) = claim(ledger, id_)
    ledger.settle([Settlement(claimed, outcome)])
    return claimed


def noted(sql):
    return [row.event for row in sql("SELECT event FROM callback_events ORDER BY id")]


def told(ledger, callbacks):
    return [each.order.command for each in claim(ledger, *[hint.id for hint in callbacks.open_noted()])]


def overdue(sql):
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second'")


def report(sql, id_, status):
    sql(
        "INSERT INTO inbound_events (account, key, delivery_id, status, receipt)"
        " VALUES ('crm:default', :key, :id, :status, 'r-1')", key=f"{id_}{status}", id=id_, status=status,
    )  # fmt: skip


# --- each transition is noted -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "events"),
    [
        (SENT, ["succeeded"]),
        (REFUSED, ["dead"]),
        (Rejected("unauthorized", "no", held=True), ["held"]),
        (Deferred("unavailable", HOUR, "503"), []),
        (Uncertain("answer_lost", "no answer"), []),
    ],
)
def test_a_settle_notes_what_it_settles(ledger, sql, outcome, events):
    ended(ledger, outcome)

    assert noted(sql) == events


def test_a_delivery_without_a_callback_url_notes_nothing(ledger, sql):
    id_ = ledger.open([new(lead())])[0].id

    ledger.settle([Settlement(claim(ledger, id_)[0], SENT)])

    assert noted(sql) == []


def _expire(ledger, desk, sql):
    opened(ledger)
    overdue(sql)
    ledger.sweep(idempotent=["create_lead"], lease_retries=3)


def _die_in_the_fallback_queue(ledger, desk, sql):
    ended(ledger, Deferred("unavailable", HOUR, "503", parked=True))
    overdue(sql)
    ledger.sweep(idempotent=["create_lead"], lease_retries=3)


def _lose_the_last_lease(ledger, desk, sql):
    claim(ledger, opened(ledger))
    sql("UPDATE deliveries SET lease_until = now() - interval '1 second', tries = '{\"lease_lost\": 3}'")
    ledger.sweep(idempotent=["create_lead"], lease_retries=3)


def _cancel(ledger, desk, sql):
    cancel(ledger.engine, opened(ledger), actor="ana", reason="engano")


def _meet_a_held_account(ledger, desk, sql):
    desk.pause("crm:default", reason="mudança")
    claim(ledger, opened(ledger))


def _conclude(ledger, desk, sql):
    ended(ledger, Uncertain("answer_lost", "no answer"))
    doubts = PostgresDoubts(ledger)
    (doubt,) = doubts.take(pause=timedelta(), window={"create_lead": timedelta()}, most=1)
    doubts.conclude([Conclusion(doubt, "proved", "found", Receipt("LEAD-1"))])


def _give_way_to_the_fallback(ledger, desk, sql):
    claimed = ended(ledger, Uncertain("answer_lost", "no answer"), fallback=FALLBACK)
    overdue(sql)
    Fallbacks(ledger).refuse(claimed.order.delivery_id, reason="stale")


def _lose_the_payload(ledger, desk, sql):
    id_ = opened(ledger)
    sql("DELETE FROM payloads")
    claim(ledger, id_)


@pytest.mark.parametrize(
    ("change", "events"),
    [
        (_expire, ["expired"]),
        (_die_in_the_fallback_queue, ["dead"]),
        (_lose_the_last_lease, ["dead"]),
        (_cancel, ["canceled"]),
        (_meet_a_held_account, ["held"]),
        (_conclude, ["succeeded"]),
        (_give_way_to_the_fallback, ["dead"]),
        (_lose_the_payload, ["dead"]),
    ],
)
def test_whatever_ends_a_delivery_notes_it(ledger, desk, sql, change, events):
    change(ledger, desk, sql)

    assert noted(sql) == events


def test_what_an_operator_does_with_a_dead_letter_is_noted(ledger, letters, sql):
    first = ended(ledger, REFUSED).order.delivery_id
    letters.replay([first], reason="again")
    ledger.settle([Settlement(claim(ledger, first)[0], REFUSED)])

    letters.discard([first], reason="enough")

    assert noted(sql) == ["dead", "dead", "canceled"]


def test_progress_is_noted_as_it_moves_forward_and_never_twice(ledger, sql):
    id_ = ended(ledger, SENT).order.delivery_id
    report(sql, id_, "delivered")
    Inbound(ledger).absorb(most=10)
    report(sql, id_, "sent")
    Inbound(ledger).absorb(most=10)
    report(sql, id_, "read")

    Inbound(ledger).absorb(most=10)

    assert noted(sql) == ["succeeded", "delivered", "read"]


def test_an_event_that_settles_and_moves_at_once_is_told_as_both(ledger, sql):
    id_ = ended(ledger, Uncertain("answer_lost", "no answer")).order.delivery_id
    report(sql, id_, "failed")

    Inbound(ledger).absorb(most=10)

    assert noted(sql) == ["dead", "failed"]


def test_a_change_that_is_rolled_back_is_not_noted(ledger, database, sql):
    id_ = opened(ledger)
    with database.connect() as connection:
        connection.execute(text("UPDATE deliveries SET state = 'canceled' WHERE id = :id"), {"id": id_})
        connection.rollback()

    assert noted(sql) == []


# --- each event becomes one delivery ------------------------------------------------------------------------------


def test_a_noted_event_becomes_a_callback_with_the_public_view_of_that_moment(ledger, callbacks, archive, sql):
    claimed = ended(ledger, SENT)
    sql("UPDATE deliveries SET progress = 'delivered', code = 'later' WHERE id = :id", id=claimed.order.delivery_id)

    first, _ = callbacks.open_noted()

    found = archive.find(first.id)
    (command,) = [each.order.command for each in claim(ledger, first.id)]
    assert (found.kind, found.account, found.producer) == ("callback", "callback:loja.exemplo.com.br", "tests")
    assert found.recipient == "loja.exemplo.com.br"
    assert (command.type, command.data["state"], command.data["progress"]) == (
        "delivery.succeeded",
        "succeeded",
        "sent",
    )
    assert (command.data["id"], command.data["code"]) == (str(claimed.order.delivery_id), "ok")
    assert command.data["recipient"] == "a***@exemplo.com.br"
    assert [each["n"] for each in command.data["timeline"]] == [1]
    assert "worker" not in command.data["timeline"][0]
    assert archive.verify().faults == {}


def test_an_event_is_opened_once_however_many_open_at_once(ledger, callbacks, sql):
    for n in range(20):
        (claimed,) = claim(ledger, opened(ledger, n))
        ledger.settle([Settlement(claimed, SENT)])

    with ThreadPoolExecutor(6) as pool:
        hints = [each for found in pool.map(lambda _: callbacks.open_noted(most=4), range(24)) for each in found]

    assert len(hints) == len({each.id for each in hints}) == 20
    assert sql("SELECT count(*) FROM deliveries WHERE kind = 'callback'")[0].count == 20
    assert noted(sql) == []


def test_events_of_one_delivery_go_out_one_after_the_other_in_their_order(ledger, callbacks, sql):
    id_ = ended(ledger, SENT).order.delivery_id
    for status in ("delivered", "read"):
        report(sql, id_, status)
        Inbound(ledger).absorb(most=10)
    ids = [each.id for each in callbacks.open_noted()]

    types = []
    for _ in range(3):
        (claimed,) = claim(ledger, *reversed(ids))
        types.append(claimed.order.command.type)
        ledger.settle([Settlement(claimed, Succeeded(Receipt("ok")))])

    assert ids == sorted(ids)
    assert types == ["delivery.succeeded", "delivery.delivered", "delivery.read"]


def test_nobody_opens_a_later_event_while_another_opens_the_first(ledger, callbacks, database, sql):
    id_ = ended(ledger, SENT).order.delivery_id
    report(sql, id_, "delivered")
    Inbound(ledger).absorb(most=10)
    with database.connect() as other:
        other.execute(text("SELECT FROM callback_events ORDER BY id LIMIT 1 FOR UPDATE"))
        meanwhile = callbacks.open_noted()
        other.rollback()

    assert meanwhile == []
    assert len(callbacks.open_noted()) == 2


def test_an_opening_that_breaks_off_leaves_the_event_for_the_next(ledger, callbacks, sql):
    for n in (1, 2):
        ended(ledger, SENT, n=n)
    sql("ALTER TABLE payloads RENAME TO payloads_away")
    with pytest.raises(Exception, match="payloads"):
        callbacks.open_noted()
    sql("ALTER TABLE payloads_away RENAME TO payloads")

    assert [each.type for each in told(ledger, callbacks)] == ["delivery.succeeded"] * 2


def test_the_erasure_of_the_person_does_not_keep_the_producer_in_the_dark(ledger, callbacks, sql):
    opened(ledger)
    sql("DELETE FROM people")
    overdue(sql)
    ledger.sweep(idempotent=[], lease_retries=3)

    assert [each.type for each in told(ledger, callbacks)] == ["delivery.expired"]


def test_nothing_is_opened_for_a_disabled_endpoint_and_the_audit_trail_says_so(ledger, callbacks, sql):
    ended(ledger, SENT)
    (endpoint,) = ledger.endpoints.search()
    ledger.endpoints.disable(endpoint.id, actor="callbacks", reason="it answered 410")

    assert callbacks.open_noted() == []
    assert sql("SELECT reason FROM audit WHERE action = 'not_told'")[0].reason == (
        "delivery.succeeded: its endpoint is disabled (it answered 410)"
    )


# --- events that are not about a delivery -------------------------------------------------------------------------

EVENT = Event(
    "whatsapp.message", datetime(2026, 11, 22, 12, tzinfo=UTC), {"text": "Oi"}, key="wamid.1", order="1", about="+55"
)


def test_an_event_is_forwarded_once_within_the_callers_transaction(ledger, callbacks, database):
    with database.begin() as connection:
        hint = callbacks.forward(connection, EVENT, producer="whatsapp", url=URL)
    with database.begin() as connection:
        again = callbacks.forward(connection, EVENT, producer="whatsapp", url=URL)

    (claimed,) = claim(ledger, hint.id)
    assert again is None
    assert claimed.order.command.body() == {
        "type": "whatsapp.message", "timestamp": "2026-11-22T12:00:00Z", "data": {"text": "Oi"},
    }  # fmt: skip
    assert claimed.order.command.recipient == "+55"


def test_a_forward_that_is_rolled_back_tells_nobody(callbacks, database, archive):
    with database.connect() as connection:
        callbacks.forward(connection, EVENT, producer="whatsapp", url=URL)
        connection.rollback()

    assert archive.search() == []


def test_nothing_is_forwarded_to_a_disabled_endpoint(ledger, callbacks, database, archive):
    endpoint = ledger.endpoints.register("whatsapp", URL)
    ledger.endpoints.disable(endpoint, actor="ana", reason="gone")
    with database.begin() as connection:
        hint = callbacks.forward(connection, EVENT, producer="whatsapp", url=URL)

    assert hint is None
    assert archive.search() == []
