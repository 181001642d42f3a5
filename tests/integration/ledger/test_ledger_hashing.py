"""Providers' ids that name a person, and producers' keys, stand in no table in clear, and are found all the same."""

import base64
import json
from datetime import timedelta

import pytest

from delivery.commands import SendWhatsApp
from delivery.inbound import Event
from delivery.outcomes import Receipt, Rejected, Succeeded
from delivery.ports import Settlement
from ledger.callbacks import Callbacks
from ledger.entries import hashed_key
from ledger.hashing import hash_clear
from ledger.producer_models import metadata
from sandbox.graph_webhooks import message_id
from tests.integration.conftest import claim, lead, new

PHONE = "5511987650042"
WHATSAPP = "whatsapp:default"
KEY = "lead-zefirina.canarinho@exemplo.com.br"


def message(**options):
    return SendWhatsApp(to=f"+{PHONE}", text="Ol\u00e1", options=options)


def sent(ledger, wamid, command=None):
    (made,) = ledger.open([new(command or message())])
    (claimed,) = claim(ledger, made.id)
    ledger.settle([Settlement(claimed, Succeeded(Receipt(wamid)))])
    return made.id


def everything(sql):
    """Return all rows of all tables as text, and what base64 words in them hold."""
    found = "\n".join(
        row[0]
        for table in metadata.sorted_tables
        for row in sql(f'SELECT t::text FROM "{table.name}" t')  # noqa: S608 - ours
    )
    return found + "".join(map(opened, found.replace("(", ",").replace(")", ",").replace(".", ",").split(",")))


def opened(word):
    try:
        return base64.b64decode(word + "=" * (-len(word) % 4), validate=True).decode("latin-1")
    except ValueError:
        return ""


def test_a_stand_ins_message_id_holds_the_number_as_a_real_one_does():
    assert PHONE.encode() in base64.b64decode(message_id(PHONE, outgoing=True).removeprefix("wamid."))


def test_the_number_inside_a_message_id_stands_in_no_table(ledger, inbound, sql):
    wamid = message_id(PHONE, outgoing=True)
    callback = message(callback_url="https://loja.exemplo.com.br/entrega")
    id_ = sent(ledger, wamid, callback)
    inbound.keep(WHATSAPP, [Event("s1", "status", delivery_id=id_, status="delivered", receipt=wamid)])
    said = Event("m1", "message", person=f"+{PHONE}", receipt=message_id(PHONE, outgoing=False), content={"from": "x"})
    inbound.keep(WHATSAPP, [said])
    inbound.absorb(most=10)

    assert sql("SELECT count(*) FROM callback_events") == [(2,)]
    assert PHONE in opened(wamid.removeprefix("wamid."))
    assert PHONE not in everything(sql)


@pytest.mark.parametrize(("same", "state"), [(True, "dead"), (False, "succeeded")])
def test_a_failure_still_finds_the_message_that_it_is_about(ledger, archive, inbound, same, state):
    wamid = message_id(PHONE, outgoing=True)
    id_ = sent(ledger, wamid)
    about = wamid if same else message_id(PHONE, outgoing=True)

    inbound.keep(WHATSAPP, [Event("f1", "status", delivery_id=id_, status="failed", receipt=about)])
    inbound.absorb(most=10)

    assert archive.find(id_).state == state


def test_the_proof_of_a_message_is_the_same_at_every_door_and_for_every_event(ledger, archive, inbound, sql):
    wamid = message_id(PHONE, outgoing=True)
    id_ = sent(ledger, wamid)
    inbound.keep(WHATSAPP, [Event("s1", "status", delivery_id=id_, status="read", receipt=wamid)])

    shown = archive.find(id_).receipt
    assert shown == ledger.vault.proof(wamid) == sql("SELECT receipt FROM inbound_events")[0].receipt
    assert shown.startswith("hashed:")


def test_a_producer_is_told_the_proof_and_not_the_number(ledger, sql):
    wamid = message_id(PHONE, outgoing=True)
    id_ = sent(ledger, wamid, message(callback_url="https://loja.exemplo.com.br/entrega"))
    hints = Callbacks(ledger, timedelta(days=1)).open_noted()

    told = [each.order.command.data for each in claim(ledger, *(each.id for each in hints))]

    assert [each["receipt"] for each in told if each["id"] == str(id_)][-1] == ledger.vault.proof(wamid)
    assert not any(wamid in json.dumps(each) for each in told)


