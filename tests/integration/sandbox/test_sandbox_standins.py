"""The stand-ins over real sockets, seen through the CRM: what they do, what they count, and every way they fail."""

import http.client
import json
import smtplib
import socket
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sandbox.crm import CrmCredentials
from sandbox.doors import SandboxError, free_port
from sandbox.smtp_faults import Fault as SmtpFault
from sandbox.standins import Ports, StandinControl, Standins, launch, main, sandbox_environment, started

LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a", "origem": "agente_ia"}
LEADS = "/api/v1/leads"
API_KEY = {"X-API-Key": CrmCredentials().api_key}


@pytest.fixture(scope="module")
def standins() -> Iterator[Standins]:
    with Standins() as started:
        yield started


@pytest.fixture
def crm(standins: Standins) -> Iterator[StandinControl]:
    control = standins.control("crm")
    yield control
    control.reset()


@pytest.fixture
def wire(standins: Standins) -> Iterator["Wire"]:
    made = Wire(standins.crm_url)
    yield made
    made.close()


class Wire:
    """One kept-alive connection, without any cleverness."""

    def __init__(self, url: str, timeout_s: float = 5) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)

    def close(self) -> None:
        self.connection.close()

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        payload = body if body is None or isinstance(body, str) else json.dumps(body)
        self.connection.request(method, path, payload, dict(headers or {}))
        answer = self.connection.getresponse()
        return answer, answer.read()

    def lead(self, external_id: str, **headers: str) -> tuple[int, dict[str, object]]:
        answer, body = self.send("POST", LEADS, {**LEAD, "external_id": external_id}, {**API_KEY, **headers})
        return answer.status, json.loads(body)

    def token(self) -> str:
        credentials = CrmCredentials()
        form = (
            f"grant_type=client_credentials&client_id={credentials.client_id}&client_secret={credentials.client_secret}"
        )
        _, body = self.send("POST", "/oauth/token", form)
        return str(json.loads(body)["access_token"])


def test_a_created_lead_is_answered_with_its_numbers_and_kept_as_one_effect(crm: StandinControl, wire: Wire) -> None:
    status, body = wire.lead("d-1")

    assert status == 201
    assert body.keys() == {"id", "status", "lead_id", "created_at", "message"}
    assert crm.effects() == [
        {
            "key": "d-1",
            "external_id": "d-1",
            "lead_id": body["lead_id"],
            "at": body["created_at"],
            "requests": 1,
        },
    ]


def test_the_same_idempotency_key_gives_the_first_answer_again(crm: StandinControl, wire: Wire) -> None:
    first = wire.lead("d-1", **{"Idempotency-Key": "d-1"})
    second = wire.lead("d-1", **{"Idempotency-Key": "d-1"})

    assert second == first
    assert crm.effects_per_key() == {"d-1": 1}
    assert crm.effects()[0]["requests"] == 2


def test_the_same_external_id_under_no_or_another_key_is_a_conflict(crm: StandinControl, wire: Wire) -> None:
    wire.lead("d-1", **{"Idempotency-Key": "d-1"})

    assert wire.lead("d-1")[0] == 409
    assert wire.lead("d-1", **{"Idempotency-Key": "other"})[0] == 409
    assert crm.effects_per_key() == {"d-1": 1}


def test_a_crm_that_ignores_the_key_answers_a_conflict(crm: StandinControl, wire: Wire) -> None:
    crm.configure({"idempotency": False})
    wire.lead("d-1", **{"Idempotency-Key": "d-1"})

    assert wire.lead("d-1", **{"Idempotency-Key": "d-1"})[0] == 409


def test_a_lead_is_found_by_its_external_id_and_only_by_it(crm: StandinControl, wire: Wire) -> None:
    _, created = wire.lead("d-1")

    _, found = wire.send("GET", f"{LEADS}?external_id=d-1", headers=API_KEY)
    _, missing = wire.send("GET", f"{LEADS}?external_id=d-2", headers=API_KEY)

    assert json.loads(found)["items"][0]["id"] == created["id"]
    assert json.loads(missing) == {"items": []}
    assert crm.counters() == {f"POST {LEADS}": {"201": 1}, f"GET {LEADS}": {"200": 2}}


def test_an_invalid_lead_is_refused_with_its_details_and_has_no_effect(crm: StandinControl, wire: Wire) -> None:
    answer, body = wire.send("POST", LEADS, {**LEAD, "email": "ana.teste"}, API_KEY)

    assert answer.status == 400
    assert json.loads(body)["error"]["details"] == [{"field": "email", "issue": "formato inválido"}]
    assert crm.effects() == []


def test_a_call_without_a_valid_token_is_refused(crm: StandinControl, wire: Wire) -> None:
    answer, _ = wire.send("POST", LEADS, LEAD, {"Authorization": "Bearer made-up"})

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert crm.effects() == []


