"""Which failure proves what, measured on real sockets: a server that misbehaves in one way and counts what it got.

Each case names the fault, what must come of it, and how many complete requests the server may have seen: one at
most, because nothing below the engine may send a request again.
"""

import contextlib
import gzip
import socket
import ssl
import struct
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from config.policy import Timeouts
from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable
from providers.http import Answer, HttpClient

FAST = Timeouts(connect_s=1, read_s=0.4, total_s=1)
# The servers here hold or drip for nine seconds and more; a busy machine may be late by some.
SURELY_LATE_S = 5
BODY = b'{"a":1}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class FaultServer:
    """Accepts connections on loopback and does one thing to each; `seen` holds every complete request."""

    def __init__(self, behave: Callable[["Exchange"], None], tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[bytes] = []
        self.connections = 0
        self.closed = threading.Semaphore(0)
        self._behave = behave
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            wrapped = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with wrapped:
                self._behave(Exchange(self, wrapped))
        self.closed.release()

    def close(self) -> None:
        self._socket.close()


@dataclass
class Exchange:
    """One connection, as a behaviour sees it."""

    server: FaultServer
    wire: socket.socket

    def read_request(self) -> None:
        """Read one whole request and count it; ends the connection when none comes."""
        data = b""
        while not complete(data):
            more = self.wire.recv(65_536)
            if not more:
                raise ConnectionError
            data += more
        self.server.seen.append(data)

    def reset(self) -> None:
        """Close so that the other side gets RST instead of FIN."""
        self.wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wire.close()


def complete(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return bool(end) and len(body) >= sum(lengths)


def saying(*parts: bytes, pause: float = 0.0, hold: float = 0.0) -> Callable[[Exchange], None]:
    """Read the request, then send the parts with a pause after each, hold the line, and close it."""

    def behave(exchange: Exchange) -> None:
        exchange.read_request()
        for part in parts:
            exchange.wire.sendall(part)
            time.sleep(pause)
        time.sleep(hold)

    return behave


def resetting(*parts: bytes, read: bool) -> Callable[[Exchange], None]:
    def behave(exchange: Exchange) -> None:
        if read:
            exchange.read_request()
        for part in parts:
            exchange.wire.sendall(part)
        exchange.reset()

    return behave


def resetting_at_the_first_byte(*parts: bytes) -> Callable[[Exchange], None]:
    """Reset once the client has begun: before, it may learn of that while it connects, and nothing was sent."""

    def behave(exchange: Exchange) -> None:
        exchange.wire.recv(1)
        resetting(*parts, read=False)(exchange)

    return behave


def closing_at_once(exchange: Exchange) -> None:
    exchange.wire.close()


def keeping_alive(exchange: Exchange) -> None:
    while True:
        exchange.read_request()
        exchange.wire.sendall(OK)


@pytest.fixture
def serve() -> Iterator[Callable[..., FaultServer]]:
    servers: list[FaultServer] = []

    def start(behave: Callable[[Exchange], None], tls: ssl.SSLContext | None = None) -> FaultServer:
        servers.append(FaultServer(behave, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def client() -> Iterator[HttpClient]:
    http = HttpClient(pool_size=2)
    yield http
    http.close()


def post(
    client: HttpClient, port: int, scheme: str = "http", host: str = "127.0.0.1", max_bytes: int = 10_000
) -> Answer:
    return client.call(
        "POST",
        f"{scheme}://{host}:{port}/api/v1/leads",
        route="/api/v1/leads",
        timeouts=FAST,
        headers={"Content-Type": "application/json", "Authorization": "Bearer ours"},
        body=BODY,
        max_bytes=max_bytes,
    )


def bomb(size: int) -> bytes:
    return gzip.compress(b"\0" * size)


def with_length(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def in_chunks(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


LOST = (Ambiguous, "answer_lost")
GZIP = b"Content-Encoding: gzip"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
LONG_HEAD = HEAD.replace(b"9", b"40")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TWO_LENGTHS = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} "


@pytest.mark.parametrize(
    ("behave", "expected", "seen"),
    [
        pytest.param(closing_at_once, LOST, 0, id="closed right after accept"),
        pytest.param(resetting_at_the_first_byte(), LOST, 0, id="reset at the first byte"),
        pytest.param(saying(), LOST, 1, id="closed after the request"),
        pytest.param(resetting(read=True), LOST, 1, id="reset after the request"),
        pytest.param(saying(hold=9), LOST, 1, id="no answer in time"),
        pytest.param(saying(b"GARBAGE\r\n\r\n"), LOST, 1, id="garbage for a status line"),
        pytest.param(saying(HEAD + b"{}"), LOST, 1, id="body shorter than announced"),
        pytest.param(resetting(HEAD + b"{}", read=True), LOST, 1, id="reset in the body"),
        pytest.param(saying(CHUNKED + b"9\r\n{}"), LOST, 1, id="chunk cut"),
        pytest.param(saying(HEAD + b"{", hold=9), LOST, 1, id="body stalls"),
        pytest.param(saying(LONG_HEAD, *[b"x"] * 40, pause=0.25), LOST, 1, id="body drips"),
        pytest.param(
            saying(b"HTTP/1.1 200 OK\r\n", *[b"A: b\r\n"] * 40, pause=0.25),
            LOST,
            1,
            id="headers drip",
        ),
        pytest.param(saying(CHUNKED, *[b"1\r\nx\r\n"] * 40, pause=0.25), LOST, 1, id="chunks drip"),
        pytest.param(saying(with_length(b"not gzip", GZIP)), LOST, 1, id="bad gzip"),
        pytest.param(saying(with_length(b"x" * 20_000)), LOST, 1, id="body over the cap"),
        pytest.param(saying(with_length(bomb(50_000_000), GZIP)), LOST, 1, id="gzip bomb"),
        pytest.param(saying(in_chunks(bomb(50_000_000), GZIP)), LOST, 1, id="gzip bomb in chunks"),
        pytest.param(saying(TWO_LENGTHS), LOST, 1, id="headers that contradict each other"),
        pytest.param(saying(b"HTTP/1.1 101 Switching\r\n\r\n"), LOST, 1, id="a status that ends nothing"),
        pytest.param(
            saying(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
            (Permanent, "redirected"),
            1,
            id="302",
        ),
        pytest.param(
            saying(b"HTTP/1.1 307 Go\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
            (Permanent, "redirected"),
            1,
            id="307",
        ),
    ],
)
def test_a_fault_after_the_connection_stood_is_judged_by_what_it_proves(
    behave: Callable[[Exchange], None],
    expected: tuple[type[ProviderError], str],
    seen: int,
    serve: Callable[..., FaultServer],
    client: HttpClient,
) -> None:
    server = serve(behave)
    started = time.monotonic()

    with pytest.raises(expected[0]) as caught:
        post(client, server.port)

    assert caught.value.code == expected[1]
    assert len(server.seen) == seen
    assert server.connections == 1
    assert time.monotonic() - started < SURELY_LATE_S
    assert "ours" not in str(caught.value)


CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\nX-A: b\r\n\r\n"
MANY = b"".join(b"X-Header-%d: %d\r\n" % (n, n) for n in range(300))
LONG = b"X-Long: " + b"a" * 66_000 + b"\r\n"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(EARLY_HINTS + CREATED, id="103"),
        pytest.param(PROCESSING + CREATED, id="102"),
        pytest.param(CONTINUE + PROCESSING + EARLY_HINTS * 3 + CREATED, id="100, 102, 103, 103, 103"),
        pytest.param(b"HTTP/1.1 199 Own\r\n" + MANY + b"\r\n" + CREATED, id="199 with 300 headers"),
        pytest.param(MANY.join([b"HTTP/1.1 201 Created\r\n", b"Content-Length: 2\r\n"]), id="300 headers"),
        pytest.param(CREATED + LONG, id="a header of 66 kB"),
        pytest.param(CREATED + b"X-Folded: a\r\n" + b" b\r\n" * 200, id="a folded header"),
        pytest.param(b"HTTP/1.1 201 Created\n" + MANY + b"Content-Length: 2\n", id="loose line ends"),
    ],
)
def test_the_final_answer_is_read_past_interim_ones_and_whatever_its_head_holds(
    head: bytes, serve: Callable[..., FaultServer], client: HttpClient
) -> None:
    server = serve(saying(head + b"Retry-After: 7\r\n\r\n{}", hold=9))

    answer = post(client, server.port)

    assert (answer.status, answer.body, answer.headers["Retry-After"]) == (201, b"{}", "7")


def test_a_connection_serves_again_after_interim_answers(serve: Callable[..., FaultServer], client: HttpClient) -> None:
    def behave(exchange: Exchange) -> None:
        while True:
            exchange.read_request()
            exchange.wire.sendall(EARLY_HINTS + OK)

    server = serve(behave)

    assert [post(client, server.port).status for _ in range(3)] == [200] * 3
    assert server.connections == 1


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(saying(EARLY_HINTS * 500 + OK), id="more interim answers than anybody means"),
        pytest.param(saying(*[PROCESSING] * 40, pause=0.25), id="interim answers drip"),
        pytest.param(saying(b"HTTP/1.1 103 Early Hints\r\n" + LONG * 20), id="an endless interim head"),
        pytest.param(saying(CREATED + LONG * 20 + b"\r\n{}"), id="a head of more than a megabyte"),
        pytest.param(saying(EARLY_HINTS), id="closed after an interim answer"),
        pytest.param(saying(EARLY_HINTS, hold=9), id="nothing after an interim answer"),
    ],
)
def test_a_head_without_end_is_a_lost_answer_in_time(
    behave: Callable[[Exchange], None], serve: Callable[..., FaultServer], client: HttpClient
) -> None:
    server = serve(behave)
    started = time.monotonic()

    with pytest.raises(Ambiguous) as caught:
        post(client, server.port)

    assert (caught.value.code, len(server.seen)) == ("answer_lost", 1)
    assert time.monotonic() - started < SURELY_LATE_S


def test_a_read_is_not_repeated_either(serve: Callable[..., FaultServer], client: HttpClient) -> None:
    server = serve(saying())

    with pytest.raises(Ambiguous):
        client.call("GET", f"http://127.0.0.1:{server.port}/", route="/", timeouts=FAST)

    assert (server.connections, len(server.seen)) == (1, 1)


def test_a_refused_connection_was_surely_not_sent(client: HttpClient) -> None:
    with socket.socket() as bound_but_deaf:
        bound_but_deaf.bind(("127.0.0.1", 0))

        with pytest.raises(Retryable) as caught:
            post(client, bound_but_deaf.getsockname()[1])

    assert caught.value.code == "not_sent"


def test_a_connection_that_nobody_answers_was_surely_not_sent(client: HttpClient) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.settimeout(0)
            each.connect_ex(("127.0.0.1", port))

        with pytest.raises(Retryable) as caught:
            post(client, port)

        for each in waiting:
            each.close()
    assert caught.value.code == "not_sent"


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Ty", id="headers cut in the middle"),
        pytest.param(with_length(b"<html>"), id="a page instead of JSON"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="no length and no body"),
    ],
)
def test_a_200_without_readable_json_proves_nothing_by_itself(
    reply: bytes, serve: Callable[..., FaultServer], client: HttpClient
) -> None:
    server = serve(saying(reply))

    answer = post(client, server.port)

    assert (answer.status, dict(answer.json())) == (200, {})
    assert len(server.seen) == 1


def test_an_early_refusal_is_heard_although_the_line_is_reset(
    serve: Callable[..., FaultServer], client: HttpClient
) -> None:
    server = serve(saying(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))

    assert post(client, server.port).status == 413


def test_a_compressed_answer_is_read(serve: Callable[..., FaultServer], client: HttpClient) -> None:
    server = serve(saying(with_length(gzip.compress(b'{"id":"7"}'), GZIP)))

    assert post(client, server.port).json() == {"id": "7"}


def test_connections_are_reused(serve: Callable[..., FaultServer], client: HttpClient) -> None:
    server = serve(keeping_alive)

    post(client, server.port)
    post(client, server.port)

    assert (server.connections, len(server.seen)) == (1, 2)


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    serve: Callable[..., FaultServer], client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(keeping_alive)
    monkeypatch.setattr("providers.connections._IDLE_S", 0.0)

    post(client, server.port)
    post(client, server.port)

    assert (server.connections, len(server.seen)) == (2, 2)


def test_a_connection_that_the_server_closed_meanwhile_costs_nothing(
    serve: Callable[..., FaultServer], client: HttpClient
) -> None:
    server = serve(saying(OK))

    post(client, server.port)
    assert server.closed.acquire(timeout=60)
    post(client, server.port)

    assert (server.connections, len(server.seen)) == (2, 2)


def test_a_reset_on_a_reused_connection_is_not_sent_again(
    serve: Callable[..., FaultServer], client: HttpClient
) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.read_request()
        exchange.wire.sendall(OK)
        exchange.read_request()
        exchange.reset()

    server = serve(behave)
    post(client, server.port)

    with pytest.raises(Ambiguous):
        post(client, server.port)

    assert (server.connections, len(server.seen)) == (1, 2)


def test_statement_12_a_netrc_entry_does_not_replace_our_authorization(
    serve: Callable[..., FaultServer], client: HttpClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password invented\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(keeping_alive)

    post(client, server.port)

    assert b"Authorization: Bearer ours\r\n" in server.seen[0]
    assert b"Basic" not in server.seen[0]


def test_a_proxy_in_the_environment_is_not_used(
    serve: Callable[..., FaultServer], client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = serve(keeping_alive)

    assert post(client, server.port).status == 200


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpClient]:
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    http = HttpClient(ca_file=file)
    yield http
    http.close()


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_a_certificate_of_our_authority_is_trusted(
    serve: Callable[..., FaultServer], trusting: HttpClient, authority: trustme.CA
) -> None:
    server = serve(keeping_alive, certified(authority, "localhost"))

    assert post(trusting, server.port, "https", "localhost").status == 200


def test_statement_14_an_unknown_authority_is_a_wrong_certificate(
    serve: Callable[..., FaultServer], client: HttpClient, authority: trustme.CA
) -> None:
    server = serve(keeping_alive, certified(authority, "localhost"))

    with pytest.raises(Permanent) as caught:
        post(client, server.port, "https", "localhost")

    assert (caught.value.code, server.seen) == ("certificate", [])


def test_statement_14_a_certificate_for_another_host_is_a_wrong_certificate(
    serve: Callable[..., FaultServer], trusting: HttpClient, authority: trustme.CA
) -> None:
    server = serve(keeping_alive, certified(authority, "another.example.com"))

    with pytest.raises(Permanent) as caught:
        post(trusting, server.port, "https", "localhost")

    assert (caught.value.code, server.seen) == ("certificate", [])


def test_statement_13_a_dripping_answer_over_tls_ends_with_the_total_time(
    serve: Callable[..., FaultServer], trusting: HttpClient, authority: trustme.CA
) -> None:
    server = serve(saying(LONG_HEAD, *[b"x"] * 40, pause=0.25), certified(authority, "localhost"))
    started = time.monotonic()

    with pytest.raises(Ambiguous):
        post(trusting, server.port, "https", "localhost")

    assert time.monotonic() - started < SURELY_LATE_S
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(with_length(b"x" * 5_000_000), id="a long body"),
        pytest.param(with_length(bomb(300_000_000), GZIP), id="gzip"),
        pytest.param(in_chunks(bomb(300_000_000), GZIP), id="gzip in chunks"),
        pytest.param(with_length(bomb(300_000_000), GZIP).replace(b"200 OK", b"503 Busy"), id="gzip beside a refusal"),
        pytest.param(with_length(gzip.compress(bomb(300_000_000)), b"Content-Encoding: gzip, gzip"), id="gzip in gzip"),
    ],
)
def test_statement_13_no_body_fills_the_memory_whatever_it_decompresses_to(
    answer: bytes, serve: Callable[..., FaultServer], client: HttpClient
) -> None:
    server = serve(saying(answer))
    tracemalloc.start()

    with contextlib.suppress(Ambiguous):
        assert post(client, server.port).body == b""

    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12_000_000


def test_statement_14_tls_1_1_is_not_spoken(
    serve: Callable[..., FaultServer], trusting: HttpClient, authority: trustme.CA
) -> None:
    old = certified(authority, "localhost")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    server = serve(keeping_alive, old)

    with pytest.raises(Retryable) as caught:
        post(trusting, server.port, "https", "localhost")

    assert (caught.value.code, server.seen) == ("not_sent", [])


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(closing_at_once, id="closed in the handshake"),
        pytest.param(resetting_at_the_first_byte(), id="reset in the handshake"),
        pytest.param(resetting_at_the_first_byte(b"HTTP/1.1 400 Bad Request\r\n\r\n"), id="plain HTTP answers"),
        pytest.param(lambda _: time.sleep(2), id="a plain port that stays silent"),
    ],
)
def test_a_handshake_that_fails_was_surely_not_sent(
    behave: Callable[[Exchange], None], serve: Callable[..., FaultServer], trusting: HttpClient
) -> None:
    server = serve(behave)

    with pytest.raises(Retryable) as caught:
        post(trusting, server.port, "https", "localhost")

    assert caught.value.code == "not_sent"
