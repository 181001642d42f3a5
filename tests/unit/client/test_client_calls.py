"""The client's promises, with Entrega faked at the wire: one key for all tries, patience, and errors in words."""

import json
from datetime import UTC, datetime

import pytest
import requests
import responses
from entrega_client import (
    Entrega,
    Forbidden,
    KeyReused,
    NotCancelable,
    NotFound,
    Refused,
    Unavailable,
    UnexpectedAnswer,
)
from entrega_client.calls import Clock

URL = "https://entrega.exemplo.com.br"
ID = "01a20146-c68f-77f3-a497-12636e996a58"
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
RECEIPT = {
    "id": ID,
    "state": "ready",
    "kind": "create_lead",
    "account": "crm:default",
    "message": "Seus dados foram registrados",
    "next_step": "wait",
    "expected_at": "2026-11-22T03:22:25.325350+00:00",
    "duplicate_of": None,
    "news": "of a newer one",
}


class Watch:
    """A clock that moves only when somebody sleeps."""

    def __init__(self):
        self.time, self.naps = 100.0, []

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.time += seconds


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def entrega(watch):
    with Entrega(URL, "invented", clock=Clock(watch.now, watch.sleep, lambda: 0.0)) as client:
        yield client


@pytest.fixture
def wire():
    with responses.RequestsMock() as mock:
        yield mock


def trouble(code, *details):
    return {"error": {"code": code, "message": "em palavras", "details": list(details)}}


def keys_sent(wire):
    return [call.request.headers["Idempotency-Key"] for call in wire.calls]


def test_a_lead_becomes_a_receipt(entrega, wire):
    wire.post(f"{URL}/v1/leads", json=RECEIPT, status=202)

    receipt = entrega.create_lead(**LEAD, tags=("vip",))

    sent = wire.calls[0].request
    assert json.loads(sent.body) == {**LEAD, "tags": ["vip"]}
    assert (sent.headers["Authorization"], sent.headers["Accept-Language"]) == ("Bearer invented", "pt-BR")
    assert (receipt.id, receipt.next_step, receipt.key) == (ID, "wait", keys_sent(wire)[0])
    assert receipt.expected_at == datetime(2026, 11, 22, 3, 22, 25, 325350, UTC)


@pytest.mark.parametrize(
    ("call", "path", "body"),
    [
        (
            lambda it: it.send_whatsapp("+5511999999999", text="Oi"),
            "/v1/whatsapp",
            {"to": "+5511999999999", "text": "Oi"},
        ),
        (
            lambda it: it.send_email("ana@exemplo.com.br", subject="Oi", text="Olá", sender="loja@exemplo.com.br"),
            "/v1/emails",
            {"to": "ana@exemplo.com.br", "subject": "Oi", "text": "Olá", "from": "loja@exemplo.com.br"},
        ),
    ],
)
def test_each_kind_goes_to_its_route(entrega, wire, call, path, body):
    wire.post(URL + path, json=RECEIPT, status=202)

    call(entrega)

    assert json.loads(wire.calls[0].request.body) == body


@pytest.mark.parametrize(
    "failure",
    [
        {"status": 429, "json": trouble("too_far_behind")},
        {"status": 503, "json": trouble("ledger_away")},
        {"status": 502, "body": "<html>a proxy</html>"},
        {"body": requests.exceptions.ReadTimeout("slow")},
        {"body": requests.exceptions.ConnectionError("reset")},
    ],
)
def test_every_try_carries_the_same_key_and_the_same_body(entrega, wire, failure):
    wire.post(f"{URL}/v1/leads", **failure)
    wire.post(f"{URL}/v1/leads", **failure)
    wire.post(f"{URL}/v1/leads", json=RECEIPT, status=202)

    entrega.create_lead(**LEAD)

    assert len(wire.calls) == 3
    assert len(set(keys_sent(wire))) == len({call.request.body for call in wire.calls}) == 1


def test_two_calls_are_two_commands(entrega, wire):
    wire.post(f"{URL}/v1/leads", json=RECEIPT, status=202)

    entrega.create_lead(**LEAD)
    entrega.create_lead(**LEAD)

    assert len(set(keys_sent(wire))) == 2


