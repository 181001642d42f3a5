"""Callbacks stay out of our own network, on real sockets: what was checked is what is connected to."""

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import trustme

from config.policy import Timeouts
from delivery.errors import Ambiguous, Permanent, Retryable
from providers.callback import PublicReach
from providers.http import HttpClient

FAST = Timeouts(connect_s=1, read_s=0.5, total_s=1)
NAME = "loja.exemplo.com.br"
PUBLIC = "93.184.216.34"


@dataclass
class Names:
    """A name server that gives each of its answers once, and the last one from then on."""

    answers: list[list[str]]
    asked: list[str] = field(default_factory=list)

    def __call__(self, host, port, **_):
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers 200 to what it gets; `/redirect` sends away, `/drip` never comes to an end."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, self.headers["Host"]))
        if self.path == "/drip":
            self._drip()
            return
        self.send_response(302 if self.path == "/redirect" else 200)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/stolen")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _drip(self):
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)

    def log_message(self, *_):
        pass


class Listener(http.server.ThreadingHTTPServer):
    """Counts connections, and keeps what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.seen: list[tuple[str, str]] = []
        self.connections = 0

    def verify_request(self, *_):
        self.connections += 1
        return True

    def handle_error(self, *_):
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Listener]]:
    servers: list[Listener] = []

    def start(tls: ssl.SSLContext | None = None) -> Listener:
        server = Listener()
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


def post(names, server, *, scheme="http", host=NAME, path="/", sandbox=True, ca_file=None):
    client = HttpClient(pool_size=2, ca_file=ca_file, reach=PublicReach(sandbox=sandbox, resolve=names))
    try:
        url = f"{scheme}://{host}:{server.server_port}{path}"
        return client.call("POST", url, route="", timeouts=FAST, body=b"{}")
    finally:
        client.close()


def test_the_connection_goes_to_the_address_that_was_checked_and_keeps_the_name(serve):
    server, names = serve(), Names([["127.0.0.1"]])

    answer = post(names, server)

    assert answer.status == 200
    assert server.seen == [("/", f"{NAME}:{server.server_port}")]
    assert names.asked == [NAME]


def test_statement_08_a_name_that_answers_differently_the_second_time_gains_nothing(serve):
    server, names = serve(), Names([["127.0.0.9"], ["127.0.0.1"]])  # nobody listens at the first

    with pytest.raises(Retryable):
        post(names, server)

    assert server.connections == 0
    assert len(names.asked) == 1


@pytest.mark.parametrize(
    "answers", [["127.0.0.1"], ["169.254.169.254"], [PUBLIC, "127.0.0.1"], ["10.0.0.1"], ["::ffff:127.0.0.1"], []]
)
def test_statement_07_one_address_that_is_not_public_forbids_the_name_and_no_packet_leaves(serve, answers):
    server = serve()

    with pytest.raises(Permanent, match="Unreachable") as caught:
        post(Names([answers]), server, scheme="https", sandbox=False)

    assert caught.value.code == "misconfigured"
    assert server.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "localhost", "127.0.0.1"])
def test_numbers_in_disguise_are_seen_through_at_the_connection_too(serve, host):
    server = serve()

    with pytest.raises((Permanent, Retryable)):
        post(socket.getaddrinfo, server, scheme="https", host=host, sandbox=False)

    assert server.connections == 0


def test_plain_http_is_refused_outside_the_sandbox_whatever_the_address(serve):
    server = serve()

    with pytest.raises(Permanent, match="Unreachable"):
        post(Names([[PUBLIC]]), server, sandbox=False)

    assert server.connections == 0


def test_the_sandbox_reaches_nothing_but_this_machine_over_plain_http(serve):
    with pytest.raises(Permanent, match="Unreachable"):
        post(Names([["10.0.0.1"]]), serve())


def test_statement_11_a_redirect_to_another_place_is_not_followed(serve):
    server = serve()

    with pytest.raises(Permanent) as caught:
        post(Names([["127.0.0.1"]]), server, path="/redirect")

    assert caught.value.http_status == 302
    assert [path for path, _ in server.seen] == ["/redirect"]


def test_an_answer_that_never_ends_is_left_when_the_time_is_up(serve):
    started = time.monotonic()

    with pytest.raises(Ambiguous):
        post(Names([["127.0.0.1"]]), serve(), path="/drip")

    assert time.monotonic() - started < 20  # far from never


def test_the_second_address_is_tried_when_the_first_refuses(serve):
    server = serve()

    assert post(Names([["127.0.0.9", "127.0.0.1"]]), server).status == 200


def test_a_name_that_does_not_resolve_is_never_sent(serve):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with pytest.raises(Retryable) as caught:
        post(unknown, serve())

    assert caught.value.code == "not_sent"


@pytest.mark.parametrize(("certified", "outcome"), [(NAME, 200), ("outra.exemplo.com.br", "certificate")])
def test_the_certificate_is_checked_for_the_name_and_not_for_the_address(serve, tmp_path, certified, outcome):
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certified).configure_cert(tls)
    told: list[str | None] = []
    tls.sni_callback = lambda _, name, __: told.append(name)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))

    try:
        found = post(Names([["127.0.0.1"]]), serve(tls), scheme="https", ca_file=ca_file).status
    except Permanent as err:
        found = err.code

    assert found == outcome
    assert told == [NAME]


def test_statement_12_the_environment_gives_no_proxy(serve, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    assert post(Names([["127.0.0.1"]]), serve()).status == 200
