"""How much of its limits a provider says we have used: exact headers, and what is made of them."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import responses

from config.policy import load_specs
from delivery.commands import CreateLead, SendWhatsApp
from delivery.errors import ProviderError
from delivery.ids import new_id
from delivery.outcomes import Usage
from delivery.ports import Order
from providers.crm_rest import CrmRest
from providers.http import HttpClient
from providers.oauth import ApiKey
from providers.usage import read_usage
from providers.whatsapp_cloud import WhatsAppCloud

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CRM, WHATSAPP = load_specs()["crm"], load_specs()["whatsapp"]
HTTP = HttpClient()
BUSINESS, APP = "X-Business-Use-Case-Usage", "X-App-Usage"
LEADS = "https://crm.example.com/api/v1/leads"
MESSAGES = "https://graph.facebook.com/v26.0/123/messages"


def business(*entries: object) -> dict[str, str]:
    return {BUSINESS: json.dumps({"1234567890": entries})}


def entry(calls: object, minutes: object = 0) -> dict[str, object]:
    used = {"call_count": calls, "total_cputime": 1, "total_time": 2}
    return {"type": "messaging", **used, "estimated_time_to_regain_access": minutes}


def remaining(left: object, limit: object = 100, reset: object = 30) -> dict[str, str]:
    found = {"X-RateLimit-Remaining": left, "X-RateLimit-Limit": limit, "X-RateLimit-Reset": reset}
    return {name: str(value) for name, value in found.items() if value is not None}


def room(usage: Usage | None) -> float | None:
    return None if usage is None else round(usage.room, 3)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, None, id="absent"),
        pytest.param(business(entry(28)), Usage(), id="a quarter used"),
        pytest.param(business(entry(79.9)), Usage(), id="just below"),
        pytest.param(business(entry(90)), Usage(0.5), id="half of what is left above 80 %"),
        pytest.param(business(entry(10), entry(95)), Usage(0.25), id="the fullest entry counts"),
        pytest.param(business(entry(100, 12)), Usage(0.0, timedelta(minutes=12)), id="used up, with minutes"),
        pytest.param(business(entry(140)), Usage(0.0), id="over, without minutes"),
        pytest.param({APP: '{"call_count": 85, "total_time": 3}'}, Usage(0.75), id="of the app"),
        pytest.param({**business(entry(20)), APP: '{"call_count": 90}'}, Usage(0.5), id="the tighter of two"),
        pytest.param(business(), Usage(), id="no entries"),
        pytest.param(business(entry("x")), Usage(unreadable=True), id="a word for a number"),
        pytest.param(business(entry(None)), Usage(unreadable=True), id="nothing for a number"),
        pytest.param(business(entry(-5)), Usage(unreadable=True), id="below nothing"),
        pytest.param(business(entry(10**9)), Usage(unreadable=True), id="an absurd percentage"),
        pytest.param(business(entry(90, "soon")), Usage(0.5, unreadable=True), id="unreadable minutes"),
        pytest.param(business(entry(100, 10**9)), Usage(0.0, timedelta(days=366)), id="absurd minutes"),
        pytest.param({BUSINESS: "{"}, Usage(unreadable=True), id="half a JSON"),
        pytest.param({BUSINESS: "[" * 100_000}, Usage(unreadable=True), id="JSON without a bottom"),
        pytest.param({BUSINESS: "[]"}, Usage(unreadable=True), id="a list"),
        pytest.param({BUSINESS: '{"call_count": NaN}'}, Usage(unreadable=True), id="no number"),
    ],
)
def test_percentages_of_meta(headers: dict[str, str], expected: Usage | None) -> None:
    found = read_usage(headers, WHATSAPP.limits.usage, NOW)

    assert room(found) == room(expected)
    assert (found and found.wait, found and found.unreadable) == (
        expected and expected.wait,
        expected and expected.unreadable,
    )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param(remaining(60), Usage(), id="plenty"),
        pytest.param(remaining(10), Usage(0.5), id="a tenth left"),
        pytest.param(remaining(0), Usage(0.0, timedelta(seconds=30)), id="none left: seconds"),
        pytest.param(
            remaining(0, reset=int(NOW.timestamp()) + 45), Usage(0.0, timedelta(seconds=45)), id="none left: an instant"
        ),
        pytest.param(
            remaining(0, reset=int(NOW.timestamp() + 45) * 1000),
            Usage(0.0, timedelta(seconds=45)),
            id="in milliseconds",
        ),
        pytest.param(remaining(0, reset=int(NOW.timestamp()) - 45), Usage(0.0), id="an instant that has passed"),
        pytest.param(remaining(0, reset=None), Usage(0.0), id="none left, no reset"),
        pytest.param(remaining(0, reset="soon"), Usage(0.0, unreadable=True), id="none left, unreadable reset"),
        pytest.param(remaining(5, limit=None), Usage(), id="no limit known"),
        pytest.param(remaining(0, limit=None), Usage(0.0, timedelta(seconds=30)), id="no limit known, none left"),
        pytest.param(remaining(10, limit="100, 100;w=60"), Usage(0.5), id="a limit with its window"),
        pytest.param(remaining(150), Usage(), id="more than all"),
        pytest.param(remaining("-1"), Usage(unreadable=True), id="below nothing"),
        pytest.param(remaining("many"), Usage(unreadable=True), id="a word"),
        pytest.param(remaining("9" * 40), Usage(unreadable=True), id="an absurd number"),
        pytest.param(
            {"RateLimit-Remaining": "0", "RateLimit-Reset": "7"}, Usage(0.0, timedelta(seconds=7)), id="draft"
        ),
    ],
)
def test_what_is_left_at_a_crm(headers: dict[str, str], expected: Usage) -> None:
    found = read_usage(headers, CRM.limits.usage, NOW)

    assert found is not None
    assert (room(found), found.wait, found.unreadable) == (room(expected), expected.wait, expected.unreadable)


def crm() -> CrmRest:
    base_url = "https://crm.example.com"
    return CrmRest(spec=CRM, base_url=base_url, credentials=ApiKey("invented"), http=HTTP, now=lambda: NOW)


def lead() -> Order:
    command = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
    return Order(new_id(), "crm:default", command, 1, NOW)


def whatsapp() -> WhatsAppCloud:
    base_url = "https://graph.facebook.com"
    return WhatsAppCloud(
        spec=WHATSAPP, base_url=base_url, phone_number_id="123", token="invented", http=HTTP, now=lambda: NOW
    )


def message() -> Order:
    return Order(new_id(), "whatsapp:default", SendWhatsApp(to="+5511999990001", text="Olá"), 1, NOW)


@responses.activate
def test_a_lead_that_was_created_tells_what_is_left() -> None:
    responses.post(LEADS, json={"id": "1", "lead_id": "LEAD-1"}, status=201, headers=remaining(10))

    receipt = crm().send(lead())

    assert room(receipt.usage) == 0.5


@responses.activate
def test_a_message_that_was_taken_tells_what_is_used() -> None:
    responses.post(MESSAGES, json={"messages": [{"id": "wamid.1"}]}, headers=business(entry(90)))

    receipt = whatsapp().send(message())

    assert room(receipt.usage) == 0.5


@responses.activate
def test_a_crm_without_retry_after_is_believed_by_its_reset() -> None:
    responses.post(LEADS, json={}, status=429, headers=remaining(0))

    with pytest.raises(ProviderError) as caught:
        crm().send(lead())

    assert (caught.value.retry_after, room(caught.value.usage)) == (timedelta(seconds=30), 0.0)


@responses.activate
def test_a_refusal_of_meta_tells_what_is_used_and_how_long_to_wait() -> None:
    responses.post(MESSAGES, json={"error": {"code": 80007}}, status=400, headers=business(entry(100, 12)))

    with pytest.raises(ProviderError) as caught:
        whatsapp().send(message())

    assert (caught.value.retry_after, room(caught.value.usage)) == (timedelta(minutes=12), 0.0)