def test_a_token_opens_the_api_until_it_expires(crm: StandinControl, wire: Wire) -> None:
    token = {"Authorization": f"Bearer {wire.token()}"}
    crm.configure({"expires_in": 0})
    dead_on_arrival = {"Authorization": f"Bearer {wire.token()}"}

    assert wire.send("POST", LEADS, LEAD, token)[0].status == 201
    assert wire.send("POST", LEADS, LEAD, dead_on_arrival)[0].status == 401


def test_the_client_may_introduce_itself_by_basic_authentication(crm: StandinControl, wire: Wire) -> None:
    del crm
    credentials = CrmCredentials()
    basic = b64encode(f"{credentials.client_id}:{credentials.client_secret}".encode()).decode()

    answer, body = wire.send(
        "POST", "/oauth/token", "grant_type=client_credentials", {"Authorization": f"Basic {basic}"}
    )

    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert json.loads(body)["expires_in"] == 7200


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ("grant_type=client_credentials&client_id=x&client_secret=y", 401, "invalid_client"),
        ("grant_type=password&client_id=sandbox-client&client_secret=sandbox-client-secret", 400, "unsupported_grant"),
    ],
)
def test_a_wrong_token_request_is_refused(crm: StandinControl, wire: Wire, form: str, status: int, error: str) -> None:
    del crm
    answer, body = wire.send("POST", "/oauth/token", form)

    assert answer.status == status
    assert json.loads(body)["error"].startswith(error)


def test_of_100_requests_in_a_window_of_50_number_51_is_refused_and_a_later_one_passes(
    crm: StandinControl, wire: Wire
) -> None:
    crm.configure({"rate_limit": {"limit": 50, "window_s": 3}})
    began = time.monotonic()

    statuses = [wire.lead(f"d-{n}")[0] for n in range(100)]
    answer, _ = wire.send("POST", LEADS, LEAD, API_KEY)
    left = began + 3 - time.monotonic()
    time.sleep(int(answer.headers["Retry-After"]))

    assert statuses == [201] * 50 + [429] * 50
    assert left <= int(answer.headers["Retry-After"]) <= 3
    assert wire.lead("later")[0] == 201
    assert len(crm.effects()) == 51


def test_a_planned_status_has_no_effect_and_carries_its_retry_after(crm: StandinControl, wire: Wire) -> None:
    crm.plan({"status": 503, "retry_after": "2", "body": {"error": "busy"}})

    answer, body = wire.send("POST", LEADS, LEAD, API_KEY)

    assert (answer.status, answer.headers["Retry-After"], json.loads(body)) == (503, "2", {"error": "busy"})
    assert crm.effects() == []
    assert wire.lead("d-1")[0] == 201


def test_a_planned_500_can_be_told_after_the_effect(crm: StandinControl, wire: Wire) -> None:
    crm.plan({"status": 500, "effect": True})

    assert wire.lead("d-1")[0] == 500
    assert crm.effects_per_key() == {"d-1": 1}


@pytest.mark.parametrize(("fault", "effects"), [({"close": "before"}, 0), ({"close": "after"}, 1)])
def test_a_dropped_connection_gives_no_answer(
    crm: StandinControl, wire: Wire, fault: dict[str, object], effects: int
) -> None:
    crm.plan(fault)

    with pytest.raises(http.client.RemoteDisconnected):
        wire.lead("d-1")

    assert len(crm.effects()) == effects
    assert crm.counters()[f"POST {LEADS}"] == {"closed": 1}


@pytest.mark.parametrize(("effect", "effects"), [(True, 1), (False, 0)])
def test_a_hanging_server_answers_too_late(
    crm: StandinControl, standins: Standins, *, effect: bool, effects: int
) -> None:
    impatient = Wire(standins.crm_url, timeout_s=1)
    crm.plan({"hang_s": 30, "effect": effect})

    with pytest.raises(TimeoutError):
        impatient.lead("d-1")

    assert len(crm.effects()) == effects
    impatient.close()


def test_a_slow_server_answers_at_last(crm: StandinControl, wire: Wire) -> None:
    crm.plan({"hang_s": 0.1})
    began = time.monotonic()

    status, _ = wire.lead("d-1")

    assert status == 201
    assert time.monotonic() - began >= 0.1


def test_a_truncated_answer_is_shorter_than_it_says_and_the_effect_is_there(crm: StandinControl, wire: Wire) -> None:
    crm.plan({"truncate": True})

    with pytest.raises(http.client.IncompleteRead):
        wire.lead("d-1")

    assert crm.effects_per_key() == {"d-1": 1}


def test_expired_tokens_are_refused_until_a_new_one_is_fetched(crm: StandinControl, wire: Wire) -> None:
    old = {"Authorization": f"Bearer {wire.token()}"}
    crm.plan({"expire_tokens": True})

    assert wire.send("POST", LEADS, LEAD, old)[0].status == 401
    assert wire.send("POST", LEADS, LEAD, old)[0].status == 401
    assert wire.send("POST", LEADS, LEAD, {"Authorization": f"Bearer {wire.token()}"})[0].status == 201


