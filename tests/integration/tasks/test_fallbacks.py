"""Fallback commands: started once where the first surely or probably did not arrive, called back where it did."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from config.policy import load_specs
from config.settings import load_settings
from delivery.commands import SendWhatsApp
from delivery.intake import Intake
from delivery.outcomes import Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Settlement
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

    def send(self, hints):
        return len(list(hints))


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
