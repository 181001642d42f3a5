"""How well four worker processes use a limit of 80 calls a second, and whether the provider ever refuses one.

The provider stand-in counts arrivals with its own clock and refuses the 81st within any second: a sliding second, the
strictest way to count, because whoever keeps to it keeps to fixed seconds too. Each process has threads that always
have another delivery waiting. One process is killed and started again after a third of the time. A second part
measures what the limiter costs. `python benchmarks/limiter.py --help` shows the options.
"""

import argparse
import json
import multiprocessing as mp
import os
import signal
import socketserver
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.console import Console

from config.spec_sections import Excess, Limits
from delivery.commands import SendWhatsApp
from delivery.ids import new_id
from delivery.outcomes import Deferred, Outcome, Receipt, Succeeded
from delivery.ports import Claimed, Order, Settlement
from sandbox.valkey import ValkeyServer
from worker.limits import LimitRules, SharedLimiter

LIMIT = 80
PROCESSES = 4
_RESULTS = Path(__file__).with_name("results") / "limiter.json"
_ACCOUNT = "whatsapp:bench"
_MOST_REFUSED = 0.001
_LEAST_USED = 0.98


@dataclass(frozen=True)
class Use:
    """What the provider saw.

    Attributes:
        used: Accepted calls as a share of the allowed ones.
        refused: Refused calls as a share of all.
        most: Most calls that were accepted within any second; the limit when it is fully used.
        asked: Most calls, refused ones included, that arrived within any second.
        around_the_kill: The same within ten seconds of the kill.
    """

    calls: int
    used: float
    refused: float
    most: int
    asked: int
    around_the_kill: int

    @property
    def passed(self) -> bool:
        """Tell whether the goals are met."""
        return self.used >= _LEAST_USED and self.refused <= _MOST_REFUSED


def main() -> int:
    """Run, print and return 0 when the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=8, help="in each process")
    parser.add_argument("--keep", action="store_true", help=f"add the run to {_RESULTS.name}")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="of the provider")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="entrega-bench-") as folder:
        server = ValkeyServer(Path(folder))
        url = server.start()
        try:
            use = _measure_use(url, options)
            cost = _measure_cost(url)
        finally:
            server.stop()
    write = Console(highlight=False).print
    write(f"calls {use.calls}, used {use.used:.2%} (goal >= 98 %), refused {use.refused:.3%} (goal <= 0.1 %)")
    write(f"most in any second: accepted {use.most}, arrived {use.asked}, around the kill {use.around_the_kill}")
    if options.keep:
        _keep(asdict(use) | {"seconds": options.seconds, "load": os.getloadavg()[0], "cores": os.cpu_count()})
    write(f"one thread: {cost:.0f} closed() and ended() a second")
    return 0 if use.passed else 1


def _keep(run: dict[str, object]) -> None:
    runs = json.loads(_RESULTS.read_text()) if _RESULTS.exists() else []
    runs.append({"at": datetime.now(UTC).isoformat(timespec="seconds"), **run})
    _RESULTS.write_text(json.dumps(runs, indent=1) + "\n")


def _measure_use(url: str, options: argparse.Namespace) -> Use:
    context = mp.get_context("forkserver")
    here, there = context.Pipe()
    start = context.Event()
    provider = context.Process(target=_provide, args=(there, options.latency_ms / 1000))
    provider.start()
    port = here.recv()
    workers = [_worker(url, port, start, options.threads) for _ in range(PROCESSES)]
    try:
        _wait_until_ready(url, PROCESSES)
        began = time.monotonic()
        start.set()
        killed_at = _kill_one(workers, lambda: _worker(url, port, start, options.threads), options.seconds)
        time.sleep(max(0.0, began + options.seconds - time.monotonic()))
        here.send("stop")
        arrivals = here.recv()
    finally:
        for each in [*workers, provider]:
            each.kill()
            each.join()
    return _judge(arrivals, began, options.seconds, killed_at)


def _worker(url: str, port: int, start: object, threads: int) -> BaseProcess:
    process = mp.get_context("forkserver").Process(target=_work, args=(url, port, start, threads))
    process.start()
    return process


def _kill_one(workers: list[BaseProcess], again: object, seconds: float) -> float:
    time.sleep(seconds / 3)
    os.kill(workers[0].pid or 0, signal.SIGKILL)
    killed_at = time.monotonic()
    workers[0].join()
    workers[0] = again()  # type: ignore[operator] # a factory of the same worker
    return killed_at


def _wait_until_ready(url: str, wanted: int) -> None:
    with Redis.from_url(url) as client:
        while int(client.get("ready") or 0) < wanted:
            time.sleep(0.05)


def _judge(arrivals: list[tuple[float, bool]], began: float, seconds: float, killed_at: float) -> Use:
    inside = [(at, taken) for at, taken in arrivals if began <= at < began + seconds]
    accepted = [at for at, taken in inside if taken]
    every = [at for at, _ in inside]
    near = [at for at in every if abs(at - killed_at) < 10]  # noqa: PLR2004 - as `Use` says
    used, refused = len(accepted) / (LIMIT * seconds), 1 - len(accepted) / max(1, len(inside))
    return Use(len(inside), used, refused, _most(accepted), _most(every), _most(near))


def _most(times: list[float]) -> int:
    ordered = sorted(times)
    return max((bisect_left(ordered, first + 1) - n for n, first in enumerate(ordered)), default=0)


class _Provider(socketserver.ThreadingTCPServer):
    """Answers one byte with one byte: y for accepted, n for one call too many within a second."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, latency: float) -> None:
        super().__init__(("127.0.0.1", 0), _Caller)
        self.latency = latency
        self.counting = threading.Lock()
        self.accepted: deque[float] = deque()
        self.arrivals: list[tuple[float, bool]] = []

    def take(self) -> bool:
        with self.counting:
            now = time.monotonic()
            while self.accepted and self.accepted[0] <= now - 1:
                self.accepted.popleft()
            free = len(self.accepted) < LIMIT
            if free:
                self.accepted.append(now)
            self.arrivals.append((now, free))
            return free


