"""The HTTP client without a network: what goes onto the wire, and which failure proves what.

Real sockets are met in `tests/integration/providers/test_http_faults.py`.
"""

import pytest
import requests
import responses
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    SSLError,
)

from config.policy import Timeouts
from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable
from providers.http import Answer, HttpClient, json_bytes

URL = "https://api.example.com/v1/things"
HTTP = HttpClient()
TIMEOUTS = Timeouts(connect_s=1, read_s=1, total_s=2)


def post(url: str = URL, **more: object) -> Answer:
    return HTTP.call("POST", url, route="/v1/things", timeouts=TIMEOUTS, **more)  # type: ignore[arg-type]


@responses.activate
def test_body_and_headers_go_out_as_they_are() -> None:
    responses.post(URL, json={"id": "7"}, status=201)

    answer = post(body=b'{"a":1}', headers={"Authorization": "Bearer t", "Content-Type": "application/json"})

    sent = responses.calls[0].request
    assert (answer.status, answer.json()) == (201, {"id": "7"})
    assert sent.body == b'{"a":1}'
    assert sent.headers["Authorization"] == "Bearer t"
    assert sent.headers["Content-Type"] == "application/json"


@responses.activate
def test_a_form_goes_out_as_a_web_form() -> None:
    responses.post(URL, json={})

    post(form={"grant_type": "client_credentials", "scope": "a b"})

    assert responses.calls[0].request.body == "grant_type=client_credentials&scope=a+b"
    assert responses.calls[0].request.headers["Content-Type"] == "application/x-www-form-urlencoded"


@responses.activate
def test_cookies_of_one_answer_do_not_travel_with_the_next_request() -> None:
    responses.post(URL, json={}, headers={"Set-Cookie": "session=one-account"})

    HTTP.call("POST", URL, route="/v1/things", timeouts=TIMEOUTS)
    HTTP.call("POST", URL, route="/v1/things", timeouts=TIMEOUTS)

    assert "Cookie" not in responses.calls[1].request.headers


@responses.activate
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_statement_11_a_redirect_of_a_write_is_not_followed(status: int) -> None:
    responses.post(URL, status=status, headers={"Location": "https://elsewhere.example.com/"})

    with pytest.raises(Permanent, match=f"answered {status}") as caught:
        post()

    assert (caught.value.code, caught.value.http_status) == ("redirected", status)
    assert len(responses.calls) == 1


@responses.activate
@pytest.mark.parametrize("status", [200, 400, 404, 429, 500, 503])
def test_every_other_final_status_is_left_to_the_caller(status: int) -> None:
    responses.post(URL, status=status, body="<html>")

    answer = post()

    assert (answer.status, answer.json()) == (status, {})


@responses.activate
def test_an_error_whose_body_is_over_the_cap_still_tells_its_status() -> None:
    responses.post(URL, status=503, body=b"x" * 5_000)

    assert post(max_bytes=1_000) == Answer(503, responses_headers(), b"")


def responses_headers() -> CaseInsensitiveDict[str]:
    return CaseInsensitiveDict({"Content-Type": "text/plain"})


@responses.activate
def test_a_success_over_the_cap_is_ambiguous() -> None:
    responses.post(URL, status=200, body=b"x" * 5_000)

    with pytest.raises(Ambiguous, match="more than 1000 bytes"):
        post(max_bytes=1_000)


def retried(reason: Exception) -> MaxRetryError:
    return MaxRetryError(None, "/v1/things?secret=1", reason)  # type: ignore[arg-type]