@pytest.mark.parametrize("given", [{"key": "conversa-4711"}, {"options": {"key": "conversa-4711"}}])
def test_a_key_of_the_callers_own_is_kept(entrega, wire, given):
    wire.post(f"{URL}/v1/leads", json=RECEIPT, status=202)

    entrega.create_lead(**LEAD, **given)

    assert keys_sent(wire) == ["conversa-4711"]


@pytest.mark.parametrize(("asked", "naps"), [("7", [7.0]), ("Sun, 22 Nov 2015 10:00:00 GMT", [0.0]), ("soon", [0.125])])
def test_the_wait_that_was_asked_for_is_kept(entrega, wire, watch, asked, naps):
    wire.post(f"{URL}/v1/leads", status=429, json=trouble("too_far_behind"), headers={"Retry-After": asked})
    wire.post(f"{URL}/v1/leads", json=RECEIPT, status=202)

    entrega.create_lead(**LEAD)

    assert watch.naps == naps


def test_a_wait_beyond_the_deadline_is_not_begun(entrega, wire, watch):
    wire.post(f"{URL}/v1/leads", status=503, json=trouble("ledger_away"), headers={"Retry-After": "3600"})

    with pytest.raises(Unavailable) as raised:
        entrega.create_lead(**LEAD, key="conversa-4711")

    assert (watch.naps, raised.value.retry_after_s, raised.value.may_have_arrived) == ([], 3600.0, False)
    assert (raised.value.next_step, raised.value.key) == ("wait", "conversa-4711")


def test_the_deadline_ends_all_tries_and_pauses(entrega, wire, watch):
    wire.post(f"{URL}/v1/leads", body=requests.exceptions.ReadTimeout("slow"))

    with pytest.raises(Unavailable) as raised:
        entrega.create_lead(**LEAD)

    assert watch.time - 100 <= 30
    assert raised.value.may_have_arrived


@pytest.mark.parametrize(
    ("status", "code", "kind", "next_step"),
    [
        (422, "invalid_command", Refused, "fix_fields"),
        (400, "invalid_json", Refused, "fix_fields"),
        (413, "too_large", Refused, "fix_fields"),
        (409, "key_reused", KeyReused, "fix_fields"),
        (401, "unknown_key", Forbidden, "ask_operator"),
        (403, "missing_scope", Forbidden, "ask_operator"),
        (404, "not_found", NotFound, "fix_fields"),
    ],
)
def test_a_refusal_is_told_at_once_and_never_repeated(entrega, wire, status, code, kind, next_step):
    wire.post(f"{URL}/v1/leads", status=status, json=trouble(code), headers={"X-Request-Id": "r-1"})

    with pytest.raises(kind) as raised:
        entrega.create_lead(**LEAD)

    assert len(wire.calls) == 1
    assert (raised.value.code, raised.value.next_step, raised.value.request_id) == (code, next_step, "r-1")


def test_a_refusal_names_the_fields(entrega, wire):
    detail = {"field": "email", "issue": "formato inválido"}
    wire.post(f"{URL}/v1/leads", status=422, json=trouble("invalid_command", detail))

    with pytest.raises(Refused, match="email: formato inválido") as raised:
        entrega.create_lead(**LEAD)

    assert [(each.field, each.issue) for each in raised.value.issues] == [("email", "formato inválido")]


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 202, "body": "<html>welcome</html>"},
        {"status": 202, "json": {"id": ID}},
        {"status": 202, "json": ["id"]},
        {"status": 301, "headers": {"Location": "https://elsewhere.exemplo.com.br/"}},
        {"status": 404, "body": "<html>not here</html>"},
    ],
)
def test_an_answer_that_is_not_ours_is_an_error(entrega, wire, answer):
    wire.post(f"{URL}/v1/leads", **answer)

    with pytest.raises(UnexpectedAnswer):
        entrega.create_lead(**LEAD)

    assert len(wire.calls) == 1