def test_a_crms_lead_id_stays_readable(ledger, archive):
    (made,) = ledger.open([new(lead())])
    (claimed,) = claim(ledger, made.id)

    ledger.settle([Settlement(claimed, Succeeded(Receipt("LEAD-2026-000001")))])

    assert archive.find(made.id).receipt == "LEAD-2026-000001"


def test_a_providers_reason_is_masked(ledger, archive):
    (made,) = ledger.open([new(lead())])
    (claimed,) = claim(ledger, made.id)

    ledger.settle([Settlement(claimed, Rejected("invalid", "no mailbox zefirina.canarinho@exemplo.com.br here"))])

    assert archive.find(made.id).reason == "no mailbox z***@exemplo.com.br here"


def test_a_producers_key_stands_nowhere_and_is_recognised(ledger, sql):
    (first,) = ledger.open([new(lead(key=KEY))])

    (again,) = ledger.open([new(lead(key=KEY))])
    (other,) = ledger.open([new(lead(2, key=KEY))])

    assert (again.id, again.fresh, again.same_body) == (first.id, False, True)
    assert (other.id, other.same_body) == (first.id, False)
    assert "zefirina" not in everything(sql)


def test_what_an_earlier_version_left_in_clear_is_hashed_and_still_found(ledger, archive, inbound, sql):
    wamid = message_id(PHONE, outgoing=True)
    first, second = sent(ledger, wamid, message(key=KEY)), sent(ledger, "LEAD-2026-000001", lead())
    sql("UPDATE deliveries SET receipt = :wamid WHERE id = :id", wamid=wamid, id=first)
    sql(
        "INSERT INTO inbound_events (account, key, receipt) VALUES (:account, 'old', :wamid)",
        account=WHATSAPP,
        wamid=wamid,
    )
    sql("UPDATE idempotency SET key = :key WHERE key LIKE 'key#%'", key=f"key:{KEY}")

    changed = [hash_clear(ledger.vault), hash_clear(ledger.vault)]

    inbound.keep(WHATSAPP, [Event("f1", "status", delivery_id=first, status="failed", receipt=wamid)])
    inbound.absorb(most=10)
    (again,) = ledger.open([new(message(key=KEY))])
    assert changed == [3, 0]
    assert (archive.find(first).state, archive.find(second).receipt) == ("dead", "LEAD-2026-000001")
    assert (again.id, again.same_body) == (first, True)
    assert not [each for each in (PHONE, "zefirina") if each in everything(sql)]


def test_many_old_values_are_hashed_page_by_page(ledger, sql, monkeypatch):
    monkeypatch.setattr("ledger.hashing._AT_ONCE", 2)
    ids = [sent(ledger, f"LEAD-2026-00000{n}", lead(n, key=f"k{n}")) for n in range(5)]
    sql("UPDATE deliveries SET receipt = 'wamid.' || id")
    sql("UPDATE idempotency SET key = 'key:' || delivery_id")

    assert hash_clear(ledger.vault) == 10
    assert sql("SELECT count(*) FROM deliveries WHERE receipt LIKE 'hashed:%'") == [(5,)]
    keys = {hashed_key(ledger.vault, "key", str(each)) for each in ids}
    assert {row.key for row in sql("SELECT key FROM idempotency")} == keys


def test_an_empty_ledger_needs_no_key_to_find_nothing_to_hash(ledger, sql):
    assert hash_clear(ledger.vault) == 0
    assert sql("SELECT count(*) FROM vault") == [(0,)]


def test_the_purge_looks_at_what_was_written_lately_alone(ledger, inbound, sql):
    wamid = message_id(PHONE, outgoing=True)
    sent(ledger, wamid)
    inbound.keep(WHATSAPP, [Event("old", "status", status="sent"), Event("new", "status", status="sent")])
    sql("UPDATE inbound_events SET receipt = :wamid", wamid=wamid)
    sql("UPDATE inbound_events SET at = now() - interval '3 days' WHERE id = (SELECT min(id) FROM inbound_events)")
    sql("UPDATE deliveries SET receipt = :wamid", wamid=wamid)

    lately = hash_clear(ledger.vault, lately=timedelta(days=2))

    assert (lately, hash_clear(ledger.vault)) == (2, 1)