def test_a_gateway_error_is_a_page_of_html(crm: StandinControl, wire: Wire) -> None:
    crm.plan({"html": 502})

    answer, body = wire.send("POST", LEADS, LEAD, API_KEY)

    assert (answer.status, answer.headers["Content-Type"]) == (502, "text/html")
    assert body.startswith(b"<html>")
    assert crm.effects() == []


@pytest.mark.parametrize("match", ["create_lead", LEADS, f"POST {LEADS}", "d-1"])
def test_a_fault_hits_only_what_it_is_meant_for(crm: StandinControl, wire: Wire, match: str) -> None:
    crm.plan({"status": 500, "match": match})

    look_up, _ = wire.send("GET", "/elsewhere", headers=API_KEY)

    assert look_up.status == 404
    assert wire.lead("d-1")[0] == 500
    assert wire.lead("d-1")[0] == 201


def test_a_fault_without_times_lasts_until_it_is_cleared(crm: StandinControl, wire: Wire) -> None:
    crm.plan({"status": 500, "times": None})
    statuses = [wire.lead("d-1")[0] for _ in range(3)]

    crm.clear_faults()

    assert statuses == [500, 500, 500]
    assert wire.lead("d-1")[0] == 201


def test_what_is_no_fault_or_setting_is_refused_by_the_control(crm: StandinControl) -> None:
    with pytest.raises(SandboxError, match="exactly one of"):
        crm.plan({"times": 2})
    with pytest.raises(SandboxError, match="rate_limit"):
        crm.configure({"speed": 1})


def test_a_stopped_server_drops_its_connections_and_comes_back_at_the_same_address(
    crm: StandinControl, standins: Standins, wire: Wire
) -> None:
    wire.lead("d-1")
    standins.crm.stop()

    with pytest.raises((ConnectionError, http.client.HTTPException)):
        wire.lead("d-2")
    with pytest.raises(SandboxError, match="is it started"):
        crm.effects()
    wire.close()
    standins.crm.start()

    assert wire.lead("d-3")[0] == 201
    assert crm.effects_per_key() == {"d-1": 1, "d-3": 1}


def test_mail_is_counted_and_its_faults_are_ordered_through_the_same_control(standins: Standins) -> None:
    mail = standins.control("smtp")
    mail.plan(SmtpFault("rcpt", code=450))
    mail.plan(SmtpFault("mail", code=451, times=9))
    mail.plan({"phase": "rcpt", "code": 451})
    message = "Message-ID: <d-1@exemplo.com.br>\r\nSubject: teste\r\n\r\nOlá\r\n".encode()
    mail.clear_faults()

    with smtplib.SMTP("127.0.0.1", standins.smtp_port, timeout=60) as client:
        client.sendmail("entrega@exemplo.com.br", ["ana.teste@exemplo.com.br"], message)

    assert mail.effects_per_key() == {"d-1": 1}
    assert mail.counters()["smtp"]["complete"] == 1
    with pytest.raises(SandboxError, match="phase"):
        mail.plan({"phase": "lunch"})
    mail.reset()
    assert mail.effects() == []


def test_the_environment_points_at_the_standins(standins: Standins) -> None:
    environment = sandbox_environment(standins)

    assert environment["CRM_API_URL"] == standins.crm_url
    assert environment["WHATSAPP_API_URL"] == standins.graph_url
    assert environment["SMTP_PORT"] == str(standins.smtp_port)
    assert all(environment.values())


def test_the_standins_run_as_a_process_of_their_own_and_keep_their_addresses(tmp_path: Path) -> None:
    first, addresses = launch(tmp_path)
    control = StandinControl(addresses.crm_url)
    wire = Wire(addresses.crm_url)

    status, _ = wire.lead("d-1")
    counted = control.effects_per_key()
    wire.close()
    first.stop()
    second, again = launch(tmp_path)
    second.stop()

    assert (status, counted) == (201, {"d-1": 1})
    assert asdict(again) == asdict(addresses)
    assert first.exit_code == 0


def test_two_servers_cannot_have_one_port() -> None:
    port = free_port()

    with socket.create_server(("127.0.0.1", port)):
        other = free_port(port)

    assert other != port


def test_no_port_is_given_twice_before_it_is_opened() -> None:
    assert len({free_port() for _ in range(500)}) == 500


def test_a_port_that_is_taken_before_the_start_is_chosen_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        taken = other.getsockname()[1]
        given = iter([0, 0, taken])  # the third one is the mail server's; the two before it are open by then
        monkeypatch.setattr("sandbox.standins.free_port", lambda kept=None: next(given, 0) or free_port(kept))

        standins = started(tmp_path, Ports(), None)
        standins.stop()
        with pytest.raises(OSError, match="in use"):
            started(None, Ports(smtp=taken), None)

    assert standins.smtp_port != taken
    assert len({standins.crm.port, standins.graph.port, standins.mail.port, standins.smtp_port}) == 4


def test_the_ports_file_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])

    assert "--ports-file" in capsys.readouterr().err