@pytest.mark.parametrize(
    "body",
    [{"nome": float("nan")}, {"options": {"dry_run": True}}, {"options": {"key": "outra"}}, {"nome": "\ud800"}],
)
def test_a_body_that_cannot_go_is_refused_before_it_goes(entrega, wire, body):
    with pytest.raises(ValueError):  # noqa: PT011 - each says it in words of its own
        entrega.submit("create_lead", {**LEAD, **body}, key="conversa-4711")

    assert len(wire.calls) == 0


def test_each_of_many_gets_a_key_of_its_own_once(entrega, wire):
    item = {"kind": "create_lead", **LEAD}
    told = {"items": [{"receipt": RECEIPT, "error": None}, {"receipt": None, **trouble("invalid_command")}]}
    wire.post(f"{URL}/v1/bulk", status=503, json=trouble("busy"))
    wire.post(f"{URL}/v1/bulk", status=202, json=told)

    first, second = entrega.submit_many([item, {**item, "options": {"key": "conversa-4711"}}])

    bodies = [call.request.body for call in wire.calls]
    keys = [each["options"]["key"] for each in json.loads(bodies[0])["items"]]
    assert bodies[0] == bodies[1]
    assert keys == [first.key, "conversa-4711"]
    assert (first.receipt.id, type(second.error), second.receipt) == (ID, Refused, None)


def test_many_without_an_answer_can_be_given_again_with_their_keys(entrega, wire):
    wire.post(f"{URL}/v1/bulk", body=requests.exceptions.ReadTimeout("slow"))

    with pytest.raises(Unavailable) as raised:
        entrega.submit_many([{"kind": "create_lead", **LEAD}])

    assert raised.value.items == json.loads(wire.calls[0].request.body)["items"]


def delivery(state):
    return {
        "id": ID,
        "kind": "create_lead",
        "account": "crm:default",
        "state": state,
        "progress": None,
        "recipient": "a***@exemplo.com.br",
        "attempts": 0,
        "code": None,
        "reason": None,
        "receipt": None,
        "created_at": "2026-11-22T03:22:25+00:00",
        "next_at": None,
        "expires_at": "2026-11-23T03:22:25+00:00",
        "settled_at": None,
        "fallback_id": None,
        "timeline": [],
    }


def test_waiting_ends_when_the_delivery_is_settled(entrega, wire):
    wire.get(f"{URL}/v1/deliveries/{ID}", json=delivery("ready"))
    wire.get(f"{URL}/v1/deliveries/{ID}?wait=20", json=delivery("waiting"))
    wire.get(f"{URL}/v1/deliveries/{ID}?wait=19", json=delivery("succeeded"))

    found = entrega.wait(ID, 20)

    assert (found.state, found.is_settled, len(wire.calls)) == ("succeeded", True, 3)


def test_waiting_ends_in_time_and_does_not_hammer_a_server_that_answers_at_once(entrega, wire, watch):
    wire.get(f"{URL}/v1/deliveries/{ID}", json=delivery("held"))

    found = entrega.wait(ID, 5)

    assert (found.is_settled, watch.time, len(wire.calls)) == (False, 105.0, 6)


def test_a_cancel_whose_answer_was_lost_is_well(entrega, wire):
    wire.post(f"{URL}/v1/deliveries/{ID}/cancel", status=409, json=trouble("not_cancelable"))
    wire.get(f"{URL}/v1/deliveries/{ID}", json=delivery("canceled"))

    assert entrega.cancel(ID, "o cliente ligou") is None


def test_a_delivery_that_may_have_had_an_effect_is_not_canceled(entrega, wire):
    wire.post(f"{URL}/v1/deliveries/{ID}/cancel", status=409, json=trouble("not_cancelable"))
    wire.get(f"{URL}/v1/deliveries/{ID}", json=delivery("succeeded"))

    with pytest.raises(NotCancelable):
        entrega.cancel(ID, "o cliente ligou")


def test_a_password_of_the_netrc_never_takes_the_place_of_the_api_key(entrega, wire, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine entrega.exemplo.com.br login ana password invented\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wire.post(f"{URL}/v1/leads", json=RECEIPT, status=202)

    entrega.create_lead(**LEAD)

    assert wire.calls[0].request.headers["Authorization"] == "Bearer invented"
