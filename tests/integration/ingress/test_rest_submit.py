"""The REST door for producers, against a real server and a real ledger."""

import json
import threading
from uuid import UUID, uuid4

import pytest
import requests

from ledger.api_keys import ApiKeys
from tests.integration.conftest import claim

_REASON = {"reason": "não é meu"}
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
WHATSAPP = {"to": "+5511999990001", "text": "Olá, Ana!"}
EMAIL = {"to": "ana.teste@exemplo.com.br", "subject": "Teste", "text": "Olá!"}
ERROR = {"code", "message", "details"}


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/leads", LEAD, "create_lead"),
        ("/v1/whatsapp", WHATSAPP, "send_whatsapp"),
        ("/v1/emails", EMAIL, "send_email"),
    ],
)
def test_a_command_is_answered_with_an_honest_receipt(door, archive, path, body, kind):
    answer = door.post(path, body)

    receipt = answer.json()
    assert answer.status_code == 202
    assert set(receipt) == {
        "id", "state", "kind", "account", "message", "next_step", "expected_at", "duplicate_of",
    }  # fmt: skip
    assert (receipt["kind"], receipt["state"], receipt["next_step"]) == (kind, "ready", "wait")
    assert archive.find(UUID(receipt["id"])).producer == "bootstrap"
    assert door.voice.heard() == UUID(receipt["id"])


def test_the_receipt_speaks_english_when_asked(door):
    answer = door.post("/v1/leads", LEAD, headers={"Accept-Language": "en-GB,pt;q=0.5"})

    assert answer.json()["message"] == "Your data has been registered and will be processed soon"


def test_the_same_key_and_body_give_the_first_receipt_again(door):
    first = door.post("/v1/leads", LEAD, headers={"Idempotency-Key": "k1"}).json()

    again = door.post("/v1/leads", LEAD | {"options": {"key": "k1"}}).json()

    assert (again["id"], again["duplicate_of"]) == (first["id"], None)


def test_statement_38_the_same_key_with_another_body_is_a_conflict(door, archive):
    door.post("/v1/leads", LEAD, headers={"Idempotency-Key": "k1"})

    answer = door.post("/v1/leads", LEAD | {"nome": "Bia Teste"}, headers={"Idempotency-Key": "k1"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "key_reused")
    assert len(archive.search()) == 1


def test_two_different_keys_for_one_command_are_refused(door, archive):
    answer = door.post("/v1/leads", LEAD | {"options": {"key": "k2"}}, headers={"Idempotency-Key": "k1"})

    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == "options.key"
    assert archive.search() == []


def test_a_repeat_without_a_key_names_the_first(door):
    first = door.post("/v1/leads", LEAD).json()

    assert door.post("/v1/leads", LEAD).json()["duplicate_of"] == first["id"]


def test_wrong_fields_are_named_and_nothing_is_written(door, archive):
    answer = door.post("/v1/leads", LEAD | {"email": "errado", "telefone": "1"})

    error = answer.json()["error"]
    assert answer.status_code == 422
    assert set(error) == ERROR
    assert {each["field"] for each in error["details"]} == {"email", "telefone"}
    assert "errado" not in answer.text
    assert archive.search() == []


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing_key"),
        ({"Authorization": "Bearer entrega_curta"}, 401, "mistyped_key"),
        ({"X-API-Key": "entrega_" + "a" * 39}, 401, "mistyped_key"),
        ({"Authorization": "Basic YTpi"}, 401, "missing_key"),
    ],
)
def test_without_a_good_key_nothing_is_written(door, archive, headers, status, code):
    answer = requests.post(f"{door.url}/v1/leads", json=LEAD, headers=headers, timeout=60)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert archive.search() == []


def test_a_key_may_do_what_its_scopes_say(door):
    seller = door.with_key("loja", "submit:create_lead")

    answers = [seller.post("/v1/leads", LEAD), seller.post("/v1/emails", EMAIL), seller.get("/v1/deliveries")]

    assert [each.status_code for each in answers] == [202, 403, 403]
    assert answers[1].json()["error"]["code"] == "missing_scope"


def test_a_revoked_key_is_audited_and_refused_by_a_fresh_process(door, doors, sql):
    seller = door.with_key("loja", "read")
    keys = ApiKeys(door.app.database)
    (made,) = keys.list(producer="loja")

    keys.revoke(made.id, actor="ana", reason="it leaked")

    assert doors().get("/v1/deliveries", key=seller.key).status_code == 401
    assert [row.action for row in sql("SELECT action FROM audit ORDER BY id")] == ["key_created", "key_revoked"]
    assert keys.revoke(made.id, actor="ana", reason="again") is False


