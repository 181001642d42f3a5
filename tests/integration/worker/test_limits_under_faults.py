"""Four worker processes against a provider that notes every arrival, while workers and Redis fail under them.

A call arrives some time after the limiter's word, on a busy machine a long time. So a window may see its calls and,
beside them, those that were on their way when it began: no more than there are threads. A limiter that had forgotten
what it allowed would let twice its calls go.
"""

import os
import signal
import socketserver
import threading
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from multiprocessing import get_context

import pytest
from redis import Redis

from sandbox.valkey import ValkeyServer
from tests.integration.conftest import lead, new
from tests.integration.worker.limited_worker import THREADS, run

WINDOWS = [[30, 1], [150, 6]]
WORKERS = 4
IN_FLIGHT = WORKERS * THREADS
# Forked from a process that has imported everything: a worker that was killed is back at once.
PROCESSES = get_context("forkserver")


class Provider(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Caller)
        self.arrivals = []

    def handle_error(self, request, client_address):
        """A killed worker's connection."""


class _Caller(socketserver.BaseRequestHandler):
    def handle(self):
        while self.request.recv(16):
            self.server.arrivals.append(time.monotonic())
            time.sleep(0.02)
            self.request.sendall(b".")


@dataclass
class Cluster:
    """What the faults are done to."""

    database_url: str
    valkey: ValkeyServer
    redis_url: str
    provider: Provider
    workers: list = field(default_factory=list)

    def start_worker(self):
        arguments = (self.database_url, self.redis_url, self.provider.server_address[1], WINDOWS)
        worker = PROCESSES.Process(target=run, args=arguments)
        worker.start()
        self.workers.append(worker)

    def kill_worker(self):
        self.workers[0].kill()
        self.workers.pop(0).join()
        self.start_worker()

    def wipe(self):
        with Redis.from_url(self.redis_url) as client:
            client.flushall()

    def restart_redis(self):
        self.valkey.kill()
        time.sleep(0.5)
        self.valkey.start()

    def freeze_redis(self):
        pid = self.valkey._child.pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)

    def wait_for_calls(self, more, within):
        goal, end = len(self.provider.arrivals) + more, time.monotonic() + within
        while len(self.provider.arrivals) < goal and time.monotonic() < end:
            time.sleep(0.05)
        return len(self.provider.arrivals) >= goal


@pytest.fixture
def cluster(postgres_url, ledger, tmp_path):
    for _ in range(6):
        ledger.open([new(lead(), key=f"k{time.monotonic_ns()}-{n}") for n in range(100)])
    PROCESSES.set_forkserver_preload([run.__module__])
    valkey = ValkeyServer(tmp_path)
    with Provider() as provider:
        threading.Thread(target=provider.serve_forever, daemon=True).start()
        found = Cluster(postgres_url, valkey, valkey.start(), provider)
        try:
            for _ in range(WORKERS):
                found.start_worker()
            yield found
        finally:
            for each in found.workers:
                each.kill()
                each.join()
            valkey.stop()
            provider.shutdown()


def most_in(times, span):
    ordered = sorted(times)
    return max((bisect_left(ordered, first + span) - n for n, first in enumerate(ordered)), default=0)


def test_no_window_is_ever_passed_while_workers_are_killed_and_redis_forgets_restarts_and_freezes(cluster):
    went = [cluster.wait_for_calls(60, 180)]

    for fault in (cluster.kill_worker, cluster.wipe, cluster.restart_redis, cluster.freeze_redis):
        fault()
        went.append(cluster.wait_for_calls(40, 60))

    arrivals = list(cluster.provider.arrivals)
    assert most_in(arrivals, 1) <= 30 + IN_FLIGHT
    assert most_in(arrivals, 6) <= 150 + IN_FLIGHT
    assert went == [True] * 5
