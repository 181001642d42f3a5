"""Fallback commands: started once where the first surely or probably did not arrive, called back where it did."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import permutations
from threading import Barrier
from time import monotonic

import pytest
from sqlalchemy import text

from config.policy import load_specs
from config.settings import load_settings
from delivery.commands import SendWhatsApp
from delivery.intake import Intake
from delivery.outcomes import Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Conclusion, Settlement
from ledger.canceling import cancel
from ledger.doubts import PostgresDoubts
from ledger.fallbacks import Fallbacks
from ledger.inbound import Inbound
from ledger.store import PostgresLedger
from tasks import app, sweep
from tests.integration.conftest import claim, new

LETTER = {"kind": "send_email", "to": "ana.teste@exemplo.com.br", "subject": "Oi", "text": "Olá"}
LETTER_BODY = {name: value for name, value in LETTER.items() if name != "kind"}
POOL = ThreadPoolExecutor(1)
MESSAGE = SendWhatsApp(to="+5511999990001", text="Olá", options={"fallback": LETTER})
LOST = Uncertain("answer_lost", "no answer")


class Silence:
    def backlog(self):
        return None

    def publish(self, hints):
        return len(list(hints))

    send = publish


@pytest.fixture(autouse=True)
def parts(monkeypatch, ledger, archive, database):
    values = load_settings({"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"})
    specs = load_specs()
    intake = Intake(ledger, Silence(), specs, tuple(f"{name}:default" for name in specs))
    held = {"settings": values, "ledger": ledger, "archive": archive, "database": database, "hints": Silence()}
    for name, part in (held | {"intake": intake}).items():
        monkeypatch.setitem(app.__dict__, name, part)


@pytest.fixture
def doubts(ledger):
    return PostgresDoubts(ledger)


def ended(ledger, outcome, command=MESSAGE):
    (opened,) = ledger.open([new(command)])
    (claimed,) = claim(ledger, opened.id)
    ledger.settle([Settlement(claimed, outcome)])
    return claimed


def dead(ledger):
    return ended(ledger, Rejected("undeliverable", "not on WhatsApp")).order.delivery_id


def fallback(archive, first):
    second = archive.find(first).fallback_id
    return archive.find(second) if second else None


def tell(sql, id_, status="delivered"):
    sql(
        "INSERT INTO inbound_events (account, key, delivery_id, status, receipt)"
        " VALUES ('whatsapp:default', :key, :id, :status, 'wamid.1')", key=f"{id_}{status}", id=id_, status=status,
    )  # fmt: skip


def test_a_delivery_that_died_starts_its_fallback_and_both_name_each_other(ledger, archive, sql):
    first = dead(ledger)

    sweep.run()

    second = fallback(archive, first)
    assert (second.kind, second.state, second.producer) == ("send_email", "ready", "tests")
    assert second.fallback_of == first
    (claimed,) = claim(ledger, second.id)
    assert claimed.order.command.subject == "Oi"
    assert archive.verify().faults == {}


def test_a_delivery_that_expired_before_an_attempt_starts_its_fallback(ledger, archive, sql):
    first = ledger.open([new(MESSAGE)])[0].id
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second'")

    sweep.run()

    assert archive.find(first).state == "expired"
    assert fallback(archive, first) is not None


def test_an_uncertain_delivery_waits_for_its_time_and_then_gives_way_for_good(ledger, archive, doubts, sql):
    first = ended(ledger, LOST).order.delivery_id
    sweep.run()
    early = fallback(archive, first)
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second'")

    sweep.run()

    assert early is None
    assert fallback(archive, first).state == "ready"
    assert (archive.find(first).state, archive.find(first).code) == ("dead", "unconfirmed")


def test_a_message_that_the_provider_reports_as_failed_starts_its_fallback(ledger, archive, doubts, sql):
    first = ended(ledger, Succeeded(Receipt("wamid.1"))).order.delivery_id
    tell(sql, first, "failed")
    Inbound(ledger).absorb(most=10)

    sweep.run()

    assert fallback(archive, first) is not None


@pytest.mark.parametrize("outcome", [Succeeded(Receipt("wamid.1")), Rejected("unauthorized", "no", held=True)])
def test_no_fallback_starts_for_what_succeeded_or_waits_for_a_person(ledger, archive, outcome):
    first = ended(ledger, outcome).order.delivery_id

    sweep.run()

    assert fallback(archive, first) is None


def test_no_fallback_starts_for_what_was_canceled(ledger, archive, database):
    first = ledger.open([new(MESSAGE)])[0].id
    cancel(database, first, actor="ana", reason="engano")

    sweep.run()

    assert fallback(archive, first) is None


def test_parallel_sweeps_start_a_fallback_once(ledger, archive):
    firsts = [
        ended(ledger, Rejected("undeliverable", "no"), MESSAGE.model_copy(update={"text": f"Olá {n}"}))
        for n in range(10)
    ]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: sweep.run(), range(12)))

    letters = archive.search(kind="send_email")
    assert len(letters) == len(firsts)
    assert {each.fallback_of for each in letters} == {each.order.delivery_id for each in firsts}
    assert archive.verify().faults == {}


def test_a_start_that_broke_off_left_nothing_and_is_made_up_for(ledger, archive, database, sql):
    first = dead(ledger)
    sql("ALTER TABLE payloads RENAME TO payloads_away")
    with pytest.raises(Exception, match="payloads"):
        Fallbacks(ledger).start(first, new())
    sql("ALTER TABLE payloads_away RENAME TO payloads")

    sweep.run()
    sweep.run()

    assert len(archive.search(kind="send_email")) == 1


def test_a_receipt_that_comes_late_calls_the_fallback_back(ledger, archive, doubts, sql):
    first = ended(ledger, LOST).order.delivery_id
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second'")
    sweep.run()
    tell(sql, first)

    Inbound(ledger).absorb(most=10)

    second = fallback(archive, first)
    assert (archive.find(first).state, second.state) == ("succeeded", "canceled")
    assert claim(ledger, second.id) == []
    assert sql("SELECT action FROM audit WHERE actor = 'ledger'") == [("canceled",)]


class Hesitant(PostgresLedger):
    """Waits in the middle of the start of a fallback until a receipt of the first waits for its row."""

    def open_within(self, connection, new):
        receipt = POOL.submit(self.inbound.absorb, most=10)
        wanted = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%inbound%'")
        while not connection.scalar(wanted) and not receipt.done():
            connection.execute(text("SELECT pg_sleep(0.01), pg_stat_clear_snapshot()"))
        object.__setattr__(self, "receipt", receipt)
        return super().open_within(connection, new)


def test_a_receipt_that_comes_while_the_fallback_starts_calls_it_back(ledger, archive, doubts, sql):
    first = ended(ledger, LOST).order.delivery_id
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second'")
    tell(sql, first)
    slow = Hesitant(ledger.engine, ledger.vault)
    object.__setattr__(slow, "inbound", Inbound(ledger))

    Fallbacks(slow).start(first, app.intake.prepare("send_email", LETTER_BODY, producer="tests"))
    slow.receipt.result(10)

    assert (archive.find(first).state, fallback(archive, first).state) == ("succeeded", "canceled")


SENT = Succeeded(Receipt("wamid.1"))


class Story:
    """A message on its way, and what may happen to it; each may come at any time."""

    def __init__(self, ledger, doubts, sql):
        self.ledger, self.doubts, self.sql = ledger, doubts, sql
        (opened,) = ledger.open([new(MESSAGE)])
        (self.claimed,) = claim(ledger, opened.id)
        self.id = opened.id

    def answer_lost(self):
        self.ledger.settle([Settlement(self.claimed, LOST)])

    def worker_lost(self):
        self.sql("UPDATE deliveries SET lease_until = now() - interval '1 second' WHERE state = 'attempting'")
        self.ledger.sweep(idempotent=[], lease_retries=3)

    def resend_planned(self):
        doubts = self.doubts.take(pause=timedelta(), window={"send_whatsapp": timedelta()}, most=10)
        self.doubts.conclude([Conclusion(each, "resend", "nothing proves it") for each in doubts])

    def time_over(self):
        self.sql("UPDATE deliveries SET expires_at = now() - interval '1 second' WHERE id = :id", id=self.id)
        sweep.run()

    def receipt(self):
        tell(self.sql, self.id)
        Inbound(self.ledger).absorb(most=10)

    def late_answer(self):
        self.ledger.settle([Settlement(self.claimed, SENT)])


@pytest.mark.parametrize("proof", ["receipt", "late_answer"])
@pytest.mark.parametrize("loss", ["answer_lost", "worker_lost"])
@pytest.mark.parametrize("order", list(permutations(range(4))), ids=lambda order: "".join(map(str, order)))
def test_in_whatever_order_things_come_a_proof_settles_it_and_nothing_else_is_sent(
    ledger, archive, doubts, sql, order, loss, proof
):
    story = Story(ledger, doubts, sql)
    happenings = (loss, "resend_planned", "time_over", proof)

    for n in order:
        getattr(story, happenings[n])()
    sweep.run()

    second = fallback(archive, story.id)
    everything = [each.id for each in archive.search()]
    assert archive.find(story.id).state == "succeeded"
    assert second is None or second.state == "canceled"
    assert claim(ledger, *everything) == []
    assert archive.verify().faults == {}


def test_receipt_against_fallback_in_60_rounds_never_sends_one_that_begins_after_the_receipt(
    ledger, archive, doubts, sql
):
    messages = [MESSAGE.model_copy(update={"text": f"Olá {n}"}) for n in range(60)]
    firsts = [ended(ledger, LOST, each).order.delivery_id for each in messages]
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second'")
    gate, told, begun = Barrier(3), {}, {}

    def start(first):
        new_fallback = app.intake.prepare("send_email", LETTER_BODY | {"text": str(first)}, producer="tests")
        Fallbacks(ledger).start(first, new_fallback)

    def confirm(first):
        tell(sql, first)
        Inbound(ledger).absorb(most=10)
        told[first] = monotonic()

    def send(first):
        for _ in range(15):
            second, asked = archive.find(first).fallback_id, monotonic()
            if second and claim(ledger, second):
                begun[first] = asked

    def play(act):
        for each in firsts:
            gate.wait(120)
            act(each)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(play, (start, confirm, send)))

    seconds = {first: fallback(archive, first) for first in firsts}
    assert {archive.find(each).state for each in firsts} == {"succeeded"}
    assert {first for first, second in seconds.items() if second and second.state == "attempting"} == begun.keys()
    assert {second.state for first, second in seconds.items() if second and first not in begun} <= {"canceled"}
    assert [first for first, asked in begun.items() if asked > told[first]] == []


def test_a_late_answer_of_the_send_calls_the_fallback_back(ledger, archive, sql):
    claimed = ended(ledger, LOST)
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second'")
    sweep.run()

    ledger.settle([Settlement(claimed, Succeeded(Receipt("wamid.1")))])

    assert fallback(archive, claimed.order.delivery_id).state == "canceled"


def test_a_fallback_that_is_being_sent_is_not_called_back(ledger, archive, doubts, sql):
    first = ended(ledger, LOST).order.delivery_id
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second'")
    sweep.run()
    claim(ledger, archive.find(first).fallback_id)
    tell(sql, first)

    Inbound(ledger).absorb(most=10)

    assert fallback(archive, first).state == "attempting"


def test_a_first_whose_fallback_took_over_cannot_be_replayed(ledger, archive, letters):
    first = dead(ledger)
    sweep.run()

    assert letters.replay([first], reason="impatience").ids == ()


def test_a_fallback_that_is_no_longer_acceptable_is_refused_once(ledger, archive, sql):
    stale = LETTER | {"options": {"expires_at": "2020-01-01T00:00:00Z"}}
    command = SendWhatsApp(to="+5511999990001", text="Oi", options={"fallback": stale})
    first = ended(ledger, Rejected("undeliverable", "no"), command).order.delivery_id

    sweep.run()
    sweep.run()

    assert fallback(archive, first) is None
    assert sql("SELECT reason FROM audit WHERE action = 'no_fallback'") == [
        ("no longer acceptable: options.expires_at",)
    ]
