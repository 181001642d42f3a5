"""The stand-in for the Cloud API over a real socket: its answers, its refusals, its lack of idempotency."""

import http.client
import json
from collections.abc import Iterator, Mapping

import pytest

from sandbox.graph import GraphCredentials
from sandbox.standins import StandinControl, Standins

BEARER = {"Authorization": f"Bearer {GraphCredentials().access_token}"}
MESSAGES = f"/v26.0/{GraphCredentials().phone_number_id}/messages"
TEXT = {"messaging_product": "whatsapp", "to": "+5511999990001", "type": "text", "text": {"body": "Olá"}}


@pytest.fixture(scope="module")
def standins() -> Iterator[Standins]:
    with Standins() as started:
        yield started


@pytest.fixture
def graph(standins: Standins) -> Iterator[StandinControl]:
    control = standins.control("graph")
    yield control
    control.reset()


def _send(
    standins: Standins, method: str, path: str, body: object, headers: Mapping[str, str]
) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", standins.graph.port, timeout=60)
    connection.request(method, path, json.dumps(body), dict(headers))
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    return answer.status, found


def _text(standins: Standins, delivery_id: str) -> tuple[int, dict[str, object]]:
    return _send(standins, "POST", MESSAGES, {**TEXT, "biz_opaque_callback_data": delivery_id}, BEARER)


def _code(body: Mapping[str, object]) -> object:
    error = body["error"]
    assert isinstance(error, dict)
    return error["code"]


def test_a_message_is_accepted_in_the_words_of_the_cloud_api(graph: StandinControl, standins: Standins) -> None:
    status, body = _text(standins, "d-1")

    effect = graph.effects()[0]
    assert status == 200
    assert body == {
        "messaging_product": "whatsapp",
        "contacts": [{"input": "+5511999990001", "wa_id": "5511999990001"}],
        "messages": [{"id": effect["wamid"]}],
    }
    assert str(effect["wamid"]).startswith("wamid.")
    assert (effect["key"], effect["requests"]) == ("d-1", 1)


def test_the_cloud_api_has_no_idempotency_so_a_repeat_is_a_duplicate(graph: StandinControl, standins: Standins) -> None:
    _text(standins, "d-1")
    _text(standins, "d-1")

    assert graph.effects_per_key() == {"d-1": 2}
    assert len({effect["wamid"] for effect in graph.effects()}) == 2


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        (MESSAGES, {}, 401, 190),
        (MESSAGES, {"Authorization": "Bearer made-up"}, 401, 190),
        (MESSAGES.removeprefix("/v26.0"), BEARER, 400, 2500),
        ("/v26.0/999/messages", BEARER, 400, 100),
    ],
)
def test_the_cloud_api_checks_token_version_and_number(
    graph: StandinControl, standins: Standins, path: str, headers: dict[str, str], status: int, code: int
) -> None:
    answered, body = _send(standins, "POST", path, TEXT, headers)

    assert (answered, _code(body)) == (status, code)
    assert graph.effects() == []


def test_a_planned_graph_error_has_the_graph_body(graph: StandinControl, standins: Standins) -> None:
    graph.plan({"graph_error": 131056, "status": 429})

    status, body = _text(standins, "d-1")

    assert status == 429
    assert _code(body) == 131056
    assert graph.effects() == []
    assert _text(standins, "d-1")[0] == 200


def test_an_expired_graph_token_is_refused_once(graph: StandinControl, standins: Standins) -> None:
    graph.plan({"expire_tokens": True})

    assert [_text(standins, "d-1")[0], _text(standins, "d-1")[0]] == [401, 200]


def test_the_health_of_the_number_is_available(standins: Standins) -> None:
    number = MESSAGES.removesuffix("/messages")

    _, body = _send(standins, "GET", f"{number}?fields=health_status", None, BEARER)

    assert isinstance(body["health_status"], dict)
    assert body["health_status"]["can_send_message"] == "AVAILABLE"
