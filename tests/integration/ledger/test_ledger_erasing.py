"""An erased person is gone, and the books stay balanced."""

import json
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest

from delivery.commands import SendWhatsApp
from delivery.inbound import Event
from delivery.outcomes import Deferred, Receipt, Succeeded
from delivery.ports import Settlement
from delivery.producers import DEFAULT
from ledger.backup import open_backup, write_backup
from ledger.canceling import cancel
from ledger.contacts import Contacts
from ledger.erasing import Erased, Eraser, tombstone_of
from ledger.producers import Producers, StoredPolicies
from ledger.sealing import MasterKeys
from ledger.store import PostgresLedger
from ledger.vault import Vault
from tests.integration.conftest import claim, lead, new

ANA = "ana.teste1@exemplo.com.br"
WHATSAPP = "whatsapp:default"
NOW = datetime.now(UTC)


@pytest.fixture
def eraser(ledger):
    return Eraser(ledger.vault, "ana")


def opened(ledger):
    delivery = new(lead(1))
    ledger.open([delivery])
    return delivery.id


def sent_to(ledger, recipient):
    (made,) = ledger.open([new(SendWhatsApp(to=recipient, text="Olá"))])
    (claimed,) = claim(ledger, made.id)
    ledger.settle([Settlement(claimed, Succeeded(Receipt(f"wamid.{recipient}")))])
    return made.id


def test_what_waits_is_canceled_and_nothing_of_the_person_stays(ledger, archive, eraser, sql):
    id_ = opened(ledger)

    done = eraser.erase([ANA], reason="asked for")

    found = archive.find(id_)
    assert done == Erased(1, (id_,), 0, 0)
    assert (found.state, found.code, found.recipient) == ("canceled", "erased", "erased")
    assert sql("SELECT (SELECT count(*) FROM payloads), (SELECT count(*) FROM people)") == [(0, 0)]
    assert sql("SELECT length(person) FROM deliveries") == [(0,)]
    assert archive.verify().faults == {}


def test_what_ended_keeps_its_end_and_loses_the_providers_id(ledger, archive, eraser):
    id_ = opened(ledger)
    (claimed,) = claim(ledger, id_)
    ledger.settle([Settlement(claimed, Succeeded(Receipt("wamid.invented")))])

    eraser.erase([ANA], reason="asked for")

    found = archive.find(id_)
    assert (found.state, found.code, found.receipt) == ("succeeded", "ok", "erased")
    assert archive.verify().faults == {}


def test_what_may_have_been_carried_out_is_dead_and_not_canceled(ledger, archive, eraser, sql):
    id_ = opened(ledger)
    sql("UPDATE deliveries SET state = 'uncertain', uncertain_since = now()")

    done = eraser.erase([ANA], reason="asked for")

    assert (archive.find(id_).state, done.dead, done.canceled) == ("dead", 1, ())


def test_what_is_being_sent_is_told_and_found_again(ledger, archive, eraser):
    id_ = opened(ledger)
    (claimed,) = claim(ledger, id_)

    first = eraser.erase([ANA], reason="asked for")
    ledger.settle([Settlement(claimed, Succeeded(Receipt("LEAD-1")))])
    second = eraser.erase([ANA], reason="asked for")

    assert (first.deliveries, first.under_way) == (0, 1)
    assert (second.deliveries, second.under_way, archive.find(id_).recipient) == (1, 0, "erased")
    assert archive.verify().faults == {}


def test_a_retry_of_what_was_being_sent_sends_nothing(ledger, archive, eraser):
    id_ = opened(ledger)
    (claimed,) = claim(ledger, id_)
    eraser.erase([ANA], reason="asked for")
    outcome = Deferred(code="unavailable", reason="busy", wait=timedelta())
    ledger.settle([Settlement(claimed, outcome)])

    assert claim(ledger, id_) == []
    assert (archive.find(id_).state, archive.find(id_).code) == ("dead", "unreadable")


def test_nobody_else_is_touched(ledger, archive, eraser):
    mine = new(lead(2))
    ledger.open([mine])

    assert eraser.erase([ANA], reason="asked for").deliveries == 0
    assert [each.order.delivery_id for each in claim(ledger, mine.id)] == [mine.id]


def test_an_erased_person_is_not_brought_back_by_a_key_that_a_process_remembers(ledger, database, eraser, sql):
    elsewhere = PostgresLedger(database, Vault(database, MasterKeys([bytes(32)])))
    elsewhere.open([new(lead(1, key="first"))])  # this process remembers the person's data key now
    (remembered,) = [bytes(key) for (key,) in sql("SELECT data_key FROM people")]
    eraser.erase([ANA], reason="asked for")

    again = new(lead(1, key="second"))
    elsewhere.open([again])

    assert [bytes(key) for (key,) in sql("SELECT data_key FROM people")] != [remembered]
    assert [each.order.delivery_id for each in claim(ledger, again.id)] == [again.id]


