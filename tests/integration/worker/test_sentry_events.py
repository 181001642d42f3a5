"""What really goes over the wire to Sentry, seen by a collector on loopback."""

import gzip
import io
import json
import logging
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import sentry_sdk
import structlog
from celery import Celery
from pydantic import SecretStr

from delivery.alerts import Alert
from delivery.errors import FieldIssue, InvalidCommand, KeyReused, Retryable
from tasks.logs import configure_logging
from worker.sentry import report_alert, report_error, scrub, start_sentry

ADDRESS = "ana.teste@exemplo.com.br"
PHONE = "+5511999990001"
TOKEN = "EAAGinventedtokenABCDEF"
LOCAL = "Ana Teste da Silva"
ID = "0193509d-7c1e-7000-8000-551199999000"
CANARIES = [ADDRESS.encode(), PHONE.encode(), b"5511999990001", TOKEN.encode(), LOCAL.encode()]


class _Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(self.headers["Content-Encoding"], bytes)
        self.server.envelopes.append(unpack(body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def collector():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    server.envelopes = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def sentry(collector):
    dsn = SecretStr(f"http://{'0' * 32}@127.0.0.1:{collector.server_port}/1")
    assert start_sentry(dsn, environment="sandbox", release="0.1.0")
    yield collector
    sentry_sdk.get_client().close()
    sentry_sdk.init(default_integrations=False, auto_enabling_integrations=False)  # else Celery stays instrumented


def _fail():
    person = "".join(LOCAL)
    try:
        {}[f"row of {PHONE}"]
    except KeyError as err:
        raise RuntimeError(f"no answer for {ADDRESS} {PHONE} Bearer {TOKEN} {len(person)}") from err


def _failure():
    with pytest.raises(RuntimeError) as caught:
        _fail()
    return caught.value


def _events(collector):
    sentry_sdk.flush(5)
    return [json.loads(each.split(b"\n")[2]) for each in collector.envelopes]


def _leaks(collector):
    return [each for each in CANARIES if each in b"".join(collector.envelopes)]


def test_statement_29_an_error_arrives_without_people_or_secrets(sentry):
    report_error(_failure(), {"request_id": ID, "action": "create_lead", "nome": LOCAL})

    events = _events(sentry)
    assert _leaks(sentry) == []
    assert [each["type"] for each in events[0]["exception"]["values"]] == ["KeyError", "RuntimeError"]
    assert events[0]["exception"]["values"][1]["value"].startswith("no answer for a***@exemplo.com.br +55119999****")
    assert events[0]["tags"] == {"request_id": ID, "action": "create_lead"}
    assert (events[0]["environment"], events[0]["release"]) == ("sandbox", "0.1.0")


def test_statement_29_only_allowed_parts_leave(sentry):
    scope = sentry_sdk.get_isolation_scope()
    scope.set_user({"email": ADDRESS})
    scope.set_extra("body", LOCAL)
    scope.set_tag("who", f"{LOCAL} <{ADDRESS}>")
    scope.set_context("request", {"data": PHONE})
    scope.add_attachment(bytes=LOCAL.encode(), filename="a.txt")
    sentry_sdk.add_breadcrumb(message=LOCAL)
    logging.getLogger("x").error("for %s", LOCAL)

    sentry_sdk.capture_exception(_failure())

    events = _events(sentry)
    scope.clear()
    assert _leaks(sentry) == []
    assert len(sentry.envelopes) == 1
    assert {"user", "extra", "breadcrumbs", "request", "modules"} & set(events[0]) == set()


@pytest.mark.parametrize(
    "error",
    [
        InvalidCommand("create_lead", (FieldIssue("email", "not an address"),)),
        KeyReused("the key was used before"),
        Retryable("the provider is away"),
    ],
)
def test_verdicts_are_no_errors_of_ours(error, sentry):
    report_error(error, {"request_id": ID})

    assert _events(sentry) == []


def test_a_logged_traceback_becomes_an_event_and_a_logged_line_does_not(sentry):
    configure_logging("json", "INFO", stream=io.StringIO(), on_error=report_error)

    structlog.get_logger("entrega.test").error("attempt", request_id=ID, nome=LOCAL)
    structlog.get_logger("entrega.test").error("adapter_failed", request_id=ID, nome=LOCAL, exc_info=_failure())

    events = _events(sentry)
    assert [each["tags"] for each in events] == [{"request_id": ID, "event": "adapter_failed"}]
    assert _leaks(sentry) == []


def test_statement_29_a_failed_task_is_reported_without_its_arguments(sentry):
    app = Celery("test", broker="memory://", backend=None, set_as_current=False)
    app.conf.task_ignore_result = True

    @app.task(name="create_lead", shared=False)
    def task(**_):
        _fail()

    task.apply(kwargs={"nome": LOCAL, "email": ADDRESS})

    events = _events(sentry)
    assert _leaks(sentry) == []
    assert events[0]["exception"]["values"][1]["type"] == "RuntimeError"
    assert set(events[0]["tags"]) == {"celery_task_id"}


def test_statement_54_an_event_that_cannot_be_masked_is_dropped():
    class Unprintable:
        def __str__(self):
            raise ValueError(ADDRESS)

    assert scrub({"exception": {"values": [{"value": Unprintable()}]}}, {}) is None


def test_frames_lose_their_locals_even_when_the_library_sent_them():
    frame = {"function": "f", "lineno": 3, "vars": {"a": LOCAL}}

    event = scrub({"exception": {"values": [{"type": "E", "stacktrace": {"frames": [frame]}}]}}, {})

    assert event == {
        "exception": {"values": [{"type": "E", "stacktrace": {"frames": [{"function": "f", "lineno": 3}]}}]},
        "tags": {},
    }


def test_starting_twice_keeps_the_first_client(sentry):
    first = sentry_sdk.get_client()

    again = start_sentry(SecretStr(str(first.dsn)), environment="sandbox", release="0.1.0")

    assert again is True
    assert sentry_sdk.get_client() is first


@pytest.mark.parametrize("dsn", [None, SecretStr("")])
def test_without_a_dsn_nothing_is_started(dsn):
    assert start_sentry(dsn, environment="sandbox", release="0.1.0") is False


def test_an_alert_is_one_event_grouped_by_account_and_code(sentry):
    report_alert(Alert("P1", "crm:default", "crm", "unauthorized", f"refused {TOKEN}", "entrega resume crm:default"))

    (event,) = _events(sentry)
    assert event["fingerprint"] == ["alert", "crm:default", "unauthorized"]
    assert event["message"] == "P1 crm:default unauthorized: entrega resume crm:default"
    assert (event["level"], event["tags"]["severity"]) == ("error", "P1")
    assert [each for each in CANARIES if each in json.dumps(event).encode()] == []
