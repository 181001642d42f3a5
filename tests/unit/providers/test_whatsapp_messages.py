"""The WhatsApp adapter against the spec we ship: the exact envelope, and what each code of Meta's means."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import requests
import responses
from conformance import Case, Refusal, Staged, assert_conforms, assert_repeats_itself
from pydantic import SecretStr

from config.policy import ERROR_CODES, load_specs
from delivery.commands import CreateLead, Media, SendWhatsApp, Template
from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable
from delivery.outcomes import Receipt
from delivery.ports import Order
from providers.http import HttpClient
from providers.whatsapp_cloud import WhatsAppCloud
from providers.whatsapp_cloud.verdicts import MEANINGS, RANGES, meaning

BASE = "https://graph.example.com"
NUMBER = "100000000000001"
MESSAGES = f"{BASE}/v26.0/{NUMBER}/messages"
HEALTH = f"{BASE}/v26.0/{NUMBER}"
TOKEN = "EAAinventedtoken"
ID = UUID("019375a0-0000-7000-8000-000000000001")
TO = "+5511999990001"
SPEC = load_specs()["whatsapp"]
HTTP = HttpClient()
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ENVELOPE = {
    "messaging_product": "whatsapp",
    "recipient_type": "individual",
    "to": TO,
    "biz_opaque_callback_data": str(ID),
}
ACCEPTED = {
    "messaging_product": "whatsapp",
    "contacts": [{"input": TO, "wa_id": "5511999990001"}],
    "messages": [{"id": "wamid.INVENTED"}],
}


def whatsapp(base_url: str = BASE) -> WhatsAppCloud:
    return WhatsAppCloud(
        spec=SPEC, base_url=base_url, phone_number_id=NUMBER, token=SecretStr(TOKEN), http=HTTP, now=lambda: NOW
    )


def order(**body: Any) -> Order:
    return Order(ID, "whatsapp:default", SendWhatsApp.model_validate({"to": TO, **body}), 1, NOW)


ORDER = order(text="Olá, Ana Teste!")


def stage(reply: dict[str, Any]) -> Staged:
    responses.post(MESSAGES, **reply)
    return Staged(whatsapp(), lambda: [as_bytes(each.request) for each in responses.calls])


def as_bytes(request: requests.PreparedRequest) -> bytes:
    headers = "\n".join(f"{name}: {value}" for name, value in sorted(request.headers.items()))
    return f"{request.method} {request.url}\n{headers}\n\n".encode() + (request.body or b"")  # type: ignore[operator]


def refused(code: int, status: int = 400, headers: dict[str, str] | None = None, **more: object) -> dict[str, Any]:
    free_text = f"(#{code}) Message failed to send to {TO}"
    body = {"error": {"message": free_text, "code": code, "fbtrace_id": "AbC1", "error_data": {"details": TO}, **more}}
    return {"status": status, "json": body, "headers": headers or {}}


def usage(minutes: object) -> dict[str, str]:
    entry = {"type": "messaging", "call_count": 100, "estimated_time_to_regain_access": minutes}
    return {"X-Business-Use-Case-Usage": json.dumps({"1": [{"call_count": 1}, entry]})}


@responses.activate
def test_the_request_is_one_post_with_bearer_and_version() -> None:
    responses.post(MESSAGES, json=ACCEPTED)

    receipt = whatsapp().send(ORDER)

    sent = responses.calls[0].request
    assert receipt == Receipt("wamid.INVENTED", {}, 200)
    assert sent.url == MESSAGES
    assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
    assert sent.headers["Content-Type"] == "application/json"
    assert (
        sent.body
        == (
            f'{{"biz_opaque_callback_data":"{ID}","messaging_product":"whatsapp","recipient_type":"individual",'
            f'"text":{{"body":"Olá, Ana Teste!"}},"to":"+5511999990001","type":"text"}}'
        ).encode()
    )


@responses.activate
@pytest.mark.parametrize("base", [BASE, f"{BASE}/", f"{BASE}/v26.0", f"{BASE}/v26.0/"])
def test_the_version_is_added_once(base: str) -> None:
    responses.post(MESSAGES, json=ACCEPTED)

    whatsapp(base).send(ORDER)

    assert responses.calls[0].request.url == MESSAGES


@responses.activate
def test_another_version_in_the_base_url_wins() -> None:
    responses.post(f"{BASE}/v25.0/{NUMBER}/messages", json=ACCEPTED)

    whatsapp(f"{BASE}/v25.0").send(ORDER)

    assert len(responses.calls) == 1


def body_of(sent: Order) -> dict[str, Any]:
    responses.post(MESSAGES, json=ACCEPTED)
    whatsapp().send(sent)
    return json.loads(responses.calls[0].request.body or b"")  # type: ignore[no-any-return]


@responses.activate
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"text": "a"}, {"type": "text", "text": {"body": "a"}}, id="text"),
        pytest.param(
            {"text": "a", "reply_to": "wamid.X"},
            {"type": "text", "text": {"body": "a"}, "context": {"message_id": "wamid.X"}},
            id="a reply",
        ),
        pytest.param(
            {"template": {"name": "boas_vindas"}},
            {"type": "template", "template": {"name": "boas_vindas", "language": {"code": "pt_BR"}}},
            id="template without variables",
        ),
        pytest.param(
            {"template": {"name": "n", "language": "en_US", "variables": ["Ana", "12h"]}},
            {
                "type": "template",
                "template": {
                    "name": "n",
                    "language": {"code": "en_US"},
                    "components": [
                        {
                            "type": "body",
                            "parameters": [{"type": "text", "text": "Ana"}, {"type": "text", "text": "12h"}],
                        }
                    ],
                },
            },
            id="template, positional",
        ),
        pytest.param(
            {"template": {"name": "n", "variables": {"nome": "Ana", "hora": "12h"}}},
            {
                "type": "template",
                "template": {
                    "name": "n",
                    "language": {"code": "pt_BR"},
                    "components": [
                        {
                            "type": "body",
                            "parameters": [
                                {"type": "text", "parameter_name": "hora", "text": "12h"},
                                {"type": "text", "parameter_name": "nome", "text": "Ana"},
                            ],
                        }
                    ],
                },
            },
            id="template, named",
        ),
        pytest.param(
            {"media": {"type": "image", "url": "https://cdn.example.com/a.png", "caption": "c"}},
            {"type": "image", "image": {"link": "https://cdn.example.com/a.png", "caption": "c"}},
            id="image by link",
        ),
        pytest.param(
            {"media": {"type": "document", "id": "123", "filename": "orçamento.pdf"}},
            {"type": "document", "document": {"id": "123", "filename": "orçamento.pdf"}},
            id="document by upload id",
        ),
        pytest.param(
            {"media": {"type": "video", "id": "123", "filename": "a.mp4"}},
            {"type": "video", "video": {"id": "123"}},
            id="only a document has a file name",
        ),
        pytest.param(
            {"message": {"type": "location", "location": {"latitude": -23.5, "longitude": -46.6}}},
            {"type": "location", "location": {"latitude": -23.5, "longitude": -46.6}},
            id="a message of the producer's own",
        ),
    ],
)
def test_each_content_has_its_envelope(body: dict[str, Any], expected: dict[str, Any]) -> None:
    assert body_of(order(**body)) == {**expected, **ENVELOPE}


@responses.activate
def test_a_message_of_the_producers_own_cannot_redirect_itself() -> None:
    message = {
        "type": "text",
        "text": {"body": "a"},
        "messaging_product": "sms",
        "to": "+5511999990002",
        "recipient": "BR.2",
        "recipient_type": "group",
        "biz_opaque_callback_data": "another delivery",
    }

    assert body_of(order(message=message)) == {"type": "text", "text": {"body": "a"}, **ENVELOPE}


@responses.activate
def test_a_business_scoped_user_id_goes_into_recipient() -> None:
    sent = body_of(order(to="BR.1502576394655843", text="a"))

    assert sent["recipient"] == "BR.1502576394655843"
    assert "to" not in sent


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            {"template": Template(name="n", variables=["a"]).model_copy(update={"variables": ["a     b"]})},
            id="five spaces in a variable",
        ),
        pytest.param(
            {"media": Media(type="image", id="1", caption="c").model_copy(update={"type": "audio"})},
            id="audio with a caption",
        ),
        pytest.param({"message": {"status": "read", "message_id": "wamid.X"}}, id="a mark as read"),
    ],
)
def test_what_meta_would_refuse_is_refused_before_it_leaves(content: dict[str, Any]) -> None:
    # model_copy checks nothing: the writer's check must hold without the doors in front of it.
    unchecked = ORDER.command.model_copy(update={"text": None, **content})

    with pytest.raises(Permanent) as caught:
        whatsapp().send(replace(ORDER, command=unchecked))

    assert caught.value.code == "invalid"


CASES = [
    Case("accepted", {"json": ACCEPTED}, Receipt("wamid.INVENTED", {}, 200)),
    Case(
        "accepted and held",
        {"json": {"messages": [{"id": "wamid.H", "message_status": "held_for_quality_assessment"}]}},
        Receipt("wamid.H", {"message_status": "held_for_quality_assessment"}, 200),
    ),
    Case("200 without a message id", {"json": {"messages": []}}, Refusal(Ambiguous, "answer_lost")),
    Case("200 with an empty body", {"body": ""}, Refusal(Ambiguous, "answer_lost")),
    Case("500 from an edge", {"status": 500, "body": "<html>"}, Refusal(Ambiguous, "server_error")),
    Case("502 from an edge", {"status": 502, "body": "<html>"}, Refusal(Ambiguous, "gateway_error")),
    Case("503 from an edge", {"status": 503, "body": "{}"}, Refusal(Ambiguous, "unavailable")),
    Case("511 from a portal", {"status": 511, "body": "<html>"}, Refusal(Ambiguous, "misconfigured")),
    Case("404 without a code", {"status": 404, "body": "<html>"}, Refusal(Permanent, "not_found")),
    Case(
        "429 without a code",
        {"status": 429, "body": "", "headers": {"Retry-After": "3"}},
        Refusal(Retryable, "rate_limited", timedelta(seconds=3)),
    ),
    Case("token revoked", refused(190, 401), Refusal(Permanent, "unauthorized")),
    Case("permission missing", refused(200, 403), Refusal(Permanent, "forbidden")),
    Case("permission missing, range", refused(294, 403), Refusal(Permanent, "forbidden")),
    Case("wrong parameter", refused(100), Refusal(Permanent, "invalid")),
    Case("unknown phone number id", refused(100, error_subcode=33), Refusal(Permanent, "misconfigured")),
    Case("service down", refused(2, 503), Refusal(Retryable, "unavailable")),
    Case("too fast", refused(130429, 429), Refusal(Retryable, "rate_limited")),
    Case("pair limit", refused(131056, 429), Refusal(Retryable, "pair_limited")),
    Case("hourly limit", refused(4), Refusal(Retryable, "rate_limited")),
    Case(
        "hourly limit, known end",
        refused(80007, 429, usage(12)),
        Refusal(Retryable, "rate_limited", timedelta(minutes=12)),
    ),
    Case("hourly limit, unreadable end", refused(4, 400, usage("x")), Refusal(Retryable, "rate_limited")),
    Case(
        "hourly limit, broken header",
        refused(4, 400, {"X-Business-Use-Case-Usage": "{"}),
        Refusal(Retryable, "rate_limited"),
    ),
    Case("unknown error of Meta's", refused(131000, 500), Refusal(Retryable, "temporary")),
    Case("upgrade", refused(131057, 500), Refusal(Retryable, "temporary", timedelta(seconds=60))),
    Case("not on WhatsApp", refused(131026), Refusal(Permanent, "undeliverable")),
    Case("window shut", refused(131047), Refusal(Permanent, "window_closed")),
    Case("marketing cap", refused(131049, 400, usage(5)), Refusal(Permanent, "capped")),
    Case("payment", refused(131042), Refusal(Permanent, "account_blocked")),
    Case("template paused", refused(132015), Refusal(Permanent, "template_unusable")),
    Case("variables do not fit", refused(132000), Refusal(Permanent, "invalid")),
    Case("a new code", refused(999_999), Refusal(Permanent, "unknown")),
    Case("a new code that passes", refused(999_999, is_transient=True), Refusal(Retryable, "temporary")),
    Case("a code that is no number", refused("131047"), Refusal(Permanent, "invalid")),  # type: ignore[arg-type]
    Case("no answer in time", {"body": requests.ReadTimeout("late")}, Refusal(Ambiguous, "answer_lost")),
    Case("redirect", {"status": 302, "headers": {"Location": BASE}}, Refusal(Permanent, "redirected")),
]


@responses.activate
@pytest.mark.parametrize("case", CASES, ids=str)
def test_whatsapp_keeps_the_contract_of_a_provider(case: Case[dict[str, Any]]) -> None:
    assert_conforms(case, stage(case.wire), ORDER, secrets=[TOKEN, "5511999990001"])


@responses.activate
def test_a_second_attempt_sends_the_same_bytes() -> None:
    assert_repeats_itself(stage(refused(2, 503)), ORDER)


@responses.activate
def test_a_refusal_tells_code_and_trace_in_our_own_words() -> None:
    responses.post(MESSAGES, **refused(131047))

    with pytest.raises(Permanent) as caught:
        whatsapp().send(ORDER)

    assert (caught.value.provider_code, caught.value.http_status) == ("131047", 400)
    assert (
        str(caught.value)
        == "WhatsApp refused with 131047: the 24-hour window is shut; send a template (Meta's trace AbC1)"
    )


@pytest.mark.parametrize("found", [*MEANINGS.values(), *(each for _, each in RANGES)])
def test_every_line_of_the_table_uses_a_word_the_specs_know(found: Any) -> None:
    assert found.code in ERROR_CODES
    assert found.text


@pytest.mark.parametrize("code", [0, 1, 2, 4, 10, 33, 100, 190, 368, 80007, 131000, 131049, 132001, 133010, 137000])
def test_a_code_of_the_table_does_not_depend_on_what_meta_calls_transient(code: int) -> None:
    assert meaning(code, transient=True) == meaning(code, transient=False) == MEANINGS[code]


@responses.activate
@pytest.mark.parametrize(
    ("health", "fact"),
    [
        ({"can_send_message": "AVAILABLE", "entities": []}, "AVAILABLE"),
        (
            {
                "can_send_message": "LIMITED",
                "entities": [
                    {"entity_type": "PHONE_NUMBER", "can_send_message": "AVAILABLE"},
                    {
                        "entity_type": "WABA",
                        "can_send_message": "LIMITED",
                        "errors": [{"error_code": 141010, "error_description": f"about {TO}"}],
                    },
                ],
            },
            "LIMITED (WABA LIMITED 141010)",
        ),
    ],
)
def test_a_probe_tells_whether_the_number_can_send(health: dict[str, Any], fact: str) -> None:
    responses.get(HEALTH, json={"health_status": health, "id": NUMBER})

    found = whatsapp().probe()

    assert found == fact
    assert responses.calls[0].request.url == f"{HEALTH}?fields=health_status"


@responses.activate
def test_a_blocked_number_fails_its_probe_with_the_next_step() -> None:
    entities = [{"entity_type": "WABA", "can_send_message": "BLOCKED", "errors": [{"error_code": 141006}]}]
    responses.get(HEALTH, json={"health_status": {"can_send_message": "BLOCKED", "entities": entities}})

    with pytest.raises(Permanent, match=r"WABA BLOCKED 141006\); open WhatsApp Manager") as caught:
        whatsapp().probe()

    assert caught.value.code == "account_blocked"


@responses.activate
@pytest.mark.parametrize(
    ("reply", "verdict", "code"),
    [(refused(190, 401), Permanent, "unauthorized"), ({"json": {"id": NUMBER}}, Ambiguous, "answer_lost")],
)
def test_a_probe_that_cannot_tell_fails(reply: dict[str, Any], verdict: type[ProviderError], code: str) -> None:
    responses.get(HEALTH, **reply)

    with pytest.raises(verdict) as caught:
        whatsapp().probe()

    assert caught.value.code == code


def test_a_command_of_another_kind_is_a_wrong_configuration() -> None:
    lead = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")

    with pytest.raises(Permanent, match="cannot carry out create_lead"):
        whatsapp().send(replace(ORDER, command=lead))