def test_the_act_is_on_record_without_the_person(ledger, eraser, sql):
    id_ = opened(ledger)

    eraser.erase([ANA], reason="asked for")

    written = sql("SELECT actor, action, delivery_id, reason FROM audit WHERE action LIKE 'erased%' ORDER BY action")
    assert written == [("ana", "erased", id_, "asked for"), ("ana", "erased a person", None, "asked for")]
    assert sql("SELECT count(*) FROM audit WHERE audit::text LIKE '%exemplo%'") == [(0,)]


def test_an_erased_delivery_starts_no_fallback(ledger, eraser, sql):
    second = {"kind": "send_email", "to": ANA, "subject": "Teste", "text": "Olá"}
    ledger.open([new(lead(1, fallback=second))])

    eraser.erase([ANA], reason="asked for")

    assert sql("SELECT fallback FROM deliveries") == [(0,)]


def test_a_command_that_is_just_being_accepted_is_erased_as_well(ledger, eraser, database):
    delivery = new(lead(1))
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as connection:
            ledger.open_within(connection, [delivery])
            erasing = pool.submit(eraser.erase, [ANA], reason="asked for")
            waits = not wait([erasing], timeout=0.5).done
        done = erasing.result(timeout=60)

    assert (waits, done.canceled) == (True, (delivery.id,))


def test_a_person_goes_under_every_name_with_what_they_wrote_and_the_wish_stays(ledger, archive, eraser, inbound, sql):
    phone, wa_id, user = "+5511999990001", "5511999990001", "BR.1502576394655843"
    others = "+5511999990002"
    ids = {to: sent_to(ledger, to) for to in (phone, user, others)}
    inbound.keep(WHATSAPP, [Event("s1", "status", delivery_id=ids[phone], status="sent", person=wa_id, alias=user)])
    for n, who in enumerate((wa_id, others)):
        said = {"content": {"from": who, "written_by_contact": {"text": "SAIR"}}, "window_until": NOW}
        inbound.keep(WHATSAPP, [Event(f"m{n}", "message", at=NOW, person=who, consent="stop", **said)])
    inbound.absorb(most=10)

    done = eraser.erase([user], reason="asked for")

    contacts = Contacts(ledger.engine, ledger.vault)
    assert (done.deliveries, archive.find(ids[phone]).recipient, archive.find(ids[user]).recipient) == (
        2,
        "erased",
        "erased",
    )
    assert archive.find(ids[others]).recipient != "erased"
    assert sql("SELECT count(*) FROM inbound_events") == [(1,)]
    assert sql("SELECT (SELECT count(*) FROM aliases), (SELECT count(*) FROM windows)") == [(0, 1)]
    assert [contacts.has_opted_out(each) for each in (phone, wa_id, user)] == [True] * 3


def test_no_mark_of_a_person_stays_on_lists_and_in_order_keys(ledger, eraser, database, sql):
    policies, producers = StoredPolicies(database, ledger.vault), Producers(database, "ana")
    allowed = frozenset({policies.mark(ANA), policies.mark("bia@exemplo.com.br"), "@exemplo.org"})
    producers.set("agent", replace(DEFAULT, allowed=allowed), reason="a trial")
    ledger.open([new(lead(1, order_key=ANA))])

    eraser.erase([ANA], reason="asked for")

    assert producers.find("agent").policy.allowed == allowed - {policies.mark(ANA)}
    assert sql("SELECT order_key, content FROM deliveries") == [(None, None)]


def test_no_hash_of_what_a_person_approved_stays(ledger, eraser, sql):
    opened(ledger)
    sql("UPDATE deliveries SET approved = content::text::bytea")

    eraser.erase([ANA], reason="asked for")

    assert sql("SELECT content, approved FROM deliveries") == [(None, None)]


def test_a_list_with_nobody_left_lets_nobody_through(ledger, eraser, database):
    producers = Producers(database, "ana")
    mark = StoredPolicies(database, ledger.vault).mark(ANA)
    producers.set("agent", replace(DEFAULT, allowed=frozenset({mark})), reason="a trial")

    eraser.erase([ANA], reason="asked for")

    assert producers.find("agent").policy.allowed == frozenset()


def reasons(sql):
    return [row[0] for row in sql("SELECT reason FROM deliveries UNION ALL SELECT reason FROM audit") if row[0]]


def test_the_reasons_that_people_gave_go_with_the_person(ledger, archive, letters, eraser, sql):
    waiting, ended = (ledger.open([new(lead(1, key=each))])[0].id for each in ("a", "b"))
    cancel(ledger.engine, ended, actor="ana", reason="Zefirina desistiu")
    letters.view(waiting, reason="Zefirina ligou")

    eraser.erase([ANA], reason="asked for")

    assert not any("Zefirina" in each for each in reasons(sql))
    assert (archive.find(ended).reason, archive.find(waiting).reason) == (None, "the person was erased")


