"""The control: the worker most people write, under a like schedule of faults. It must lose or double something.

Late acknowledgment, automatic retries with backoff, Redis as the broker, no ledger and no key; and a visibility
time-out of seconds, so that it gets every chance to take up again what a killed worker left behind.
"""

import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import requests
from celery import Celery

from sandbox.children import Child, Command
from sandbox.crm import CrmApi
from sandbox.faults import Fault
from sandbox.http_standin import HttpStandin
from sandbox.valkey import ValkeyServer

_QUIET_S = 12.0
_PATIENCE_S = 60.0

app = Celery("naive", broker=os.environ.get("NAIVE_BROKER", "memory://"), set_as_current=False)
app.conf.update(
    task_acks_late=True, task_reject_on_worker_lost=True, task_ignore_result=True, worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True, broker_transport_options={"visibility_timeout": 6},
)  # fmt: skip


@app.task(name="naive_lead", autoretry_for=(Exception,), retry_backoff=1, retry_backoff_max=4, max_retries=5)
def naive_lead(email: str) -> None:
    """Create one lead."""
    answer = requests.post(
        os.environ["NAIVE_CRM"] + "/api/v1/leads",
        json={"nome": "Zefirina Canarinho", "email": email, "interesse": "produto_a"},
        headers={"X-API-Key": "sandbox-crm-key"}, timeout=2,
    )  # fmt: skip
    answer.raise_for_status()


class _CountingCrm(CrmApi):
    """The CRM's stand-in, telling leads apart by their e-mail: these come without an id of ours."""

    def made(self) -> Counter[str]:
        with self._lock:
            return Counter(str(lead.fields["email"]) for lead in self._leads)


@dataclass(frozen=True)
class Control:
    """What became of the naive worker's tasks."""

    tasks: int
    lost: int
    doubled: int

    @property
    def sees(self) -> bool:
        """True when loss or duplicates were seen, which proves that the suite can see them."""
        return self.lost + self.doubled > 0


def run_control(data: Path, seed: int, *, tasks: int) -> Control:
    """Send tasks while the broker is wiped, workers are killed and answers are lost; count what happened."""
    crm = HttpStandin(api := _CountingCrm())
    crm.start()
    server = ValkeyServer(data)
    try:
        worker = _start_worker(data, server.start(), crm.url)
        try:
            _hurt(worker, server, crm, [f"z{n}@exemplo.com.br" for n in range(tasks)], random.Random(seed))
            _settle(api)
        finally:
            worker.stop()
    finally:
        server.stop()
        crm.stop()
    made = api.made()
    return Control(tasks, lost=tasks - len(made), doubled=sum(n > 1 for n in made.values()))


def _start_worker(data: Path, broker: str, crm_url: str) -> Child:
    arguments = ("-m", "celery", "-A", "tests.faults.naive", "worker", "--concurrency=4", "--loglevel=WARNING")
    environment = {**os.environ, "NAIVE_BROKER": broker, "NAIVE_CRM": crm_url}
    command = Command(
        "naive", (sys.executable, *arguments), log=data / "naive.log", env=environment, cwd=Path(__file__).parents[2]
    )
    worker = Child(data, command)
    worker.start()
    return worker


def _hurt(worker: Child, server: ValkeyServer, crm: HttpStandin, emails: list[str], rng: random.Random) -> None:
    crm.configure({"latency_s": 0.1})
    crm.plan(Fault(close="after", times=8))
    with Celery("sender", broker=server.url, set_as_current=False) as sender:
        step = max(1, len(emails) // 4)
        for start in range(0, len(emails), step):
            for email in emails[start : start + step]:
                sender.send_task("naive_lead", args=[email])
            time.sleep(0.5 + rng.random() / 2)
            worker.kill()
            if start // step == 1:
                _wipe(server)
            worker.start()
            time.sleep(2)
            crm.plan(Fault(close="after", times=4))


def _wipe(server: ValkeyServer) -> None:
    import redis

    with redis.Redis.from_url(server.url) as client:
        client.flushall()


def _settle(api: _CountingCrm) -> None:
    """Wait until nothing has happened for a while."""
    deadline = time.monotonic() + _PATIENCE_S
    seen, since = -1, time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < _QUIET_S:
        now = sum(api.made().values())
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.2)
