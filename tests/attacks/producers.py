"""What one producer does to the others, and how it tries to get round its policy."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.attacks.target import Target, Verdict, percentile

_HOSTS = 32
_SLOW_S = 14
_P99_MS = 2000


def slow_callback_hosts(target: Target) -> Verdict:
    """Name 32 callback hosts that answer after 14 s, and see how long the leads of another producer take."""
    greedy, honest = target.make_key("attack-slow", "submit"), target.make_key("attack-honest", "submit", "read")
    probes = 12 if target.short else 25
    with _slow_hosts(_HOSTS) as hosts:
        items = [_bulk_lead(n, f"http://127.0.0.1:{port}/told") for n, port in enumerate(hosts.ports * 4)]
        target.ask("POST", "/v1/bulk", {"items": items}, key=greedy)
        target.until(lambda: hosts.most, 15)
        waits = [_until_done(target, honest) for _ in range(probes)]
        most = hosts.most
    target.sql("UPDATE endpoints SET disabled_at = now(), disabled_reason = 'attack' WHERE producer = 'attack-slow'")
    target.sql(
        "UPDATE deliveries SET state = 'canceled', settled_at = now() WHERE producer = 'attack-slow'"
        " AND kind = 'callback' AND state IN ('ready', 'waiting')"
    )
    p99 = percentile(waits)
    return Verdict(
        f"{_HOSTS} callback hosts that answer after {_SLOW_S} s",
        f"p99 of another producer's lead {p99:.0f} ms; callbacks held {most} threads at most",
        f"{_P99_MS} ms",
        passed=p99 <= _P99_MS and most > 0,
    )


class _Hosts:
    """Callback hosts that are slow, and how many calls they held at once."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.open = threading.Event()
        self.most = self.now = 0
        self._lock = threading.Lock()

    def count(self, change: int) -> None:
        with self._lock:
            self.now += change
            self.most = max(self.most, self.now)


@contextmanager
def _slow_hosts(how_many: int) -> Iterator[_Hosts]:
    hosts = _Hosts()

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hosts.count(1)
            hosts.open.wait(_SLOW_S)
            hosts.count(-1)
            with suppress(OSError):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Slow) for _ in range(how_many)]
    hosts.ports = [each.server_port for each in servers]
    for each in servers:
        threading.Thread(target=each.serve_forever, daemon=True).start()
    try:
        yield hosts
    finally:
        hosts.open.set()
        for each in servers:
            each.shutdown()
            each.server_close()


def _bulk_lead(number: int, url: str) -> dict[str, object]:
    person = f"ataque{number}.{time.monotonic_ns()}@exemplo.com.br"
    lead = {"kind": "create_lead", "nome": "Ana Teste", "email": person, "interesse": "produto_a"}
    return lead | {"options": {"callback_url": url}}


def _until_done(target: Target, key: str) -> float:
    """Hand over one lead; return the seconds until the CRM has it."""
    started = time.perf_counter()
    id_ = target.lead(key=key).body["id"]
    target.until(lambda: target.state(id_) == "succeeded", 20)
    return time.perf_counter() - started


ATTACKS = (slow_callback_hosts,)
