"""Attacks on the web process by outsiders without a key, and by a key that may only read.

What counts is what an honest producer notices: the p99 of `POST /v1/leads` during an attack, compared with the p99
without one. Without one is measured twice, alone and while the same sender works against a server that does nothing,
because that sender uses the machine too; the slower of both counts. Rounds take turns, because the machine's speed
drifts, and each figure is the median over the rounds.
"""

import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.attacks.target import Target, Verdict, percentile

_HOME = Path(__file__).parents[2]
_RATIO = 1.2


def wrong_keys(target: Target) -> Verdict:
    """2,000 wrong keys a second, each well-formed, on as many connections as it takes."""
    return _compared(target, "2,000 wrong keys a second", "guess_keys")


def unknown_routes(target: Target) -> Verdict:
    """2,000 requests a second for paths that there are not."""
    return _compared(target, "2,000 unknown paths a second", "ask_unknown_paths")


def idle_webhooks(target: Target) -> Verdict:
    """500 connections with the head of a webhook and no body, opened again as soon as they are closed."""
    return _compared(target, "500 idle webhook connections", "hold_webhooks")


def unsigned_bodies(target: Target) -> Verdict:
    """43 bodies of 3 MB at once, none of them signed, again and again."""
    return _compared(target, "43 unsigned webhook bodies of 3 MB", "send_bodies")


def slow_headers(target: Target) -> Verdict:
    """600 connections that send one byte of a header now and then."""
    return _compared(target, "600 connections with endless headers", "drip_headers")


def all_at_once(target: Target) -> Verdict:
    """500 idle webhooks, 43 bodies of 3 MB and 2,000 wrong keys a second."""
    return _compared(target, "idle webhooks, 3 MB bodies and wrong keys at once", "do_all")


def metrics_readers(target: Target) -> Verdict:
    """40 readers of /metrics on a large table."""
    rows = 10_000 if target.short else 200_000
    with _filled(target, rows):
        return _compared(target, f"40 readers of /metrics on {rows:,} rows", "read_metrics")


def many_values(target: Target) -> Verdict:
    """A key that may only read, and one that may submit, send 3.9 MB of `[],` to /mcp; the process must go on."""
    keys = [target.make_key("leitor", "read"), target.make_key("loja", "submit")]
    body = b'{"a":[' + b"[]," * 1_300_000 + b"[]]}"
    worst, ended = 0.0, threading.Event()

    def watch() -> None:
        nonlocal worst
        while not ended.is_set():
            worst = max(worst, target.ask("GET", "/health/live", key="").seconds)

    watcher = threading.Thread(target=watch)
    watcher.start()
    answers = [target.ask("POST", "/mcp", body, key=each).status for each in keys]
    ended.set()
    watcher.join()
    happened = f"answered {answers}; /health/live took {worst * 1000:.0f} ms at most"
    return Verdict("3.9 MB of [], to /mcp", happened, "413, 400; 500 ms", answers == [413, 400] and worst < 0.5)


ATTACKS = (
    idle_webhooks,
    unsigned_bodies,
    wrong_keys,
    unknown_routes,
    slow_headers,
    all_at_once,
    metrics_readers,
    many_values,
)


def _compared(target: Target, attack: str, sender: str) -> Verdict:
    parts = urlsplit(target.url)
    rounds, size = (1, 40) if target.short else (5, 500)
    alone: list[list[float]] = []
    quiet: list[list[float]] = []
    attacked: list[list[float]] = []
    with _sending("nothing", "127.0.0.1", 0) as nothing, _client(target) as submit:
        for _ in range(rounds):
            alone.append([submit() for _ in range(size)])
            with _sending(sender, "127.0.0.1", int(nothing)):
                quiet.append([submit() for _ in range(size)])
            with _sending(sender, str(parts.hostname), int(parts.port or 80)):
                attacked.append([submit() for _ in range(size)])
    after = _middle(attacked)
    happened = (
        f"p99 of a submit {_middle(quiet):.1f} ms -> {after:.1f} ms ({_middle(alone):.1f} ms without a sender),"
        f" median {_middle(quiet, 0.5):.1f} -> {_middle(attacked, 0.5):.1f} ms"
    )
    if target.short:  # too few for a p99: here it is only shown that producers are served
        return Verdict(attack, happened, "served within 2 s", passed=after < 2000)
    return Verdict(attack, happened, f"{_RATIO} x", passed=after <= _RATIO * max(_middle(quiet), _middle(alone)))


def _middle(rounds: list[list[float]], share: float = 0.99) -> float:
    """Return the median over the rounds of a percentile, in ms: one pause of the machine spoils one round."""
    return statistics.median(percentile(each, share) for each in rounds)


@contextmanager
def _client(target: Target) -> Iterator[Callable[[], float]]:
    """Give an honest producer on a connection of its own: each call hands over a lead and tells how long it took."""
    connection = http.client.HTTPConnection(urlsplit(target.url).netloc, timeout=60)
    headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/json"}

    def submit() -> float:
        person = f"pessoa.{time.monotonic_ns()}@exemplo.com.br"
        body = json.dumps({"nome": "Ana Teste", "email": person, "interesse": "produto_a"})
        started = time.perf_counter()
        connection.request("POST", "/v1/leads", body, headers)
        response = connection.getresponse()
        response.read()
        if response.status != 202:
            raise RuntimeError(f"an honest producer was answered {response.status}")
        return time.perf_counter() - started

    yield submit
    connection.close()


@contextmanager
def _sending(sender: str, host: str, port: int) -> Iterator[str]:
    """Run a sender until the block ends; give the first line that it says."""
    command = [sys.executable, "-m", "tests.attacks.senders", sender, host, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_HOME)
    try:
        yield (process.stdout or sys.stdin).readline().strip()
    finally:
        process.kill()
        process.wait()


@contextmanager
def _filled(target: Target, rows: int) -> Iterator[None]:
    """Let the table of deliveries be large for a while."""
    target.sql(
        "INSERT INTO deliveries (id, kind, account, producer, state, priority, hold_uncertain, recipient, person,"
        " expires_at, settled_at, receipt) SELECT gen_random_uuid(), 'create_lead', 'crm:default', 'attack',"
        " 'succeeded', 1, 0, 'a***@exemplo.com.br', '\\x00', now(), now(), 'r' FROM generate_series(1, :rows)",
        rows=rows,
    )
    try:
        yield
    finally:
        target.sql("DELETE FROM deliveries WHERE producer = 'attack'")