@responses.activate
@pytest.mark.parametrize(
    ("failure", "verdict", "code"),
    [
        pytest.param(
            requests.ConnectionError(retried(NewConnectionError(None, "refused"))),  # type: ignore[arg-type]
            Retryable,
            "not_sent",
            id="refused",
        ),
        pytest.param(
            requests.ConnectionError(retried(NameResolutionError("h", None, OSError("no")))),  # type: ignore[arg-type]
            Retryable,
            "not_sent",
            id="no such name",
        ),
        pytest.param(requests.ConnectTimeout(retried(ConnectTimeoutError())), Retryable, "not_sent", id="no SYN-ACK"),
        pytest.param(requests.ReadTimeout("late"), Ambiguous, "answer_lost", id="no answer in time"),
        pytest.param(
            requests.ConnectionError(ProtocolError("Connection aborted.", ConnectionResetError())),
            Ambiguous,
            "answer_lost",
            id="reset",
        ),
        pytest.param(requests.ConnectionError("anything else"), Ambiguous, "answer_lost", id="unknown"),
        pytest.param(
            requests.exceptions.SSLError(retried(SSLError("bad record"))), Ambiguous, "answer_lost", id="TLS, later on"
        ),
        pytest.param(
            requests.exceptions.InvalidHeader("of the answer"), Ambiguous, "answer_lost", id="answer's header"
        ),
        pytest.param(requests.exceptions.InvalidURL("no host"), Permanent, "misconfigured", id="URL"),
    ],
)
def test_a_failure_proves_only_what_its_innermost_cause_proves(
    failure: Exception, verdict: type[ProviderError], code: str
) -> None:
    responses.post(URL, body=failure)

    with pytest.raises(verdict) as caught:
        post()

    assert caught.value.code == code
    assert len(responses.calls) == 1


@responses.activate
def test_an_older_error_that_is_being_handled_proves_nothing() -> None:
    responses.post(URL, body=requests.ReadTimeout("late"))

    try:
        next(iter(()))
    except StopIteration as earlier:
        earlier.args = (NewConnectionError(None, "refused"),)  # type: ignore[arg-type]
        with pytest.raises(Ambiguous):
            post()


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        pytest.param("api.example.com/no-scheme", {}, id="no scheme"),
        pytest.param("ftp://api.example.com/", {}, id="another scheme"),
        pytest.param("https:///path-only", {}, id="no host"),
        pytest.param("https://user:pass@api.example.com/", {}, id="a user in the URL"),
        pytest.param(URL, {"Authorization": "Bearer a\r\nX-Evil: 1"}, id="a line break in a header"),
        pytest.param(URL, {"Authorization": "Bearer tok€n"}, id="a character no header carries"),
    ],
)
def test_what_cannot_be_sent_is_a_wrong_configuration(url: str, headers: dict[str, str]) -> None:
    with pytest.raises(Permanent) as caught:
        post(url, headers=headers)

    assert caught.value.code == "misconfigured"
    assert "Bearer" not in str(caught.value)
    assert "pass" not in str(caught.value)
    assert caught.value.__cause__ is None


@responses.activate
def test_a_message_names_host_and_route_and_hides_the_query() -> None:
    responses.post(URL, body=requests.ReadTimeout("late"))

    with pytest.raises(Ambiguous) as caught:
        HTTP.call("POST", URL, route="/v1/{what}", timeouts=TIMEOUTS, query={"email": "ana.teste@exemplo.com.br"})

    assert str(caught.value) == (
        "POST api.example.com/v1/{what}: sent, and no complete answer came (ReadTimeout); look the request up"
    )


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a":'])
def test_a_body_that_is_no_json_object_reads_as_an_empty_one(body: bytes) -> None:
    assert Answer(200, {}, body).json() == {}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("messages.0.id", "wamid.1"),
        ("count", "3"),
        ("messages.1.id", None),
        ("messages.id", None),
        ("flag", None),
        ("empty", None),
        ("long", None),
        ("lines", None),
        ("messages", None),
    ],
)
def test_an_id_is_found_at_its_dotted_path(path: str, expected: str | None) -> None:
    body = {"messages": [{"id": "wamid.1"}], "count": 3, "flag": True, "empty": "", "long": "x" * 257, "lines": "a\nb"}

    assert Answer(200, {}, json_bytes(body)).text_at(path) == expected


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert json_bytes({"b": "é", "a": 1}) == json_bytes({"a": 1, "b": "é"}) == '{"a":1,"b":"é"}'.encode()