class _Caller(socketserver.BaseRequestHandler):
    server: _Provider

    def handle(self) -> None:
        self.request.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        while self.request.recv(1):
            taken = self.server.take()
            time.sleep(self.server.latency)
            self.request.sendall(b"y" if taken else b"n")

    def finish(self) -> None:
        self.request.close()


def _provide(channel: object, latency: float) -> None:
    with _Provider(latency) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign] # a killed worker's connection
        threading.Thread(target=server.serve_forever, daemon=True).start()
        channel.send(server.server_address[1])  # type: ignore[attr-defined] # one end of a pipe
        channel.recv()  # type: ignore[attr-defined]
        channel.send(server.arrivals)  # type: ignore[attr-defined]
        server.shutdown()


def _work(url: str, port: int, start: object, threads: int) -> None:
    limiter = _limiter(url)
    with Redis.from_url(url) as client:
        client.incr("ready")
    start.wait()  # type: ignore[attr-defined] # an event of multiprocessing
    for _ in range(threads):
        threading.Thread(target=_deliver_for_ever, args=(limiter, port)).start()


def _deliver_for_ever(limiter: SharedLimiter, port: int) -> None:
    with create_connection(("127.0.0.1", port)) as wire:
        wire.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        while True:
            delivery = _claimed()
            while (shut := limiter.closed([delivery])[0]) is not None:
                time.sleep(shut.wait.total_seconds())
            wire.sendall(b"?")
            limiter.ended([Settlement(delivery, _outcome(wire.recv(1)))])


def _outcome(answer: bytes) -> Outcome:
    refused = Deferred("rate_limited", timedelta(seconds=1), "the provider said too many calls")
    return Succeeded(Receipt("wamid-1")) if answer == b"y" else refused


def _claimed() -> Claimed:
    command = SendWhatsApp(to="+5511999990001", text="Teste")
    return Claimed(Order(new_id(), _ACCOUNT, command, 1, datetime.now(UTC)), "bench", 1, {}, 0)


def _limiter(url: str, per_second: int = LIMIT) -> SharedLimiter:
    excess = Excess(signals=("429",), strategy="slow down", retry_after_cap=timedelta(minutes=1))
    rules = LimitRules(
        limits={"whatsapp": Limits(per_second=per_second, on_excess=excess)},
        lease=lambda _: timedelta(seconds=45),
        recipient_key=lambda _: "somebody",
        asked=lambda _: None,
        called=lambda *_: (),
        processes=PROCESSES,
    )
    client = Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))
    return SharedLimiter(client, rules)


def _measure_cost(url: str, calls: int = 3000) -> float:
    limiter = _limiter(url, per_second=1_000_000)
    deliveries = [_claimed() for _ in range(calls)]
    began = time.perf_counter()
    for each in deliveries:
        limiter.closed([each])
        limiter.ended([Settlement(each, Succeeded(Receipt("wamid-1")))])
    return calls / (time.perf_counter() - began)


if __name__ == "__main__":
    raise SystemExit(main())
