"""What a door meets from broken and hostile clients: a clear 4xx, nothing written, nobody else slowed."""

import gzip
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import psutil
import pytest

from tests.integration.ingress.conftest import HastyProtocol
from tests.integration.ingress.test_rest_submit import LEAD

JSON = {"Content-Type": "application/json"}


def connected(door):
    parts = urlsplit(door.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def head(door, *more, path="/v1/leads"):
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {door.key}", *more)
    return ("\r\n".join(lines) + "\r\n").encode()


def answer_of(sock):
    chunks = []
    with suppress(ConnectionError):
        while chunk := sock.recv(65536):
            chunks.append(chunk)
    return b"".join(chunks)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b'{"nome": "Ana", "nome": "Bia"}', 400),
        (b'{"nome": NaN}', 400),
        (b"[" * 50_000, 400),
        (b'{"nome": "\\ud800"}', 400),
        (b"\xef\xbb\xbf{}", 400),
        ('{"nome": "Ana"}'.encode("utf-16"), 400),
        (b"{} trailing", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"nome": {"a": 1}}', 422),
        (b'{"options": 7}', 422),
        (b'{"options": {"dry_run": "true"}}', 422),
        (b'{"nome\\u0000": 1}', 422),
    ],
)  # fmt: skip
def test_a_body_that_is_no_command_is_refused_and_nothing_is_written(door, archive, body, status):
    answer = door.ask("POST", "/v1/leads", data=body, headers=JSON)

    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message", "details"}
    assert archive.search() == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=iso-8859-1"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        JSON | {"Content-Encoding": "gzip"},
    ],
)
def test_another_type_charset_or_coding_is_refused(door, archive, headers):
    body = gzip.compress(json.dumps(LEAD).encode()) if "Content-Encoding" in headers else json.dumps(LEAD).encode()

    answer = door.ask("POST", "/v1/leads", data=body, headers=headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "wrong_media_type")
    assert archive.search() == []


def test_a_declared_size_that_is_too_large_is_refused_before_it_is_sent(door):
    with connected(door) as sock:
        sock.sendall(head(door, "Content-Type: application/json", "Content-Length: 999999999", ""))
        answer = answer_of(sock)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


def test_an_endless_body_is_cut_off_and_memory_stays_flat(door, archive):
    process = psutil.Process()
    before = process.memory_info().rss
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"

    def pour():
        with connected(door) as sock:
            sock.sendall(head(door, "Content-Type: application/json", "Transfer-Encoding: chunked", ""))
            with suppress(OSError):
                for _ in range(2000):
                    sock.sendall(chunk)
            return answer_of(sock)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: pour(), range(20)))

    assert process.memory_info().rss - before < 400_000_000
    assert door.post("/v1/leads", LEAD).status_code == 202
    assert len(archive.search()) == 1


def test_without_a_key_a_body_is_not_waited_for(door):
    with connected(door) as sock:
        sock.sendall(
            b"POST /v1/leads HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        )
        answer = sock.recv(65536)

    assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/leads HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/leads HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/leads HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_door_stays_open(door, raw):
    with connected(door) as sock:
        with suppress(ConnectionError):
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)
        answer = answer_of(sock)

    assert answer[:12] in {b"", b"HTTP/1.1 400", b"HTTP/1.1 404"}
    assert door.get("/v1/deliveries").status_code == 200


def test_slow_headers_and_bodies_do_not_slow_others(doors):
    door = doors(protocol=HastyProtocol)
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(door)) for _ in range(300)]
        for n, sock in enumerate(slow):
            sock.sendall(
                b"POST /v1/le" if n % 2 else head(door, "Content-Type: application/json", "Content-Length: 9", "")
            )

        times = []
        for n in range(20):
            started = time.monotonic()
            assert door.post("/v1/leads", LEAD | {"email": f"ana{n}@exemplo.com.br"}).status_code == 202
            times.append(time.monotonic() - started)

    assert sorted(times)[10] < 1


def test_headers_that_never_end_lose_their_connection(doors):
    door = doors(protocol=HastyProtocol)

    with connected(door) as sock:
        started = time.monotonic()
        with suppress(ConnectionError):
            for each in b"POST /v1/leads HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"a" * 400:
                sock.sendall(bytes([each]))
                time.sleep(0.05)
        assert answer_of(sock) == b""

    assert time.monotonic() - started < 15


def test_a_second_request_on_a_connection_is_timed_as_well(doors):
    door = doors(protocol=HastyProtocol)

    with connected(door) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        first = sock.recv(65536)
        while not first.endswith(b'"ok"}'):  # head and body may come one after the other
            first += sock.recv(65536)
        sock.sendall(b"GET /hea")
        started = time.monotonic()
        rest = answer_of(sock)

    assert (first[:12], rest) == (b"HTTP/1.1 200", b"")
    assert time.monotonic() - started < 15


def test_too_many_idle_connections_make_room_for_new_ones(doors):
    class Crowded(HastyProtocol):
        headers_within_s = 60
        most_connections = 20

    door = doors(protocol=Crowded)
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connected(door)).sendall(b"GET /")

        assert door.get("/v1/deliveries").status_code == 200


def test_a_body_that_ends_too_early_is_refused(door):
    with connected(door) as sock:
        sock.sendall(head(door, "Content-Type: application/json", "Content-Length: 9", "", '{"a"'))
        sock.shutdown(socket.SHUT_WR)
        answer = answer_of(sock)

    assert answer[:12] in {b"", b"HTTP/1.1 400"}
    assert door.get("/v1/deliveries").status_code == 200
