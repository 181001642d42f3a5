"""One callback on the wire: what is posted, and what each answer leads to."""

import json
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import requests
import responses
from conformance import Case, Refusal, Staged, assert_conforms, assert_repeats_itself
from standardwebhooks import Webhook
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError

from config.policy import load_specs
from delivery.callbacks import Callback, Endpoint
from delivery.commands import CreateLead
from delivery.errors import Ambiguous, LedgerUnavailable, Permanent, ProviderError, Retryable
from delivery.outcomes import Receipt
from delivery.ports import Order
from providers.callback import CallbackSender
from providers.http import HttpClient

URL = "https://loja.exemplo.com.br/retorno/caminho-secreto?token=inventado"
ENDPOINT = UUID("01930000-0000-7000-8000-00000000000e")
SECRET = bytes(range(32))
OPEN = Endpoint(URL, "loja", (SECRET,), None)
SPEC = load_specs()["callback"]


@dataclass
class Known:
    """Endpoints in memory; `away` stands for a ledger that does not answer."""

    endpoint: Endpoint | None = OPEN
    away: bool = False
    deaf: bool = False
    disabled: list[tuple[UUID, str]] = field(default_factory=list)

    def find(self, endpoint):
        if self.away:
            raise LedgerUnavailable("away")
        return self.endpoint

    def disable(self, endpoint, *, actor, reason):
        if self.deaf:
            raise LedgerUnavailable("away")
        self.disabled.append((endpoint, reason))
        return True


def order(attempt=1):
    command = Callback(
        endpoint=ENDPOINT,
        type="delivery.succeeded",
        timestamp=datetime(2026, 11, 22, 12, tzinfo=UTC),
        data={"id": "01930000-0000-7000-8000-000000000001", "recipient": "a***@exemplo.com.br"},
    )
    return Order(UUID(int=7), "callback:loja.exemplo.com.br", command, attempt, datetime.now(UTC))


def sender(known=None, **more):
    return CallbackSender(spec=SPEC, endpoints=known or Known(), http=HttpClient(), **more)


def refused(known=None):
    with pytest.raises(ProviderError) as caught:
        sender(known).send(order())
    return caught.value


@responses.activate
def test_the_event_is_posted_and_the_receivers_library_accepts_it():
    responses.post(URL, status=204)

    receipt = sender().send(order())

    sent = responses.calls[0].request
    assert receipt == Receipt(str(UUID(int=7)), http_status=204)
    assert sent.headers["Content-Type"] == "application/json"
    assert Webhook(SECRET).verify(sent.body, dict(sent.headers)) == {
        "type": "delivery.succeeded",
        "timestamp": "2026-11-22T12:00:00Z",
        "data": {"id": "01930000-0000-7000-8000-000000000001", "recipient": "a***@exemplo.com.br"},
    }


@responses.activate
def test_id_and_body_stay_and_the_timestamp_moves_from_attempt_to_attempt():
    responses.post(URL, status=500)
    clock = iter(datetime(2026, 11, 22, 12, n, tzinfo=UTC) for n in range(9))
    one = sender(now=lambda: next(clock))

    with pytest.raises(Ambiguous):
        one.send(order(1))
    with pytest.raises(Ambiguous):
        one.send(order(2))

    first, second = (call.request for call in responses.calls)
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] < second.headers["webhook-timestamp"]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


@responses.activate
@pytest.mark.parametrize(
    ("status", "verdict", "code"),
    [
        (301, Retryable, "temporary"),
        (308, Retryable, "temporary"),
        (400, Retryable, "temporary"),
        (401, Retryable, "temporary"),
        (404, Retryable, "temporary"),
        (410, Permanent, "undeliverable"),
        (429, Retryable, "rate_limited"),
        (500, Ambiguous, "server_error"),
        (502, Ambiguous, "gateway_error"),
        (503, Retryable, "unavailable"),
        (504, Ambiguous, "gateway_error"),
    ],
)
def test_each_answer_has_its_verdict_and_tells_no_path(status, verdict, code):
    responses.post(URL, status=status, headers={"Location": "https://169.254.169.254/"}, body="caminho-secreto")

    error = refused()

    assert (type(error), error.code, error.http_status) == (verdict, code, status)
    assert "caminho" not in str(error)
    assert len(responses.calls) == 1


