"""How fast the REST door takes commands: durable submits in bulk, and the latency of single ones at a steady rate.

Runs web processes as they are shipped on one embedded Postgres that waits for the disk, without workers, and talks to
them over loopback: single submits and bulk through one process, then bulk through several.

    python benchmarks/rest.py --bulk 20000 --batch 1000 --rate 100 --seconds 20 --processes 2
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from config.running import child_environment
from ledger.database import connect
from ledger.schema import migrate
from sandbox.doors import free_port
from sandbox.postgres import temporary_postgres
from sandbox.valkey import ValkeyServer

_KEY = "uma-chave-inventada-bem-comprida"
_HEADERS = {"Authorization": f"Bearer {_KEY}", "Content-Type": "application/json"}
_SENDERS = 8


def main() -> int:
    """Measure and print one JSON object."""
    wanted = _arguments()
    with tempfile.TemporaryDirectory() as folder, temporary_postgres(durable=True) as server:
        data = Path(folder)
        engine = connect(server.url)
        migrate(engine)
        engine.dispose()
        valkey = ValkeyServer(data)
        variables = {
            "DATABASE_URL": server.url,
            "REDIS_URL": valkey.start(),
            "ENTREGA_DATA": str(data),
            "ENTREGA_MASTER_KEYS": b64encode(bytes(32)).decode(),
            "ENTREGA_BOOTSTRAP_KEY": _KEY,
        }
        try:
            with ExitStack() as stack:
                ports = [stack.enter_context(_web(variables, data / f"web{n}.log")) for n in range(wanted.processes)]
                # Single ones first: the hints of a bulk submit go on for a while after its answer.
                found = {"single": _single(ports[0], wanted), "bulk": _bulk(ports[:1], wanted, 1)}
                found["bulk, all processes"] = _bulk(ports, wanted, wanted.bulk + 1)
        finally:
            valkey.stop()
    print(json.dumps(found, indent=2))  # noqa: T201 - the answer of a program
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bulk", type=int, default=20_000, help="commands through /v1/bulk")
    parser.add_argument("--batch", type=int, default=1000, help="commands in one request")
    parser.add_argument("--connections", type=int, default=2, help="bulk requests under way at once, for each process")
    parser.add_argument("--processes", type=int, default=2, help="web processes")
    parser.add_argument("--rate", type=int, default=100, help="single submits in a second")
    parser.add_argument("--seconds", type=int, default=20, help="how long single submits go on")
    return parser.parse_args()


@contextmanager
def _web(variables: Mapping[str, str], log: Path) -> Iterator[int]:
    with log.open("wb") as out:
        command = (sys.executable, "-m", "ingress.web")
        port = free_port()
        env = child_environment({**variables, "ENTREGA_PORT": str(port)})
        process = subprocess.Popen(command, env=env, stderr=out, stdout=out)  # noqa: S603 - ours
        try:
            _await(port)
            yield port
        finally:
            process.terminate()
            process.wait(30)


def _await(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            _ask(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "/v1/leads", _lead(0))
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("the web process did not start")


def _ask(connection: http.client.HTTPConnection, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    connection.request("POST", path, json.dumps(body), _HEADERS)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    if answer.status != http.HTTPStatus.ACCEPTED:
        raise SystemExit(f"{path} answered {answer.status}: {told}")
    return dict(told)


def _lead(n: int) -> dict[str, Any]:
    return {
        "nome": "Ana Teste",
        "email": f"ana.teste{n}@exemplo.com.br",
        "telefone": "+5511999990001",
        "interesse": "produto_a",
        "options": {"key": f"medida-{n}"},
    }


def _bulk(ports: Sequence[int], wanted: argparse.Namespace, first: int) -> dict[str, Any]:
    """Send batches over a few connections to each process, each the next one as soon as it is free."""
    firsts = iter(range(first, first + wanted.bulk, wanted.batch))
    told: list[tuple[int, float]] = []
    threads = [
        threading.Thread(target=_bulk_sender, args=(port, wanted.batch, firsts, told))
        for port in ports
        for _ in range(wanted.connections)
    ]
    started = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    took = time.perf_counter() - started
    accepted = sum(count for count, _ in told)
    return {
        "accepted": accepted, "batch": wanted.batch, "connections": len(threads), "processes": len(ports),
        "per_second": round(accepted / took), "request_s": _spread([seconds for _, seconds in told]),
    }  # fmt: skip


def _bulk_sender(port: int, batch: int, firsts: Iterator[int], told: list[tuple[int, float]]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for first in firsts:
        items = [{"kind": "create_lead", **_lead(n)} for n in range(first, first + batch)]
        began = time.perf_counter()
        accepted = _ask(connection, "/v1/bulk", {"items": items})["accepted"]
        told.append((accepted, time.perf_counter() - began))


def _single(port: int, wanted: argparse.Namespace) -> dict[str, Any]:
    """Send at fixed instants, whatever the answers take: a slow answer must not hide those that wait behind it."""
    begin = time.perf_counter() + 0.2
    times: list[float] = []
    threads = [threading.Thread(target=_sender, args=(port, wanted, n, begin, times)) for n in range(_SENDERS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return {"rate": wanted.rate, "sent": len(times), "latency_s": _spread(times), "cpus": os.cpu_count()}


def _sender(port: int, wanted: argparse.Namespace, number: int, begin: float, times: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for n in range(number, wanted.rate * wanted.seconds, _SENDERS):
        due = begin + n / wanted.rate
        time.sleep(max(0.0, due - time.perf_counter()))
        _ask(connection, "/v1/leads", _lead(10_000_000 + n))
        times.append(time.perf_counter() - due)


def _spread(times: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else [times[0]] * 99
    return {
        "p50": round(cuts[49], 4),
        "p95": round(cuts[94], 4),
        "p99": round(cuts[98], 4),
        "max": round(max(times), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
