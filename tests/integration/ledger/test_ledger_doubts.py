from datetime import timedelta

import pytest

from delivery.commands import SendWhatsApp
from delivery.outcomes import Deferred, Receipt, Succeeded, Uncertain
from delivery.ports import Conclusion, Settlement
from ledger.doubts import PostgresDoubts
from ledger.inbound import Inbound
from tests.integration.conftest import claim, new

WINDOW = {kind: timedelta(minutes=15) for kind in ("create_lead", "send_whatsapp", "send_email")}
MESSAGE = SendWhatsApp(to="+5511999990001", text="Olá")


@pytest.fixture
def doubts(ledger):
    return PostgresDoubts(ledger)


def take(doubts, pause_s=10):
    return doubts.take(pause=timedelta(seconds=pause_s), window=WINDOW, most=10)


def attempting(ledger):
    (opened,) = ledger.open([new(MESSAGE)])
    return claim(ledger, opened.id)[0]


def uncertain(ledger):
    claimed = attempting(ledger)
    ledger.settle([Settlement(claimed, Uncertain("answer_lost", "no answer"))])
    return claimed.order.delivery_id


def tell(sql, id_, status="sent", *, key="e1", minutes_ago=0, receipt="wamid.1", code=None):
    sql(
        "INSERT INTO inbound_events (account, key, delivery_id, status, receipt, code, at)"
        " VALUES ('whatsapp:default', :key, :id, :status, :receipt, :code, now() - :ago * interval '1 minute')",
        key=key, id=id_, status=status, receipt=receipt, code=code, ago=minutes_ago,
    )  # fmt: skip


def conclude(doubts, doubt, verdict, receipt=None):
    return doubts.conclude([Conclusion(doubt, verdict, "because", receipt)])


def test_an_uncertain_delivery_is_taken_with_its_command_and_its_choice(ledger, doubts):
    id_ = uncertain(ledger)

    (taken,) = take(doubts)

    assert taken.claimed.order.delivery_id == id_
    assert taken.claimed.order.command == MESSAGE
    assert (taken.hold, taken.resent, taken.listening) == (False, False, False)
    assert taken.age < timedelta(minutes=1)


def test_a_doubt_is_not_taken_twice_within_the_pause(ledger, doubts):
    uncertain(ledger)

    take(doubts)

    assert take(doubts) == []
    assert len(take(doubts, pause_s=0)) == 1


@pytest.mark.parametrize(
    ("verdict", "state", "code"),
    [
        ("proved", "succeeded", "ok"),
        ("absent", "waiting", "answer_lost"),
        ("resend", "waiting", "answer_lost"),
        ("unconfirmed", "dead", "unconfirmed"),
    ],
)
def test_a_conclusion_settles_the_doubt(ledger, doubts, archive, sql, verdict, state, code):
    id_ = uncertain(ledger)
    (taken,) = take(doubts)

    conclude(doubts, taken, verdict, Receipt("wamid.1") if verdict == "proved" else None)

    found = archive.find(id_)
    assert (found.state, found.code) == (state, code)
    assert sql("SELECT actor, action FROM audit WHERE delivery_id = :id ORDER BY id DESC LIMIT 1", id=id_) == [
        ("look-up", verdict)
    ]
    assert archive.verify().faults == {}


def test_looking_again_later_changes_nothing(ledger, doubts, archive):
    id_ = uncertain(ledger)

    assert conclude(doubts, take(doubts)[0], "later") == set()
    assert archive.find(id_).state == "uncertain"


def test_a_resent_delivery_carries_its_flag_into_the_next_doubt(ledger, doubts):
    id_ = uncertain(ledger)
    conclude(doubts, take(doubts)[0], "resend")

    (again,) = claim(ledger, id_)
    ledger.settle([Settlement(again, Uncertain("answer_lost", "no answer"))])

    assert again.order.doubtful
    assert take(doubts, pause_s=0)[0].resent


def test_a_conclusion_never_overrides_a_receipt_that_came_meanwhile(ledger, doubts, archive, sql):
    id_ = uncertain(ledger)
    (taken,) = take(doubts)
    tell(sql, id_)
    Inbound(ledger).absorb(most=10)

    assert conclude(doubts, taken, "resend") == set()
    assert archive.find(id_).state == "succeeded"


def test_an_event_settles_an_uncertain_delivery(ledger, doubts, archive, sql):
    id_ = uncertain(ledger)
    tell(sql, id_, "delivered")

    Inbound(ledger).absorb(most=10)

    found = archive.find(id_)
    assert (found.state, found.progress, found.receipt) == ("succeeded", "delivered", "wamid.1")
    assert take(doubts) == []


def test_an_event_cancels_a_planned_resend(ledger, doubts, archive, sql):
    id_ = uncertain(ledger)
    conclude(doubts, take(doubts)[0], "resend")
    tell(sql, id_)

    Inbound(ledger).absorb(most=10)

    assert archive.find(id_).state == "succeeded"
    assert claim(ledger, id_) == []


@pytest.mark.parametrize(
    "late",
    [Succeeded(Receipt("wamid.1")), Uncertain("answer_lost", "no"), Deferred("not_sent", timedelta(0), "no")],
)
def test_an_event_may_come_before_the_answer_of_the_send(ledger, doubts, archive, sql, late):
    claimed = attempting(ledger)
    tell(sql, claimed.order.delivery_id)
    Inbound(ledger).absorb(most=10)

    ledger.settle([Settlement(claimed, late)])

    found = archive.find(claimed.order.delivery_id)
    assert (found.state, found.receipt) == ("succeeded", "wamid.1")
    assert found.timeline[0].outcome == "succeeded"
    assert archive.verify().faults == {}


