"""Order, time, cancel, fallback and late receipts, with a real worker and what the stand-ins really got.

Provider events are written where the receiving door will write them. Waits of minutes are shifted in the ledger.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from ledger.canceling import NotCancelable, cancel

# The answers that are lost here on purpose would open it.
BREAKER = {"minimum_calls": 1000}
PROVIDERS = ("crm", "graph", "smtp")


def effects(running, *ids):
    found = running.effects(*PROVIDERS)
    return [found[str(id_)] for id_ in ids]


def sends(running, id_):
    """Return how many sends the Graph stand-in saw for a delivery that took effect."""
    return sum(each["requests"] for each in running.control["graph"].effects() if each["key"] == str(id_))


def say(running, n, **options):
    return running.submit("send_whatsapp", to=f"+55119{88000000 + n:08d}", text=f"Mensagem {n}", options=options)


def tell(running, id_, status="delivered"):
    """Store an event of the provider, as the receiving door will, and let a worker read it."""
    running.sql(
        "INSERT INTO inbound_events (account, key, delivery_id, status, receipt)"
        " VALUES ('whatsapp:default', :key, :id, :status, 'wamid.event')", key=f"{id_}{status}", id=id_, status=status,
    )  # fmt: skip
    running.tick("confirm")


def lost(running, *, done):
    """Let the answer to the next message be lost, after it was sent or before."""
    running.control["graph"].plan({"close": "after" if done else "before", "match": "messages"})


def grow_old(running, id_, minutes):
    running.sql(
        "UPDATE deliveries SET uncertain_since = uncertain_since - :m * interval '1 minute', looked_at = NULL,"
        " stuck_since = stuck_since - :m * interval '1 minute' WHERE id = :id", id=id_, m=minutes,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _the_books_add_up(running):
    running.control["graph"].configure({"webhooks": {"url": None}})  # nobody but the test tells of a message
    yield
    verdict = running.app.archive.verify()
    assert verdict.accepted == sum(verdict.states.values())
    assert not verdict.faults


def test_an_uncertain_message_blocks_its_key_until_its_receipt_comes(running):
    lost(running, done=True)
    first = say(running, 1, order_key="conversa-1")
    running.until(first, "uncertain")
    second, other = say(running, 2, order_key="conversa-1"), say(running, 3, order_key="conversa-2")
    running.until(other, "succeeded")
    blocked = running.find(second).state
    tell(running, first)
    running.until([first, second], "succeeded")

    assert blocked == "ready"
    assert effects(running, first, second, other) == [1, 1, 1]
    assert sends(running, first) == 1


def test_an_uncertain_message_is_overtaken_once_it_blocked_its_key_for_ten_minutes(running):
    lost(running, done=False)
    first = say(running, 11, order_key="conversa-3")
    running.until(first, "uncertain")
    second = say(running, 12, order_key="conversa-3")
    grow_old(running, first, 11)
    running.until(second, "succeeded")

    assert running.find(first).state == "uncertain"
    assert [action for _, action, _ in running.audit(first)] == ["accepted", "overtaken"]


def test_silence_while_events_were_arriving_sends_it_again_and_silence_alone_asks_a_person(running):
    lost(running, done=False)
    alone = say(running, 21)
    running.until(alone, "uncertain")
    grow_old(running, alone, 16)
    running.tick("confirm")
    running.until(alone, "dead")
    lost(running, done=False)
    listening = say(running, 22)
    running.until(listening, "uncertain")
    grow_old(running, listening, 16)
    running.sql(
        "INSERT INTO inbound_events (account, key, status, at) SELECT 'whatsapp:default', 'other-' || n, 'read',"
        " now() - n * interval '1 minute' FROM unnest(ARRAY[14, 8, 3]) AS n"
    )
    running.tick("confirm")
    running.until(listening, "succeeded")

    assert (running.find(alone).code, effects(running, alone)) == ("unconfirmed", [0])
    assert effects(running, listening) == [1]


def test_a_receipt_that_comes_after_a_person_was_asked_still_settles_it(running):
    lost(running, done=True)
    id_ = say(running, 31)
    running.until(id_, "uncertain")
    grow_old(running, id_, 16)
    running.sql("DELETE FROM inbound_events")
    running.tick("confirm")
    running.until(id_, "dead")
    tell(running, id_, "read")

    found = running.until(id_, "succeeded")

    assert (found.progress, sends(running, id_)) == ("read", 1)


def test_a_message_that_dies_or_is_not_confirmed_in_time_is_replaced_by_its_letter_once(running):
    def letter(n):
        body = {"to": f"reserva{n}.teste@exemplo.com.br", "subject": "Teste", "text": "Olá!"}
        return {"kind": "send_email", **body, "options": {"on_uncertain": "hold"}}

    running.control["graph"].plan({"graph_error": 131026, "match": "messages"})
    refused = say(running, 41, fallback=letter(1))
    running.until(refused, "dead")
    lost(running, done=False)
    unheard = say(running, 42, fallback=letter(2))
    running.until(unheard, "uncertain")
    running.sql("UPDATE deliveries SET expires_at = now() WHERE id = :id", id=unheard)
    fine = say(running, 43, fallback=letter(3))

    running.tick("sweep")
    seconds = [
        running.wait(lambda id_=id_: running.find(id_).fallback_id, "the fallback is started")
        for id_ in (refused, unheard)
    ]
    running.until([*seconds, fine], "succeeded")
    running.tick("sweep")

    assert effects(running, refused, unheard, *seconds, fine) == [0, 0, 1, 1, 1]
    assert running.find(fine).fallback_id is None
    assert running.find(unheard).code == "unconfirmed"


def test_a_canceled_delivery_is_never_sent_and_one_that_was_carried_out_is_not_canceled(running):
    later = running.lead("maistarde", options={"send_at": datetime.now(UTC) + timedelta(days=300)})
    sent = running.lead("jaenviado")
    running.until(sent, "succeeded")

    canceled = running.entrega("cancel", later, "--reason", "the customer called")
    refused = running.entrega("cancel", sent, "--reason", "the customer called")
    running.sql("UPDATE deliveries SET next_at = now(), hinted_at = NULL WHERE id = :id", id=later)
    running.tick("sweep")
    running.works()

    assert (canceled["state"], refused) == ("canceled", 4)
    assert [running.find(each).state for each in (later, sent)] == ["canceled", "succeeded"]
    assert running.audit(later)[-1][1:] == ("canceled", "the customer called")
    assert effects(running, later, sent) == [0, 1]


def test_cancel_against_a_working_worker_never_cancels_what_took_effect(running):
    running.control["crm"].configure({"latency_s": 0.2})
    worker = psutil.Process(running.system.parts["worker1"].pid)
    worker.suspend()
    ids = [running.lead(f"corrida{n}") for n in range(150)]

    def withdraw(id_):
        try:
            cancel(running.app.database, id_, actor="e2e", reason="race")
        except NotCancelable:
            return None
        return id_

    worker.resume()
    running.some(ids, "succeeded", 1)
    with ThreadPoolExecutor(4) as pool:
        canceled = {each for each in pool.map(withdraw, reversed(ids)) if each}
    sent = [each for each in ids if each not in canceled]
    running.until(sent, "succeeded")

    assert canceled, "the worker was faster everywhere, and nothing was shown"
    assert sent, "the cancels were faster everywhere, and nothing was shown"
    assert Counter(effects(running, *canceled)) == Counter({0: len(canceled)})
    assert Counter(effects(running, *sent)) == Counter({1: len(sent)})


def test_a_lead_for_later_is_sent_in_its_time_and_one_whose_time_ran_out_is_not(running):
    soon = running.lead("logo", options={"send_at": datetime.now(UTC) + timedelta(days=200)})
    late = running.lead("tarde", options={"send_at": datetime.now(UTC) + timedelta(days=200)})
    early = [running.find(each).state for each in (soon, late)]
    running.sql("UPDATE deliveries SET expires_at = now() + interval '1 millisecond' WHERE id = :id", id=late)
    running.sql("UPDATE deliveries SET next_at = now() WHERE id = ANY(:ids)", ids=[soon, late])
    running.tick("sweep")

    running.until(soon, "succeeded")
    running.until(late, "expired")

    assert early == ["waiting", "waiting"]
    assert effects(running, soon, late) == [1, 0]