def staged(reply):
    responses.post(URL, **reply)
    return Staged(sender(), lambda: [call.request.body for call in responses.calls])


@responses.activate
@pytest.mark.parametrize(
    "case",
    [
        Case("taken", {"status": 204}, Receipt(str(UUID(int=7)), http_status=204)),
        Case("a redirect", {"status": 308}, Refusal(Retryable, "temporary")),
        Case("gone", {"status": 410}, Refusal(Permanent, "undeliverable")),
        Case(
            "too many",
            {"status": 429, "headers": {"Retry-After": "9"}},
            Refusal(Retryable, "rate_limited", timedelta(seconds=9)),
        ),
        Case("bad gateway", {"status": 502}, Refusal(Ambiguous, "gateway_error")),
        Case("an answer lost", {"body": requests.ConnectionError("reset")}, Refusal(Ambiguous, "answer_lost")),
    ],
    ids=str,
)
def test_what_every_provider_must_keep_is_kept(case):
    assert_conforms(case, staged(case.wire), order(), secrets=["caminho-secreto", "inventado"])


@responses.activate
def test_a_second_attempt_sends_the_same_bytes():
    assert_repeats_itself(staged({"status": 503}), order())


@responses.activate
def test_the_wait_that_the_endpoint_asks_for_is_passed_on():
    responses.post(URL, status=503, headers={"Retry-After": "120"})

    assert refused().retry_after == timedelta(seconds=120)


@responses.activate
def test_a_long_answer_is_cut_off_and_its_status_counts():
    responses.post(URL, status=200, body=b"x" * 200_000)

    assert sender().send(order()).http_status == 200


@responses.activate
def test_an_endpoint_that_is_gone_is_disabled():
    responses.post(URL, status=410)
    known = Known()

    refused(known)

    assert known.disabled == [(ENDPOINT, "it answered 410")]


@responses.activate
def test_an_endpoint_that_is_gone_is_asked_again_when_the_ledger_could_not_be_told():
    responses.post(URL, status=410)

    error = refused(Known(deaf=True))

    assert (type(error), error.code) == (Retryable, "temporary")


@responses.activate
@pytest.mark.parametrize(
    ("known", "verdict", "code"),
    [
        (Known(endpoint=None), Permanent, "misconfigured"),
        (Known(endpoint=Endpoint(URL, "loja", (SECRET,), "it answered 410")), Permanent, "undeliverable"),
        (Known(away=True), Retryable, "not_sent"),
    ],
)
def test_nothing_is_sent_where_there_is_no_open_endpoint(known, verdict, code):
    error = refused(known)

    assert (type(error), error.code) == (verdict, code)
    assert len(responses.calls) == 0


@responses.activate
def test_a_failed_connection_leaves_no_token_in_the_traceback(caplog):
    cause = requests.ConnectTimeout(MaxRetryError(None, "/retorno/caminho-secreto", ConnectTimeoutError()))
    responses.post(URL, body=cause)

    error = refused()

    assert (type(error), error.code) == (Retryable, "not_sent")
    assert error.__cause__ is None
    assert error.__suppress_context__


@responses.activate
def test_a_wrong_certificate_is_the_producers_to_mend_and_holds_nobody():
    cause = requests.exceptions.SSLError(ssl.SSLCertVerificationError("wrong name"))
    responses.post(URL, body=cause)

    error = refused()

    assert (type(error), error.code) == (Retryable, "certificate")
    assert SPEC.rule("certificate").spent == "park"


def test_another_command_is_refused():
    lead = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")

    with pytest.raises(Permanent, match="create_lead"):
        sender().send(Order(UUID(int=7), "callback:x", lead, 1, datetime.now(UTC)))


def test_an_endpoint_shows_its_host_and_nothing_else():
    assert repr(Known().endpoint) == "Endpoint(loja.exemplo.com.br)"
    assert json.dumps(order().command.body())