def test_progress_moves_forward_only(ledger, doubts, archive, sql):
    id_ = uncertain(ledger)
    for n, status in enumerate(("read", "sent", "delivered")):
        tell(sql, id_, status, key=f"e{n}")
        Inbound(ledger).absorb(most=10)

    assert archive.find(id_).progress == "read"


def test_a_failure_told_later_is_a_dead_letter(ledger, doubts, archive, sql):
    id_ = uncertain(ledger)
    tell(sql, id_, "failed", code="undeliverable")

    Inbound(ledger).absorb(most=10)

    found = archive.find(id_)
    assert (found.state, found.progress, found.code) == ("dead", "failed", "undeliverable")


LATE = Succeeded(Receipt("wamid.1"))
NO_ANSWER = Uncertain("answer_lost", "no answer")


def resent(ledger, doubts):
    id_ = uncertain(ledger)
    conclude(doubts, take(doubts)[0], "resend")
    return claim(ledger, id_)[0]


@pytest.mark.parametrize("answer", [LATE, NO_ANSWER])
def test_a_failure_told_before_the_answer_waits_for_it_and_is_not_forgotten(ledger, archive, sql, answer):
    claimed = attempting(ledger)
    tell(sql, claimed.order.delivery_id, "failed", code="undeliverable")
    early = Inbound(ledger).absorb(most=10).worked
    ledger.settle([Settlement(claimed, answer)])

    Inbound(ledger).absorb(most=10)

    found = archive.find(claimed.order.delivery_id)
    assert (early, found.state, found.progress, found.code) == (0, "dead", "failed", "undeliverable")


def test_an_answer_that_comes_after_the_failure_was_told_does_not_undo_it(ledger, doubts, archive, sql):
    claimed = attempting(ledger)
    ledger.settle([Settlement(claimed, NO_ANSWER)])
    tell(sql, claimed.order.delivery_id, "failed")
    Inbound(ledger).absorb(most=10)

    ledger.settle([Settlement(claimed, LATE)])

    assert (archive.find(claimed.order.delivery_id).state, archive.find(claimed.order.delivery_id).progress) == (
        "dead",
        "failed",
    )


def test_the_failure_of_a_first_send_says_nothing_of_the_second_that_has_its_own_receipt(ledger, doubts, archive, sql):
    second = resent(ledger, doubts)
    tell(sql, second.order.delivery_id, "failed", receipt="wamid.1")
    Inbound(ledger).absorb(most=10)
    ledger.settle([Settlement(second, Succeeded(Receipt("wamid.2")))])

    worked_on = Inbound(ledger).absorb(most=10).worked

    found = archive.find(second.order.delivery_id)
    assert (worked_on, found.state, found.progress, found.receipt) == (1, "succeeded", "sent", "wamid.2")


def test_an_event_settles_a_second_send_that_is_under_way(ledger, doubts, archive, sql):
    second = resent(ledger, doubts)
    tell(sql, second.order.delivery_id, "delivered")

    Inbound(ledger).absorb(most=10)

    assert archive.find(second.order.delivery_id).state == "succeeded"
    assert ledger.settle([Settlement(second, NO_ANSWER)]) == set()


def test_events_of_another_account_make_no_silence(ledger, doubts, sql):
    uncertain(ledger)
    sql("UPDATE deliveries SET uncertain_since = now() - interval '20 minutes'")
    for n, ago in enumerate((19, 13, 7)):
        tell(sql, None, key=f"e{n}", minutes_ago=ago)
    sql("UPDATE inbound_events SET account = 'whatsapp:vendas'")

    assert not take(doubts)[0].listening


@pytest.mark.parametrize("verdict", ["absent", "resend"])
def test_a_message_that_cost_a_worker_in_quarantine_too_is_not_sent_again(ledger, doubts, archive, sql, verdict):
    id_ = uncertain(ledger)
    sql("UPDATE deliveries SET tries = '{\"lease_lost\": 4}'")

    conclude(doubts, take(doubts)[0], verdict)

    found = archive.find(id_)
    assert (found.state, found.code) == ("dead", "poison")
    assert found.settled_at is not None


def test_an_event_is_worked_on_once(ledger, doubts, sql):
    tell(sql, uncertain(ledger))

    assert [Inbound(ledger).absorb(most=10).worked for _ in range(2)] == [1, 0]


@pytest.mark.parametrize(("minutes_ago", "listening"), [((19, 13, 7), True), ((19, 13), False), ((19, 18, 17), False)])
def test_silence_counts_only_where_events_were_heard_all_the_while(ledger, doubts, sql, minutes_ago, listening):
    uncertain(ledger)
    sql("UPDATE deliveries SET uncertain_since = now() - interval '20 minutes'")
    for n, ago in enumerate(minutes_ago):
        tell(sql, None, key=f"e{n}", minutes_ago=ago)

    assert take(doubts)[0].listening is listening


def test_a_replay_of_what_may_have_arrived_looks_first(ledger, doubts, archive, letters):
    id_ = uncertain(ledger)
    conclude(doubts, take(doubts)[0], "unconfirmed")

    letters.replay([id_], reason="the customer says nothing came")

    assert archive.find(id_).state == "uncertain"
    assert claim(ledger, id_) == []
    assert not take(doubts)[0].hold