def test_no_key_is_stored_in_clear(door, sql):
    seller = door.with_key("loja", "read")

    stored = str(sql("SELECT * FROM api_keys")) + str(sql("SELECT * FROM audit"))

    assert seller.key[8:] not in stored
    assert seller.key[:12] in stored


def test_another_producers_deliveries_do_not_exist(door):
    mine, theirs = door.with_key("loja", "submit", "read"), door.with_key("outra", "submit", "read")
    id_ = theirs.post("/v1/leads", LEAD).json()["id"]

    answers = [
        mine.get(f"/v1/deliveries/{id_}"),
        mine.post(f"/v1/deliveries/{id_}/cancel", {"reason": "não é meu"}),
        mine.get(f"/v1/deliveries/{uuid4()}"),
        mine.get("/v1/deliveries/nada"),
    ]

    assert [(each.status_code, each.json()) for each in answers] == [(404, answers[2].json())] * 4
    assert mine.get("/v1/deliveries").json() == {"items": [], "next": None}
    assert door.get(f"/v1/deliveries/{id_}").status_code == 200


def test_statement_35_no_route_tells_another_producers_delivery_from_one_that_does_not_exist(door):
    mine, theirs = door.with_key("loja", "submit", "read"), door.with_key("outra", "submit", "read")
    id_ = theirs.post("/v1/leads", LEAD).json()["id"]
    routes = [
        (method, path)
        for path, methods in door.get("/openapi.json").json()["paths"].items()
        for method in methods
        if "{delivery_id}" in path
    ]

    def answers(delivery):
        asked = [mine.ask(method, path.format(delivery_id=delivery), json=_REASON) for method, path in routes]
        return [(each.status_code, each.json()) for each in asked]

    assert len(routes) > 5
    assert answers(id_) == answers(uuid4())


def test_statement_38_another_producers_key_is_no_repeat(door):
    mine, theirs = door.with_key("loja", "submit"), door.with_key("outra", "submit")
    body = LEAD | {"options": {"key": "k1"}}

    answers = [each.post("/v1/leads", body) for each in (mine, theirs)]

    assert [each.status_code for each in answers] == [202, 202]
    assert len({each.json()["id"] for each in answers}) == 2


def test_a_delivery_is_shown_masked_with_its_timeline(door, ledger):
    id_ = door.post("/v1/leads", LEAD).json()["id"]
    claim(ledger, UUID(id_))

    answer = door.get(f"/v1/deliveries/{id_}")

    shown = answer.json()
    assert (shown["state"], shown["recipient"]) == ("attempting", "a***@exemplo.com.br")
    assert set(shown["timeline"][0]) == {
        "n", "started_at", "ended_at", "outcome", "code", "http_status", "provider_code", "duration_ms", "wait_s",
    }  # fmt: skip
    assert "ana.teste" not in answer.text


def test_a_list_is_read_page_by_page(door):
    ids = [door.post("/v1/leads", LEAD | {"email": f"ana{n}@exemplo.com.br"}).json()["id"] for n in range(3)]

    first = door.get("/v1/deliveries?limit=2&state=ready&kind=create_lead").json()
    second = door.get(f"/v1/deliveries?limit=2&before={first['next']}").json()

    assert [each["id"] for each in first["items"] + second["items"]] == ids[::-1]
    assert second["next"] is None


@pytest.mark.parametrize("query", ["limit=0", "state=nada", "kind=%00", "before=x", "account=a%20b"])
def test_a_wrong_filter_is_refused(door, query):
    assert door.get(f"/v1/deliveries?{query}").status_code == 422


def test_a_canceled_delivery_is_never_sent_and_the_second_cancel_is_refused(door, ledger, sql):
    seller = door.with_key("loja", "submit")
    id_ = seller.post("/v1/leads", LEAD).json()["id"]

    answers = [seller.post(f"/v1/deliveries/{id_}/cancel", {"reason": "o cliente ligou"}) for _ in range(2)]

    assert [each.status_code for each in answers] == [200, 409]
    assert claim(ledger, UUID(id_)) == []
    assert sql("SELECT actor FROM audit WHERE action = 'canceled'") == sql("SELECT 'key:loja#' || id FROM api_keys")


def test_bulk_answers_each_item_in_order(door, archive):
    items = [
        {"kind": "create_lead", **LEAD},
        {"kind": "send_email", **EMAIL, "subject": 1},
        {"kind": "nada"},
        {"kind": "create_lead", **LEAD},
        {"kind": "send_whatsapp", **WHATSAPP, "options": {"dry_run": True}},
        7,
    ]

    answer = door.post("/v1/bulk", {"items": items})

    told = answer.json()
    assert (answer.status_code, told["accepted"], told["refused"]) == (202, 2, 4)
    codes = [each["error"]["code"] if each["error"] else each["receipt"]["state"] for each in told["items"]]
    assert codes == ["ready", "invalid_command", "invalid_command", "ready", "invalid_command", "invalid_command"]
    assert told["items"][3]["receipt"]["duplicate_of"] == told["items"][0]["receipt"]["id"]
    assert len(archive.search()) == 1


