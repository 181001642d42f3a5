"""What inbound events do in the ledger: each once, in any order, and nothing of a person in clear."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from delivery.commands import SendEmail, SendWhatsApp
from delivery.inbound import Event
from delivery.outcomes import Receipt, Succeeded, Uncertain
from delivery.ports import Conclusion, Hint, Settlement
from ledger.contacts import Contacts
from ledger.doubts import PostgresDoubts
from ledger.fallbacks import Fallbacks
from ledger.inbound import Inbound
from tests.integration.conftest import claim, lead, new

ACCOUNT = "whatsapp:default"
PHONE, USER = "+5511999990001", "BR.1502576394655843"
NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=1)
MESSAGE = SendWhatsApp(to=PHONE, text="Olá")


@pytest.fixture
def contacts(ledger):
    return Contacts(ledger.engine, ledger.vault)


def message(n=1, **changes):
    values = {
        "key": f"message:wamid.IN{n}", "kind": "message", "at": LATER, "receipt": f"wamid.IN{n}", "person": PHONE,
        "window_until": NOW + timedelta(hours=24), "content": {"from": PHONE, "written_by_contact": {"text": "Oi Ana"}},
    }  # fmt: skip
    return Event(**(values | changes))


def status(id_, word="sent", *, receipt="wamid.1", **changes):
    return Event(f"status:{receipt}:{word}", "status", delivery_id=id_, status=word, receipt=receipt, **changes)


def wish(consent, *, n=1, at=NOW, **changes):
    return Event(f"preference:{n}:{consent}", "consent", at=at, **({"person": PHONE} | changes), consent=consent)


def tell(inbound, *events, account=ACCOUNT):
    inbound.keep(account, events)
    return inbound.absorb(most=100)


def sent(ledger, command=MESSAGE, receipt="wamid.1"):
    (opened,) = ledger.open([new(command)])
    (claimed,) = claim(ledger, opened.id)
    ledger.settle([Settlement(claimed, Succeeded(Receipt(receipt)))])
    return opened.id


def opened(ledger, command):
    return ledger.open([new(command)])[0].id


def test_an_event_is_stored_once_however_often_it_comes(inbound, sql):
    events = [message(1), message(2), message(1)]

    assert [inbound.keep(ACCOUNT, events), inbound.keep(ACCOUNT, events)] == [2, 0]
    assert sql("SELECT count(*) FROM inbound_events") == [(2,)]


def test_the_same_event_of_another_account_is_another_event(inbound):
    assert [inbound.keep(each, [message()]) for each in (ACCOUNT, "whatsapp:vendas")] == [1, 1]


def test_nothing_a_person_wrote_or_is_stands_in_clear(inbound, sql):
    inbound.keep(ACCOUNT, [message(), wish("stop"), status(None, person=PHONE, alias=USER)])

    stored = str(sql("SELECT to_jsonb(e) FROM inbound_events e"))

    assert not any(each in stored for each in ("5511999990001", "1502576394655843", "Oi Ana"))


@pytest.mark.parametrize("order", list(permutations(("sent", "delivered", "read"))))
def test_progress_ends_at_the_furthest_step_whatever_the_order(ledger, inbound, archive, order):
    id_ = sent(ledger)
    reached = []
    for word in order:
        tell(inbound, status(id_, word))
        reached.append(("sent", "delivered", "read").index(archive.find(id_).progress))

    assert reached == sorted(reached)
    assert archive.find(id_).progress == "read"


@pytest.mark.parametrize(
    ("words", "state", "progress"),
    [
        (("sent", "failed"), "dead", "failed"),
        (("failed", "sent"), "dead", "failed"),
        (("failed", "delivered"), "succeeded", "delivered"),
        (("delivered", "failed"), "succeeded", "delivered"),
        (("delivered", "bounced"), "dead", "bounced"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_failure_is_a_dead_letter_unless_the_message_arrived(
    ledger, inbound, archive, words, state, progress, at_once
):
    id_ = sent(ledger)
    events = [status(id_, each) for each in words]
    for batch in [events] if at_once else [[each] for each in events]:
        tell(inbound, *batch)

    found = archive.find(id_)
    assert (found.state, found.progress) == (state, progress)
    assert archive.verify().faults == {}


def test_a_failure_says_why_in_our_word_and_the_providers(ledger, inbound, archive):
    id_ = sent(ledger)

    tell(inbound, status(id_, "failed", code="capped", provider_code="131049"))

    found = archive.find(id_)
    assert (found.code, found.reason) == ("capped", "the provider reported it as failed (its code 131049)")


def test_a_failure_that_comes_before_the_answer_of_the_send_wins(ledger, inbound, archive):
    id_ = opened(ledger, MESSAGE)
    (claimed,) = claim(ledger, id_)
    tell(inbound, status(id_, "failed", code="undeliverable"))
    ledger.settle([Settlement(claimed, Succeeded(Receipt("wamid.1")))])

    inbound.absorb(most=10)

    found = archive.find(id_)
    assert (found.state, found.progress) == ("dead", "failed")
    assert found.timeline[0].outcome == "succeeded"  # the provider had taken it
    assert archive.verify().faults == {}


def resent(ledger):
    """Open a message whose first send was lost and whose second one is under way; return the claim of the second."""
    id_ = opened(ledger, MESSAGE)
    ledger.settle([Settlement(claim(ledger, id_)[0], Uncertain("answer_lost", "no answer"))])
    doubts = PostgresDoubts(ledger)
    (doubt,) = doubts.take(pause=timedelta(), window={"send_whatsapp": timedelta()}, most=1)
    doubts.conclude([Conclusion(doubt, "resend", "nothing proves it")])
    return claim(ledger, id_)[0]


@pytest.mark.parametrize(
    ("receipt", "state", "progress"),
    [("wamid.1", "dead", "failed"), ("wamid.2", "succeeded", "sent"), (None, "dead", "failed")],
)
def test_a_late_answer_undoes_a_told_failure_of_another_message_only(
    ledger, inbound, archive, receipt, state, progress
):
    second = resent(ledger)
    ledger.settle([Settlement(second, Uncertain("answer_lost", "no answer"))])
    failed = status(second.order.delivery_id, "failed", receipt="wamid.1" if receipt else None)
    tell(inbound, failed)

    ledger.settle([Settlement(second, Succeeded(Receipt(receipt or "wamid.2")))])

    found = archive.find(second.order.delivery_id)
    assert (found.state, found.progress) == (state, progress)
    assert archive.verify().faults == {}


def test_failures_that_wait_for_an_answer_hold_nothing_else_up(ledger, inbound, archive):
    claimed = claim(ledger, *(opened(ledger, SendWhatsApp(to=PHONE, text=f"Olá {n}")) for n in range(3)))
    inbound.keep(ACCOUNT, [status(each.order.delivery_id, "failed", receipt=f"w{n}") for n, each in enumerate(claimed)])
    other = sent(ledger)
    inbound.keep(ACCOUNT, [status(other, "read")])

    assert inbound.absorb(most=1).worked == 1
    assert archive.find(other).progress == "read"


def test_news_of_an_earlier_message_say_nothing_of_the_one_that_was_sent_again(ledger, inbound, archive, letters):
    id_ = sent(ledger)
    tell(inbound, status(id_, "failed", code="capped"))
    letters.replay([id_], reason="a day later")
    tell(inbound, status(id_, "sent"))

    assert (archive.find(id_).state, archive.find(id_).progress) == ("ready", None)

    (again,) = claim(ledger, id_)
    ledger.settle([Settlement(again, Succeeded(Receipt("wamid.2")))])
    tell(inbound, status(id_, "bounced"))

    found = archive.find(id_)
    assert (found.state, found.progress, found.receipt) == ("succeeded", "sent", "wamid.2")


def test_an_account_settles_its_own_deliveries_only(ledger, inbound, archive):
    id_ = opened(ledger, lead())

    tell(inbound, status(id_, "delivered"))

    assert archive.find(id_).state == "ready"


def test_an_uncertain_delivery_is_settled_by_what_is_told(ledger, inbound, archive):
    id_ = opened(ledger, MESSAGE)
    (claimed,) = claim(ledger, id_)
    ledger.settle([Settlement(claimed, Uncertain("answer_lost", "no answer"))])

    tell(inbound, status(id_, "delivered"))

    assert (archive.find(id_).state, archive.find(id_).receipt) == ("succeeded", "wamid.1")


def test_a_message_opens_the_window_of_its_writer_and_account(inbound, contacts):
    tell(inbound, message(1, window_until=NOW + timedelta(hours=24)), message(2, window_until=NOW))

    assert contacts.window_until(ACCOUNT, PHONE) == NOW + timedelta(hours=24)
    assert contacts.window_until("whatsapp:vendas", PHONE) is None


def test_a_window_is_found_under_every_name_of_the_person(ledger, inbound, contacts):
    tell(inbound, message(1, person=USER, content={"from": USER}))
    tell(inbound, status(sent(ledger), person=PHONE, alias=USER))

    assert contacts.window_until(ACCOUNT, PHONE) is not None


@pytest.mark.parametrize(
    ("wishes", "stopped"),
    [
        ([("stop", 0)], True),
        ([("stop", 0), ("resume", 5)], False),
        ([("resume", 5), ("stop", 0)], False),
        ([("resume", 0), ("stop", 5)], True),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_the_newest_wish_counts(inbound, contacts, wishes, stopped, at_once):
    events = [wish(each, n=n, at=NOW + timedelta(minutes=at)) for n, (each, at) in enumerate(wishes)]
    for batch in [events] if at_once else [[each] for each in events]:
        tell(inbound, *batch)

    assert contacts.has_opted_out(PHONE) is stopped


TEMPLATE = {"name": "oferta"}


@pytest.mark.parametrize(
    ("command", "state"),
    [
        (SendWhatsApp(to=PHONE, template=TEMPLATE), "canceled"),
        (SendWhatsApp(to=PHONE, message={"type": "template", "template": TEMPLATE}), "canceled"),
        (SendWhatsApp(to=PHONE, template=TEMPLATE | {"category": "utility"}), "attempting"),
        (SendWhatsApp(to=PHONE, text="Feito, você não recebe mais ofertas"), "attempting"),
        (SendWhatsApp(to="+5511999990002", template=TEMPLATE), "attempting"),
    ],
)
def test_statement_45_who_wants_no_marketing_gets_none_and_everything_else(ledger, inbound, archive, command, state):
    id_ = opened(ledger, command)
    tell(inbound, wish("stop"))

    claim(ledger, id_)

    assert archive.find(id_).state == state
    assert archive.verify().faults == {}


def test_statement_45_an_opt_out_is_looked_at_in_the_transaction_of_the_claim(ledger, inbound, database, archive):
    ids = [opened(ledger, SendWhatsApp(to=PHONE, template=TEMPLATE | {"variables": [str(n)]})) for n in range(40)]
    stopped = threading.Event()

    def claim_all():
        return [(each, stopped.is_set()) for each in ids if claim(ledger, each)]

    with ThreadPoolExecutor(2) as pool:
        claims = pool.submit(claim_all)
        tell(inbound, wish("stop"))
        stopped.set()
        after = [each for each, was_stopped in claims.result() if was_stopped]

    # At most the one whose claim was under way while the opt-out was committed.
    assert len(after) <= 1
    assert claim(ledger, *ids) == []
    assert {archive.find(each).state for each in ids} <= {"attempting", "canceled"}


def test_statement_45_a_lane_and_a_replay_look_at_the_opt_out_too(ledger, inbound, letters, archive, sql):
    id_ = opened(ledger, SendWhatsApp(to=PHONE, template=TEMPLATE))
    tell(inbound, wish("stop"))
    leases = {"send_whatsapp": timedelta(seconds=30)}

    assert ledger.claim_next(("whatsapp:default", "send_whatsapp"), most=5, worker="w", leases=leases) == []
    assert archive.find(id_).code == "opted_out"
    sql("UPDATE deliveries SET state = 'dead', code = 'invalid'")
    letters.replay([id_], reason="x")
    assert claim(ledger, id_) == []
    assert archive.find(id_).code == "opted_out"


def test_marketing_that_is_not_sent_says_why_and_starts_no_fallback(ledger, inbound, archive, sql):
    fallback = {"kind": "send_email", "to": "ana.teste@exemplo.com.br", "subject": "Oi", "text": "Olá"}
    id_ = opened(ledger, SendWhatsApp(to=PHONE, template=TEMPLATE, options={"fallback": fallback}))
    tell(inbound, wish("stop"))

    assert claim(ledger, id_) == []
    found = archive.find(id_)
    assert (found.code, found.reason, found.attempts) == ("opted_out", "the person asked for no marketing", 0)
    assert sql("SELECT action FROM audit WHERE actor = 'person'") == [("opted_out",)]


def test_marketing_that_may_have_been_sent_before_starts_no_fallback_either(ledger, inbound, archive):
    fallback = {"kind": "send_email", "to": "ana.teste@exemplo.com.br", "subject": "Oi", "text": "Olá"}
    id_ = opened(ledger, SendWhatsApp(to=PHONE, template=TEMPLATE, options={"fallback": fallback}))
    ledger.settle([Settlement(claim(ledger, id_)[0], Uncertain("answer_lost", "no answer"))])
    doubts = PostgresDoubts(ledger)
    (doubt,) = doubts.take(pause=timedelta(), window={"send_whatsapp": timedelta()}, most=1)
    doubts.conclude([Conclusion(doubt, "resend", "nothing proves it")])
    tell(inbound, wish("stop"))

    assert claim(ledger, id_) == []
    found = archive.find(id_)
    assert (found.state, found.code, list(Fallbacks(ledger).needed(most=10))) == ("dead", "opted_out", [])


def test_who_allows_marketing_again_gets_it(ledger, inbound):
    tell(inbound, wish("stop"), wish("resume", at=NOW + timedelta(seconds=1)))

    assert len(claim(ledger, opened(ledger, SendWhatsApp(to=PHONE, template=TEMPLATE)))) == 1


def test_an_opt_out_under_another_name_of_the_person_counts(ledger, inbound, archive):
    tell(inbound, wish("stop", person=USER))
    tell(inbound, message(person=PHONE, alias=USER))
    id_ = opened(ledger, SendWhatsApp(to=PHONE, template=TEMPLATE))

    assert claim(ledger, id_) == []
    assert archive.find(id_).state == "canceled"


def test_a_mail_with_a_way_to_unsubscribe_is_marketing(ledger, inbound):
    mail = {"to": ["ana.teste@exemplo.com.br"], "subject": "Oi", "text": "Olá"}
    tell(inbound, wish("stop", person="ana.teste@exemplo.com.br"))

    refused = opened(ledger, SendEmail(**mail, unsubscribe_url="https://exemplo.com.br/sair"))
    taken = opened(ledger, SendEmail(**mail))

    assert [each.order.delivery_id for each in claim(ledger, refused, taken)] == [taken]


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (message(), "canceled"),
        (message(kind="notice"), "waiting"),
        (message(person="+5511999990002"), "waiting"),
        (message(at=NOW - timedelta(hours=1)), "waiting"),
    ],
)
def test_a_reply_cancels_the_follow_up_that_asked_for_it(ledger, inbound, archive, event, state):
    options = {"send_at": NOW + timedelta(days=1)}
    asked = opened(ledger, SendWhatsApp(to=PHONE, text="Ainda aí?", options=options | {"cancel_on_reply": True}))
    other = opened(ledger, SendWhatsApp(to=PHONE, text="Sua consulta é amanhã", options=options))

    tell(inbound, event)

    assert (archive.find(asked).state, archive.find(other).state) == (state, "waiting")


def test_news_of_a_template_are_kept_side_by_side(inbound, sql):
    named = {"name": "oferta", "language": "pt_BR", "status": None, "category": None, "quality": None}
    news = [{"status": "PAUSED"}, {"quality": "RED"}, {"status": "APPROVED"}]
    ago = (2, 1, 3)  # minutes; the last one comes late
    for n, each in enumerate(news):
        at = NOW - timedelta(minutes=ago[n])
        tell(inbound, Event(f"news:{n}", "template", at=at, content=named | each))

    assert sql("SELECT status, category, quality FROM templates") == [("PAUSED", None, "RED")]


def test_news_of_an_account_stand_with_it(inbound, archive):
    tell(inbound, Event("news:1", "account", at=NOW, content={"note": "account_update DISABLED"}))
    tell(inbound, Event("news:0", "account", at=NOW - timedelta(days=1), content={"note": "old"}))

    assert [(each.name, each.told) for each in archive.accounts()] == [(ACCOUNT, "account_update DISABLED")]


class MemoryForwarder:
    """A forwarder that keeps what it is given, as a list."""

    def __init__(self):
        self.heard = []

    def forward(self, connection, heard):
        self.heard += heard
        return [Hint(each.id, "callback") for each in heard]


def test_what_a_person_said_is_opened_and_forwarded_once(ledger):
    forwarder = MemoryForwarder()
    inbound = Inbound(ledger, forwarder)

    first, again = tell(inbound, message(), wish("stop", content={"from": PHONE})), tell(inbound, message())

    assert [(each.kind, each.person) for each in forwarder.heard] == [("consent", PHONE), ("message", PHONE)]
    assert forwarder.heard[1].content == message().content
    assert (len(first.hints), first.worked, again.worked) == (2, 2, 0)


def test_messages_of_one_second_are_forwarded_in_their_order(ledger):
    forwarder = MemoryForwarder()

    tell(Inbound(ledger, forwarder), *(message(n, content={"from": PHONE, "n": n}) for n in range(20)))

    assert [each.content["n"] for each in forwarder.heard] == list(range(20))


def test_what_an_erased_person_said_is_not_forwarded(ledger, sql):
    forwarder = MemoryForwarder()
    inbound = Inbound(ledger, forwarder)
    inbound.keep(ACCOUNT, [message()])
    sql("DELETE FROM people")

    assert inbound.absorb(most=10).worked == 1
    assert forwarder.heard == []


def test_what_a_person_said_is_sealed_under_the_name_that_commands_use(ledger, inbound, sql):
    tell(inbound, status(sent(ledger), person=PHONE, alias=USER))
    inbound.keep(ACCOUNT, [message(person=USER, content={"from": USER})])

    assert sql("SELECT person FROM inbound_events WHERE kind = 'message'") == [(ledger.vault.hash(PHONE),)]


def test_a_forwarder_that_fails_leaves_the_event_for_later(ledger, inbound, sql):
    class Failing:
        def forward(self, connection, heard):
            raise RuntimeError("no")

    inbound.keep(ACCOUNT, [message()])

    Inbound(ledger, Failing()).absorb(most=10)

    assert sql("SELECT fault, worked_at FROM inbound_events") == [("RuntimeError", None)]
    assert inbound.absorb(most=10).worked == 0
    sql("UPDATE inbound_events SET try_at = now()")
    assert inbound.absorb(most=10).worked == 1
