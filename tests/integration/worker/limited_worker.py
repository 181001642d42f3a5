"""A worker process for the tests of the limiter: the real engine, ledger and limiter; the provider is a socket."""

import threading
import time
from datetime import timedelta
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.policy import load_specs
from config.spec_sections import Excess, Limits, Window
from delivery.engine import Engine
from delivery.outcomes import Receipt
from ledger.calls import calls_lately
from ledger.database import connect
from ledger.sealing import MasterKeys
from ledger.store import PostgresLedger
from ledger.vault import Vault
from tests.integration.conftest import due
from worker.limits import LimitRules, SharedLimiter

ACCOUNT = "crm:default"
PROCESSES = 4
THREADS = 3


class Caller:
    """A provider that sends a delivery's id and waits for one byte."""

    def __init__(self, port):
        self._port = port
        self._wires = threading.local()

    def send(self, order):
        if not hasattr(self._wires, "wire"):
            self._wires.wire = create_connection(("127.0.0.1", self._port))
            self._wires.wire.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._wires.wire.sendall(order.delivery_id.bytes)
        self._wires.wire.recv(1)
        return Receipt("LEAD-1")


class Nobody:
    def tell(self, settlement, *, method, endpoint):
        pass


def limiter(redis_url, database, windows):
    excess = Excess(signals=("429",), strategy="slow down", retry_after_cap=timedelta(minutes=1))
    spans = tuple(Window(calls=calls, every=timedelta(seconds=seconds)) for calls, seconds in windows)
    rules = LimitRules(
        limits={"crm": Limits(other=spans, on_excess=excess)},
        lease=lambda _: timedelta(seconds=30),
        recipient_key=lambda _: "somebody",
        asked=lambda _: None,
        called=lambda account, span, most: calls_lately(database, account, span=span, most=most),
        processes=PROCESSES,
    )
    client = Redis.from_url(redis_url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))
    return SharedLimiter(client, rules)


def work(ledger, engine):
    while True:
        ids = due(ledger, most=1, stale=timedelta())
        engine.deliver(ids)
        if not ids:
            time.sleep(0.01)


def run(database_url, redis_url, port, windows):
    """Deliver what is due until the process is killed; `windows` are pairs of calls and seconds."""
    database = connect(database_url, pool_size=THREADS + 1)
    ledger = PostgresLedger(database, Vault(database, MasterKeys([bytes(32)])))
    pacer = limiter(redis_url, database, windows)
    engine = Engine(ledger, {ACCOUNT: Caller(port)}, load_specs(), Nobody(), "w1", pacer=pacer)
    for _ in range(THREADS):
        threading.Thread(target=work, args=(ledger, engine)).start()
