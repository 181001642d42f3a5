"""The CRM adapter against the spec we ship: the exact request, and what each answer means."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import requests
import responses
from conformance import Case, Refusal, Staged, assert_conforms, assert_repeats_itself

from config.policy import load_specs
from delivery.commands import CreateLead, SendWhatsApp
from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable
from delivery.outcomes import Receipt
from delivery.ports import Order
from providers.crm_rest import CrmRest
from providers.http import HttpClient
from providers.oauth import ApiKey

BASE = "https://crm.example.com"
LEADS = f"{BASE}/api/v1/leads"
ID = UUID("019375a0-0000-7000-8000-000000000001")
KEY = "invented-api-key"
SPEC = load_specs()["crm"]
HTTP = HttpClient()
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LEAD = CreateLead(
    nome="Ana Teste de Souza",
    email="ana.teste@exemplo.com.br",
    telefone="+5511999990001",
    empresa="Padaria Inventada",
    interesse="produto_a",
    tags=["inventada"],
)
ORDER = Order(ID, "crm:default", LEAD, 1, NOW)
CREATED = {"id": "7c1e0000-0000-4000-8000-000000000002", "status": "created", "lead_id": "LEAD-2026-001"}


@dataclass(frozen=True)
class Reply:
    """A canned answer to the POST, and one to the look-up."""

    post: Mapping[str, Any]
    look_up: Mapping[str, Any] | None = None


class Tokens:
    """Stands in for a token source: counts renewals, and hands out the newer token after one."""

    def __init__(self, failure: ProviderError | None = None) -> None:
        self.renewed: list[str] = []
        self._failure = failure

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer token-{len(self.renewed) + 1}"}

    def refused(self, headers: Mapping[str, str]) -> None:
        self.renewed.append(headers["Authorization"])
        for failure in [self._failure] if self._failure else []:
            raise failure


def crm(credentials: Any = None) -> CrmRest:
    return CrmRest(spec=SPEC, base_url=BASE + "/", credentials=credentials or ApiKey(KEY), http=HTTP, now=lambda: NOW)


def stage(reply: Reply) -> Staged:
    responses.post(LEADS, **reply.post)
    responses.get(LEADS, **(reply.look_up or {"status": 404}))
    return Staged(crm(), lambda: [as_bytes(each.request) for each in responses.calls if each.request.method == "POST"])


def as_bytes(request: requests.PreparedRequest) -> bytes:
    headers = "\n".join(f"{name}: {value}" for name, value in sorted(request.headers.items()))
    return f"{request.method} {request.url}\n{headers}\n\n".encode() + (request.body or b"")  # type: ignore[operator]


def error(code: str, **more: object) -> dict[str, object]:
    return {"error": {"code": code, "message": "em português", **more}}


@responses.activate
def test_the_request_is_the_seeds_with_our_id_in_body_and_header() -> None:
    responses.post(LEADS, status=201, json=CREATED)

    receipt = crm().send(ORDER)

    sent = responses.calls[0].request
    assert receipt == Receipt("LEAD-2026-001", {"id": CREATED["id"]}, 201)
    assert sent.url == LEADS
    assert {name: sent.headers.get(name) for name in EXPECTED_HEADERS} == EXPECTED_HEADERS
    assert sent.body == EXPECTED_BODY


EXPECTED_HEADERS = {
    "X-API-Key": KEY,
    "X-API-Version": "1.0",
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Idempotency-Key": str(ID),
    "Authorization": None,
    "Cookie": None,
}
EXPECTED_BODY = (
    b'{"email":"ana.teste@exemplo.com.br","empresa":"Padaria Inventada",'
    b'"external_id":"019375a0-0000-7000-8000-000000000001","interesse":"produto_a","nome":"Ana Teste de Souza",'
    b'"origem":"agente_ia","tags":["inventada"],"telefone":"+5511999990001"}'
)

CASES = [
    Case("created", Reply({"status": 201, "json": CREATED}), Receipt("LEAD-2026-001", {"id": CREATED["id"]}, 201)),
    Case("done, only the uuid", Reply({"status": 200, "json": {"id": "u-1"}}), Receipt("u-1", {}, 200)),
    Case("done, only the number", Reply({"status": 200, "json": {"lead_id": "L-1"}}), Receipt("L-1", {}, 200)),
    Case("2xx without an id", Reply({"status": 200, "json": {"status": "ok"}}), Refusal(Ambiguous, "answer_lost")),
    Case("2xx with an empty body", Reply({"status": 200, "body": ""}), Refusal(Ambiguous, "answer_lost")),
    Case("2xx with a page", Reply({"status": 200, "body": "<html>"}), Refusal(Ambiguous, "answer_lost")),
    Case("2xx over the cap", Reply({"status": 200, "body": "x" * 300_000}), Refusal(Ambiguous, "answer_lost")),
    Case("400", Reply({"status": 400, "json": error("VALIDATION_ERROR")}), Refusal(Permanent, "invalid")),
    Case("401", Reply({"status": 401, "json": error("UNAUTHORIZED")}), Refusal(Retryable, "unauthorized")),
    Case("402", Reply({"status": 402, "body": ""}), Refusal(Permanent, "account_blocked")),
    Case("403", Reply({"status": 403, "json": error("FORBIDDEN")}), Refusal(Permanent, "forbidden")),
    Case("404", Reply({"status": 404, "body": "<html>"}), Refusal(Permanent, "not_found")),
    Case("408", Reply({"status": 408, "body": ""}), Refusal(Ambiguous, "gateway_error")),
    Case("418", Reply({"status": 418, "body": ""}), Refusal(Permanent, "invalid")),
    Case("422", Reply({"status": 422, "json": error("VALIDATION_ERROR")}), Refusal(Permanent, "invalid")),
    Case(
        "429 with a wait",
        Reply({"status": 429, "body": "", "headers": {"Retry-After": "7"}}),
        Refusal(Retryable, "rate_limited", timedelta(seconds=7)),
    ),
    Case("429 without one", Reply({"status": 429, "body": ""}), Refusal(Retryable, "rate_limited")),
    Case("500", Reply({"status": 500, "body": "<html>"}), Refusal(Ambiguous, "server_error")),
    Case("502", Reply({"status": 502, "body": "<html>"}), Refusal(Ambiguous, "gateway_error")),
    Case(
        "503 until an instant",
        Reply({"status": 503, "body": "", "headers": {"Retry-After": "Sun, 22 Nov 2026 12:00:20 GMT"}}),
        Refusal(Retryable, "unavailable", timedelta(seconds=20)),
    ),
    Case("504", Reply({"status": 504, "body": ""}), Refusal(Ambiguous, "gateway_error")),
    Case("599", Reply({"status": 599, "body": ""}), Refusal(Ambiguous, "server_error")),
    Case("redirect", Reply({"status": 302, "headers": {"Location": LEADS}}), Refusal(Permanent, "redirected")),
    Case("no answer in time", Reply({"body": requests.ReadTimeout("late")}), Refusal(Ambiguous, "answer_lost")),
    Case("no connection", Reply({"body": requests.ConnectTimeout("x")}), Refusal(Retryable, "not_sent")),
    Case(
        "409 that is ours",
        Reply(
            {"status": 409, "json": error("ALREADY_EXISTS")},
            {"json": {"items": [{"external_id": str(ID), "lead_id": "LEAD-9", "id": "u-9"}]}},
        ),
        Receipt("LEAD-9", {"id": "u-9"}, 200),
    ),
    Case(
        "409 of somebody else",
        Reply({"status": 409, "json": error("ALREADY_EXISTS")}, {"json": {"items": []}}),
        Refusal(Permanent, "conflict"),
    ),
    Case(
        "409 and other leads listed",
        Reply({"status": 409, "json": error("X")}, {"json": {"items": [{"external_id": "other", "id": "u"}]}}),
        Refusal(Ambiguous, "conflict"),
    ),
    Case(
        "409 and an unreadable look-up",
        Reply({"status": 409, "json": error("X")}, {"body": "<html>"}),
        Refusal(Ambiguous, "conflict"),
    ),
    Case(
        "409 and a look-up that is down",
        Reply({"status": 409, "json": error("X")}, {"status": 503}),
        Refusal(Ambiguous, "conflict"),
    ),
]


@responses.activate
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_crm_keeps_the_contract_of_a_provider(case: Case[Reply]) -> None:
    assert_conforms(case, stage(case.wire), ORDER, secrets=[KEY])


@responses.activate
def test_a_second_attempt_sends_the_same_bytes() -> None:
    assert_repeats_itself(stage(Reply({"status": 503})), ORDER)


@responses.activate
def test_the_wrong_fields_are_named_without_their_values() -> None:
    details = [
        {"field": "telefone", "issue": "formato inválido"},
        {"field": "email", "issue": "ana.teste@exemplo.com.br já existe"},
        {"field": "nome", "issue": "ANA TESTE DE SOUZA não é um nome"},
        {"field": "empresa", "issue": "ligue para (11) 99999-0001"},
        {"field": "tags", "issue": "x" * 200},
        {"field": "cargo", "issue": "duas\nlinhas"},
        {"field": "e-mail <ana@exemplo.com.br>", "issue": "nome de campo estranho"},
        {"field": "origem"},
        "texto solto",
    ]
    responses.post(LEADS, status=422, json=error("VALIDATION_ERROR", details=details))

    with pytest.raises(Permanent) as caught:
        crm().send(ORDER)

    hidden = "refused (the reason repeats a value and is not shown)"
    assert caught.value.provider_code == "VALIDATION_ERROR"
    assert caught.value.http_status == 422
    assert str(caught.value).split("; ") == [
        "the CRM refused /api/v1/leads with 422 VALIDATION_ERROR: refused",
        "telefone: formato inválido",
        f"email: {hidden}",
        f"nome: {hidden}",
        f"empresa: {hidden}",
        f"tags: {'x' * 79}…",
        "cargo: duas linhas",
        "origem: refused",
    ]


@responses.activate
def test_a_refused_token_is_renewed_and_the_engine_decides_about_another_attempt() -> None:
    responses.post(LEADS, status=401)
    tokens = Tokens()

    with pytest.raises(Retryable) as caught:
        crm(tokens).send(ORDER)

    assert caught.value.code == "unauthorized"
    assert tokens.renewed == ["Bearer token-1"]
    assert len(responses.calls) == 1


@responses.activate
def test_a_token_that_cannot_be_renewed_speaks_with_the_token_endpoints_verdict() -> None:
    responses.post(LEADS, status=401)

    with pytest.raises(Permanent, match="check client id"):
        crm(Tokens(Permanent("check client id", code="unauthorized"))).send(ORDER)


@responses.activate
def test_a_look_up_asks_for_our_id() -> None:
    responses.get(LEADS, json={"items": [{"external_id": str(ID), "id": "u-3"}]})

    found = crm(Tokens()).look_up(ORDER)

    sent = responses.calls[0].request
    assert found == Receipt("u-3", {}, 200)
    assert sent.url == f"{LEADS}?external_id={ID}"
    assert sent.headers["Authorization"] == "Bearer token-1"
    assert sent.headers["X-API-Version"] == "1.0"


@responses.activate
def test_after_a_doubtful_attempt_the_lead_is_looked_up_and_not_sent_again() -> None:
    responses.get(LEADS, json={"items": [{"external_id": str(ID), "id": "u-3"}]})

    found = crm(Tokens()).send(replace(ORDER, doubtful=True))

    assert found == Receipt("u-3", {}, 200)
    assert [each.request.method for each in responses.calls] == ["GET"]


@responses.activate
@pytest.mark.parametrize("reply", [{"json": {"items": []}}, {"status": 404}, {"status": 503}])
def test_a_doubtful_lead_that_is_not_found_is_sent_under_its_key(reply: dict[str, Any]) -> None:
    responses.get(LEADS, **reply)
    responses.post(LEADS, status=201, json={"id": "u-3"})

    crm(Tokens()).send(replace(ORDER, doubtful=True))

    assert [each.request.method for each in responses.calls] == ["GET", "POST"]
    assert responses.calls[1].request.headers["Idempotency-Key"] == str(ID)


@responses.activate
def test_a_look_up_that_finds_nothing_says_so() -> None:
    responses.get(LEADS, json={"items": []})

    assert crm().look_up(ORDER) is None


@responses.activate
@pytest.mark.parametrize(
    ("reply", "verdict", "code"),
    [
        ({"status": 503}, Retryable, "unavailable"),
        ({"status": 401}, Retryable, "unauthorized"),
        ({"status": 404}, Permanent, "not_found"),
        ({"body": "<html>"}, Ambiguous, "answer_lost"),
        ({"json": {"items": [{"external_id": str(ID)}]}}, Ambiguous, "answer_lost"),
        ({"json": {"items": [{"id": "of-somebody-else"}]}}, Ambiguous, "answer_lost"),
    ],
)
def test_a_look_up_that_cannot_tell_never_says_nothing_was_found(
    reply: dict[str, Any], verdict: type[ProviderError], code: str
) -> None:
    responses.get(LEADS, **reply)

    with pytest.raises(verdict) as caught:
        crm().look_up(ORDER)

    assert caught.value.code == code


@responses.activate
def test_a_probe_asks_for_a_lead_that_nobody_has() -> None:
    responses.get(LEADS, json={"items": []})

    fact = crm().probe()

    assert fact == "token accepted"
    assert responses.calls[0].request.url == f"{LEADS}?external_id=probe"


@responses.activate
def test_a_probe_with_a_refused_key_says_so() -> None:
    responses.get(LEADS, status=403)

    with pytest.raises(Permanent, match="403: no permission"):
        crm().probe()


def test_a_command_of_another_kind_is_a_wrong_configuration() -> None:
    order = replace(ORDER, command=SendWhatsApp(to="+5511999990001", text="a"))

    with pytest.raises(Permanent, match="cannot carry out send_whatsapp"):
        crm().send(order)


def test_the_expected_body_is_what_the_seed_shows() -> None:
    assert set(json.loads(EXPECTED_BODY)) - {"external_id"} <= set(CreateLead.model_fields)