def test_bulk_takes_lines_and_a_broken_line_costs_no_other(door):
    lines = "\n".join([json.dumps({"kind": "create_lead", **LEAD}), '{"kind": "create', "", json.dumps([])])

    answer = door.ask("POST", "/v1/bulk", data=lines, headers={"Content-Type": "application/x-ndjson"})

    assert [bool(each["receipt"]) for each in answer.json()["items"]] == [True, False, False]


def test_bulk_heeds_the_scope_of_each_item(door):
    seller = door.with_key("loja", "submit:create_lead")

    told = seller.post("/v1/bulk", {"items": [{"kind": "create_lead", **LEAD}, {"kind": "send_email", **EMAIL}]}).json()

    assert [each["error"] and each["error"]["code"] for each in told["items"]] == [None, "missing_scope"]


@pytest.mark.parametrize(
    "body", [{}, {"items": []}, {"items": {}}, {"items": [{}], "more": 1}, {"items": [0] * 10_001}]
)
def test_a_bulk_body_that_is_none_is_refused_as_a_whole(door, body):
    assert door.post("/v1/bulk", body).status_code == 422


def test_ten_thousand_items_are_accepted_at_once(door, archive):
    items = [{"kind": "create_lead", **LEAD, "email": f"ana{n}@exemplo.com.br"} for n in range(10_000)]

    told = door.post("/v1/bulk", {"items": items}, timeout=300).json()

    assert (told["accepted"], archive.counts()) == (10_000, {("ready", "create_lead"): 10_000})
    assert len({each["receipt"]["id"] for each in told["items"]}) == 10_000


def test_while_postgres_is_away_nothing_is_promised(doors, stranger):
    door = doors(book=stranger)

    answer = door.post("/v1/leads", LEAD)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_away")
    assert int(answer.headers["Retry-After"]) > 0


def test_while_redis_is_away_commands_are_accepted(doors):
    def real_hints(app):
        del app.__dict__["hints"]

    assert doors(change=real_hints).post("/v1/leads", LEAD).status_code == 202


def test_a_service_too_far_behind_takes_no_more(doors, ledger, archive):
    def one_may_wait(app):
        crm = app.specs["crm"]
        limits = crm.limits.model_copy(update={"most_due": 1})
        app.__dict__["specs"] = {**app.specs, "crm": crm.model_copy(update={"limits": limits})}

    door = doors(change=one_may_wait)
    bodies = [{"kind": "create_lead", **LEAD, "email": f"ana{n}@exemplo.com.br"} for n in range(2)]
    first = doors().post("/v1/bulk", {"items": bodies})

    answer, other = door.post("/v1/leads", LEAD), door.post("/v1/whatsapp", WHATSAPP)

    assert first.json()["accepted"] == 2
    assert (answer.status_code, answer.json()["error"]["code"], other.status_code) == (429, "too_far_behind", 202)
    assert int(answer.headers["Retry-After"]) > 0
    assert len(archive.search()) == 3


def test_the_id_of_a_request_is_sent_back(door):
    mine = door.get("/v1/deliveries", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"]
    made = door.get("/v1/deliveries", headers={"X-Request-Id": "a b"}).headers["X-Request-Id"]

    assert mine == "abc-1"
    assert UUID(made)


def test_a_long_poll_ends_with_the_news(door, ledger):
    id_ = door.post("/v1/leads", LEAD).json()["id"]
    claim(ledger, UUID(id_))
    quick = door.get(f"/v1/deliveries/{id_}?wait=1").elapsed.total_seconds()
    fresh = door.post("/v1/leads", LEAD | {"email": "bia@exemplo.com.br"}).json()["id"]

    cancel = threading.Timer(2, lambda: door.post(f"/v1/deliveries/{fresh}/cancel", {"reason": "teste"}))
    cancel.start()
    answer = door.get(f"/v1/deliveries/{fresh}?wait=20")
    cancel.join()

    assert quick >= 1
    assert answer.json()["state"] == "canceled"
    assert 0.5 < answer.elapsed.total_seconds() < 18


def test_an_unknown_address_and_method_answer_in_the_same_shape(door):
    answers = [door.get("/v1/nada"), door.ask("DELETE", "/v1/leads")]

    assert [(each.status_code, set(each.json()["error"])) for each in answers] == [(404, ERROR), (405, ERROR)]