def test_statement_46_nothing_of_an_erased_person_can_be_read_or_found_and_the_act_is_on_record(ledger, eraser, sql):
    id_ = opened(ledger)
    payload, person = (bytes(sql(f"SELECT {column} FROM {table}")[0][0])  # noqa: S608 - ours
                       for column, table in (("body", "payloads"), ("person", "people")))  # fmt: skip

    eraser.erase([ANA], reason="asked for")

    assert sql("SELECT count(*) FROM people WHERE person = :person", person=person) == [(0,)]
    assert eraser.count([ANA]) == 0
    # Even a copy of the payload put back in its place is unreadable: its key is gone.
    sql("INSERT INTO payloads (delivery_id, body) VALUES (:id, :body)", id=id_, body=payload)
    sql("UPDATE deliveries SET state = 'ready', person = :person, settled_at = NULL", person=person)
    assert claim(ledger, id_) == []
    assert sql("SELECT action FROM audit WHERE action LIKE 'erased%' ORDER BY action") == [
        ("erased",), ("erased a person",)
    ]  # fmt: skip


def test_statement_46_a_restored_backup_is_erased_again_by_the_tombstones(ledger, database, eraser, sql, tmp_path):
    id_ = opened(ledger)
    other = new(lead(2))
    ledger.open([other])
    write_backup(database, tmp_path / "a.backup", key=None)
    eraser.erase([ANA], reason="asked for", suppress=True)
    stones = [tombstone_of(json.dumps(asdict(each), default=str)) for each in eraser.tombstones()]
    restore(database, tmp_path / "a.backup")
    back = eraser.count([ANA])

    done = eraser.replay(stones, reason="the backup of yesterday")
    again = eraser.replay(stones, reason="the backup of yesterday")

    assert (back, done.deliveries, again.deliveries, eraser.count([ANA])) == (1, 1, 0, 0)
    assert sql("SELECT count(*) FROM payloads WHERE delivery_id = :id", id=id_) == [(0,)]
    assert sql("SELECT count(*) FROM payloads WHERE delivery_id = :id", id=other.id) == [(1,)]
    assert eraser.tombstones() == stones


def restore(database, file):
    with open_backup(file) as found:
        found.restore(database, environment="sandbox", actor="ana", replace=True, opens=lambda _: None)


def test_a_person_who_came_back_is_not_erased_by_a_tombstone_that_the_ledger_knows(ledger, eraser):
    opened(ledger)
    eraser.erase([ANA], reason="asked for")
    ledger.open([new(lead(1, key="later"))])

    eraser.replay(eraser.tombstones(), reason="after a restore")

    assert eraser.count([ANA]) == 1


@pytest.mark.parametrize("line", ["", "{}", '{"person": "x", "at": "2026-12-01T00:00:00Z", "suppressed": false}'])
def test_what_is_no_tombstone_is_refused(line):
    with pytest.raises(ValueError, match="validation error"):
        tombstone_of(line)


def heard(at, **more):
    person, alias = "+5511999990001", "BR.1502576394655843"
    content = {"from": person, "written_by_contact": {"text": "Oi"}}
    return Event(f"m{at}", "message", at=at, person=person, alias=alias, content=content, **more)


@pytest.mark.parametrize("name", ["+5511999990001", "BR.1502576394655843"])
def test_an_old_webhook_brings_no_erased_person_back(eraser, inbound, sql, name):
    eraser.erase([name], reason="asked for")

    kept = inbound.keep(WHATSAPP, [heard(NOW - timedelta(days=1)), heard(None)])

    assert (kept, sql("SELECT count(*) FROM people"), sql("SELECT count(*) FROM inbound_events")) == (0, [(0,)], [(0,)])


def test_a_person_who_writes_again_by_themselves_is_heard_unless_suppressed(eraser, inbound):
    later = datetime.now(UTC) + timedelta(minutes=1)
    eraser.erase(["+5511999990001"], reason="asked for")
    heard_again = inbound.keep(WHATSAPP, [heard(later)])
    eraser.erase(["+5511999990001"], reason="asked for", suppress=True)

    still_heard = inbound.keep(WHATSAPP, [heard(later + timedelta(minutes=1))])

    assert (heard_again, still_heard) == (1, 0)


def test_statement_45_a_suppressed_person_is_not_sent_to_even_what_was_just_accepted(ledger, archive, eraser, sql):
    eraser.erase([ANA], reason="asked for", suppress=True)
    late = opened(ledger)  # accepted by a process that did not know yet

    assert claim(ledger, late) == []
    found = archive.find(late)
    assert (found.state, found.code) == ("canceled", "suppressed")
    assert archive.verify().faults == {}


def test_a_suppressed_person_is_refused_until_an_operator_allows_it(ledger, eraser, database, sql):
    policies = StoredPolicies(database, ledger.vault)
    eraser.erase([ANA], reason="asked for", suppress=True)
    policies.of("tests")
    refused = policies.is_suppressed(ANA), policies.is_suppressed("bia@exemplo.com.br")

    allowed = eraser.allow([ANA], reason="asked for it again")
    policies.forget()
    policies.of("tests")

    assert (refused, allowed, policies.is_suppressed(ANA)) == ((True, False), 1, False)
    assert eraser.allow([ANA], reason="again") == 0
    id_ = opened(ledger)
    assert [each.order.delivery_id for each in claim(ledger, id_)] == [id_]
    acts = sql("SELECT reason FROM audit WHERE action = 'allowed an erased person'")
    assert acts == [("asked for it again",)]
