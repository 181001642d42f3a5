"""The five test cases of the user's API specification, section 9.1 (read 2026-11-22), each from the door to the CRM."""

from collections import Counter
from uuid import UUID

import pytest

from delivery.errors import InvalidCommand
from delivery.lane import Lanes
from tasks.app import WORKER_THREADS

SENTENCE = "Seus dados foram registrados e serão processados em breve"  # section 5.3
VALIDATION_ERROR = {
    "code": "VALIDATION_ERROR",
    "message": "Email inválido",
    "details": [{"field": "email", "issue": "formato inválido"}],
}


def body(name):
    return {"nome": f"{name.title()} Teste", "email": f"{name}.teste@exemplo.com.br", "interesse": "produto_a"}


def statuses(delivery):
    return [each.http_status for each in delivery.timeline]


def test_case_1_a_valid_lead_is_created_and_its_receipt_kept(running):
    id_ = running.lead("um")

    found = running.until(id_, "succeeded")

    assert statuses(found) == [201]
    assert found.receipt
    assert running.effects("crm")[str(id_)] == 1


def test_case_2_what_the_crm_calls_invalid_is_dead_after_one_request_and_names_the_field(running):
    before = running.requests()
    running.control["crm"].plan({"status": 400, "body": {"error": VALIDATION_ERROR}, "match": "create_lead"})

    found = running.until(running.lead("dois"), "dead")

    assert (found.code, statuses(found)) == ("invalid", [400])
    assert "email" in found.reason
    assert "formato inválido" in found.reason
    assert running.requests() - before == Counter({"400": 1})


def test_case_2_what_our_door_calls_invalid_is_neither_written_nor_sent(running):
    accepted, before = running.accepted(), running.requests()

    with pytest.raises(InvalidCommand) as refused:
        running.submit("create_lead", **body("errado") | {"email": "errado(arroba)exemplo"})

    assert [each.field for each in refused.value.issues] == ["email"]
    assert (running.accepted(), running.requests()) == (accepted, before)


def test_case_3_a_hundred_leads_above_the_limit_wait_as_asked_and_all_arrive_once(running):
    before = running.requests()
    running.control["crm"].configure({"rate_limit": {"limit": 50, "window_s": 10}})

    with running.stood_still():  # so that the calls come faster than the limit, however slow this machine is
        ids = [running.lead(f"limite{n}") for n in range(100)]
    running.until(ids, "succeeded")

    made = running.requests() - before
    turned_away = [found for found in map(running.find, ids) if statuses(found)[0] == 429]
    waits = [found.timeline[0].wait_s for found in turned_away]
    assert made["201"] == 100
    # The 51st request of the window is refused, and the whole account then keeps still as long as the CRM asked: only
    # calls that were under way at that moment can be refused as well.
    assert 1 <= len(turned_away) <= WORKER_THREADS + Lanes.at_once
    assert made.keys() == {"201", "429"}
    assert all(1 <= each <= 11 for each in waits), "not what Retry-After asked for"
    effects = running.effects("crm")
    assert Counter(effects[str(id_)] for id_ in ids) == Counter({1: 100})


def test_case_4_an_absent_crm_is_asked_five_times_more_then_the_lead_waits_in_the_fallback_queue(running):
    running.control["crm"].plan({"status": 503, "times": None, "match": "create_lead"})
    same = {"options": {"key": "caso-4"}}
    first = running.app.intake.submit("create_lead", body("quatro") | same, producer="e2e")
    id_ = UUID(first.id)

    running.wait(lambda: running.find(id_).parks == 1, "the lead is parked")
    parked = running.find(id_)
    again = running.app.intake.submit("create_lead", body("quatro") | same, producer="e2e")
    running.control["crm"].clear_faults()
    running.sql("UPDATE deliveries SET next_at = now() WHERE id = :id", id=id_)
    found = running.until(id_, "succeeded")

    assert (parked.state, parked.code, statuses(parked)) == ("waiting", "unavailable", [503] * 6)
    steps = [2, 4, 6, 8, 10]  # linear, each cut by up to a half so that many do not come back together
    waits = [each.wait_s for each in parked.timeline[:5]]
    assert all(step / 2 - 0.5 <= wait <= step + 0.5 for step, wait in zip(steps, waits, strict=True)), waits
    assert first.message.startswith(SENTENCE)
    assert again.message.startswith(SENTENCE)
    assert (again.id, again.state, again.next_step) == (first.id, "waiting", "wait")
    assert statuses(found) == [503] * 6 + [201]
    assert running.effects("crm")[str(id_)] == 1


def test_case_5_an_expired_token_is_renewed_once_and_the_lead_arrives(running):
    running.works()
    tokens = running.requests("POST /oauth/token")
    running.control["crm"].plan({"expire_tokens": True, "match": "create_lead"})

    found = running.until(running.lead("cinco"), "succeeded")

    assert statuses(found) == [401, 201]
    assert running.requests("POST /oauth/token") - tokens == Counter({"200": 1})


def test_case_5_ten_leads_that_find_the_token_expired_renew_it_once_together(running):
    running.works()
    tokens = running.requests("POST /oauth/token")
    running.control["crm"].configure({"latency_s": 1})
    running.control["crm"].plan({"expire_tokens": True, "match": "create_lead"})

    with running.stood_still():  # so that it takes them up together
        ids = [running.lead(f"dez{n}") for n in range(10)]
    running.until(ids, "succeeded")

    refused = [found for found in map(running.find, ids) if 401 in statuses(found)]
    assert len(refused) > 1
    assert all(statuses(each) == [401, 201] for each in refused)
    assert running.requests("POST /oauth/token") - tokens == Counter({"200": 1})
