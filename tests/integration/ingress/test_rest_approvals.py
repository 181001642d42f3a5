"""What an approver sees, what an approval is bound to, and who may not give it; over HTTP on a real ledger."""

from dataclasses import replace

import pytest

from delivery.producers import DEFAULT
from ledger.producers import Producers

LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
CHAT = {"kind": "send_whatsapp", "to": "+5511999990001", "text": "O segundo texto"}
WHY = {"reason": "visto"}


@pytest.fixture
def loja(database, door):
    Producers(database, actor="ana").set("loja", replace(DEFAULT, needs_approval=True), reason="test")
    return door.with_key("loja", "submit", "read", "operate")


@pytest.fixture
def boss(door):
    return door.with_key("chefe", "operate")


def ask(loja, **options):
    return loja.post("/v1/leads", LEAD | {"options": {"fallback": CHAT, **options}}).json()["id"]


def test_an_approver_sees_the_fallback_masked(loja, boss):
    seen = boss.get(f"/v1/approvals/{ask(loja)}").json()

    assert seen["payload"] == {
        "nome": "***", "email": "a***@exemplo.com.br", "interesse": "produto_a", "origem": "agente_ia", "tags": [],
    }  # fmt: skip
    assert seen["fallback"] == {
        "kind": "send_whatsapp", "account": "default", "payload": {"to": "+55119999****", "text": "***"},
    }  # fmt: skip
    assert (seen["revealed"], len(seen["content_hash"])) == (False, 64)


def test_an_approver_reads_both_texts_and_that_is_on_record(loja, boss, letters):
    id_ = ask(loja)

    seen = boss.post(f"/v1/approvals/{id_}/reveal", {"reason": "para aprovar"}).json()

    assert (seen["payload"]["nome"], seen["fallback"]["payload"]["text"]) == ("Ana Teste", "O segundo texto")
    assert seen["revealed"]
    last = letters.history(id_)[-1]
    assert (last.actor.split("#")[0], last.action, last.reason) == ("key:chefe", "revealed", "para aprovar")


@pytest.mark.parametrize("body", [{}, {"reason": ""}])
def test_nothing_is_revealed_without_a_reason(loja, boss, body):
    assert boss.post(f"/v1/approvals/{ask(loja)}/reveal", body).status_code == 422


def test_only_what_waits_for_approval_is_revealed(door, boss):
    id_ = door.post("/v1/leads", LEAD).json()["id"]

    answer = boss.post(f"/v1/approvals/{id_}/reveal", WHY)

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_awaiting")


def test_a_key_without_operate_reveals_nothing(loja, door):
    answer = door.with_key("outra", "submit", "read").post(f"/v1/approvals/{ask(loja)}/reveal", WHY)

    assert answer.status_code == 403


@pytest.mark.parametrize("scopes", [("operate",), ("admin",)])
def test_who_asked_does_not_approve(loja, door, archive, scopes):
    id_ = ask(loja)

    answers = [each.post(f"/v1/deliveries/{id_}/approve", WHY) for each in (loja, door.with_key("loja", *scopes))]

    assert [(each.status_code, each.json()["error"]["code"]) for each in answers] == [(403, "own_request")] * 2
    assert archive.find(id_).state == "held"


def test_who_edited_a_delivery_does_not_approve_it(loja, boss, door, archive, sql):
    id_ = ask(loja)
    sql("UPDATE deliveries SET state = 'dead', code = 'invalid'")
    edited = boss.post(f"/v1/dead-letters/{id_}/edit", {"reason": "x", "changes": {"nome": "Outra"}}).json()
    new = edited["receipt"]["id"]

    own = boss.post(f"/v1/deliveries/{new}/approve", WHY)
    second = door.with_key("chefe", "operate").post(f"/v1/deliveries/{new}/approve", WHY)
    other = door.with_key("outra-chefe", "operate").post(f"/v1/deliveries/{new}/approve", WHY)

    assert edited["receipt"]["state"] == "held"
    assert [(each.status_code, each.json()["error"]["code"]) for each in (own, second)] == [(403, "own_request")] * 2
    assert other.status_code == 200


def test_statement_42_an_approval_for_another_content_is_refused(loja, boss):
    id_ = ask(loja)
    seen = boss.get(f"/v1/approvals/{id_}").json()["content_hash"]

    wrong = boss.post(f"/v1/deliveries/{id_}/approve", WHY | {"content_hash": "0" * 64})
    right = boss.post(f"/v1/deliveries/{id_}/approve", WHY | {"content_hash": seen})

    assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "other_content")
    assert right.status_code == 200


def test_statement_42_what_is_approved_covers_every_part_that_would_be_sent(loja, boss):
    others = ({"fallback": CHAT | {"text": "outro"}}, {"priority": "high"}, {"metadata": {"a": 1}})

    hashes = {boss.get(f"/v1/approvals/{ask(loja, key=str(n), **each)}").json()["content_hash"]
              for n, each in enumerate(({}, *others))}  # fmt: skip

    assert len(hashes) == 4


def test_a_dead_letter_shows_its_fallback_too(loja, boss, sql):
    id_ = ask(loja)
    sql("UPDATE deliveries SET state = 'dead', code = 'invalid'")

    seen = boss.get(f"/v1/dead-letters/{id_}").json()

    assert seen["fallback"]["payload"] == {"to": "+55119999****", "text": "***"}
