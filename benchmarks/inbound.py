"""How many status events this machine takes in: the real HTTP route in its own process, real Postgres, one absorber.

Every event is sent three times, all of them shuffled, in signed webhooks of up to 1,000; the absorber works meanwhile.
Then each delivery must stand at its furthest step, each event be stored once, and no progress ever have gone back.
Compare figures of one run with each other only: other work on the machine moves them all.
"""

import json
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psutil
from rich.console import Console
from sqlalchemy import Engine, text

from config.running import child_environment
from delivery.commands import SendWhatsApp
from delivery.ids import new_id
from delivery.ports import NewDelivery
from ledger.database import connect
from ledger.inbound import Inbound
from ledger.schema import migrate
from ledger.sealing import MasterKeys
from ledger.store import PostgresLedger
from ledger.vault import Vault
from sandbox import graph_webhooks as meta
from sandbox.doors import free_port
from sandbox.postgres import temporary_postgres

EVENTS, TIMES, MOST, SENDERS = 100_000, 3, 1000, 4
_STEPS = ("sent", "delivered", "read")
_SECRET = "bench-secret"  # noqa: S105 - invented
_KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
_RESULTS = Path(__file__).parent / "results"
# Whatever moves a delivery, here is written down when its progress went back.
_WATCH = """
    CREATE TABLE backwards (id uuid);
    CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF array_position(ARRAY['sent', 'delivered', 'read'], new.progress)
         < array_position(ARRAY['sent', 'delivered', 'read'], old.progress)
      THEN INSERT INTO backwards VALUES (new.id); END IF;
      RETURN new;
    END $$;
    CREATE TRIGGER watch BEFORE UPDATE ON deliveries FOR EACH ROW EXECUTE FUNCTION watch();
"""


@dataclass(frozen=True)
class Figures:
    """One run.

    Attributes:
        answered_per_s: Events in webhooks answered with 200, repeats included.
        worked_per_s: Different events, from the first webhook until the last one was worked on.
        web_cpu_us: CPU time of the web process for each event that came in.
        slowest_ms: The longest a webhook waited for its answer.
        lost: Deliveries that do not stand at their furthest step, and events that are not stored.
        double: Events stored twice and deliveries settled twice.
        backwards: Updates after which progress was less than before.
    """

    events: int
    sent: int
    webhooks: int
    answered_per_s: float
    worked_per_s: float
    web_cpu_us: float
    slowest_ms: float
    lost: int
    double: int
    backwards: int


def main() -> int:
    """Measure, print, keep the result; return 0 when nothing was lost, doubled or went back."""
    with tempfile.TemporaryDirectory(prefix="entrega-bench-") as folder, temporary_postgres() as postgres:
        figures = _measure(postgres.url, Path(folder))
    Console().print(figures)
    _RESULTS.mkdir(exist_ok=True)
    machine = {"cores": psutil.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    kept = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "run": asdict(figures)}
    (_RESULTS / "inbound.json").write_text(json.dumps(kept, indent=2) + "\n")
    return 1 if figures.lost or figures.double or figures.backwards else 0


def _measure(url: str, folder: Path) -> Figures:
    engine = connect(url, name="bench")
    migrate(engine)
    ledger = PostgresLedger(engine, Vault(engine, MasterKeys([bytes(32)])))
    ids = _open(ledger, -(-EVENTS // len(_STEPS)))
    told = [(id_, step) for id_ in ids for step in _STEPS][:EVENTS]
    webhooks = _webhooks(told)
    with engine.begin() as connection:
        connection.execute(text(_WATCH))
    port = free_port()
    variables = {
        "DATABASE_URL": url,
        "REDIS_URL": "redis://127.0.0.1:1/0",  # no worker: the events are worked on here
        "ENTREGA_DATA": str(folder),
        "ENTREGA_ENV": "sandbox",
        "ENTREGA_PORT": str(port),
        "ENTREGA_LOG": "json",
        "ENTREGA_MASTER_KEYS": _KEY,
        "WHATSAPP_APP_SECRET": _SECRET,
    }
    with (folder / "web.log").open("wb") as log:
        web = subprocess.Popen(
            [sys.executable, "-m", "ingress.web"], env=child_environment(variables), stdout=log, stderr=log
        )
    try:
        _await(f"http://127.0.0.1:{port}/health/live")
        return _run(ledger, told, webhooks, psutil.Process(web.pid), port)
    finally:
        web.terminate()
        web.wait()
        engine.dispose()


def _run(
    ledger: PostgresLedger,
    told: Sequence[tuple[UUID, str]],
    webhooks: Sequence[tuple[bytes, str]],
    web: psutil.Process,
    port: int,
) -> Figures:
    over = threading.Event()
    absorber = threading.Thread(target=_absorb, args=(Inbound(ledger), over))
    before, began = web.cpu_times(), time.monotonic()
    absorber.start()
    with ThreadPoolExecutor(SENDERS) as pool:
        waits = list(pool.map(lambda each: _post(port, *each), webhooks))
    answered = time.monotonic() - began
    after = web.cpu_times()
    over.set()
    absorber.join()
    worked = time.monotonic() - began
    cpu_s = after.user + after.system - before.user - before.system
    lost, double, backwards = _check(ledger.engine, told)
    return Figures(
        events=len(told),
        sent=len(told) * TIMES,
        webhooks=len(webhooks),
        answered_per_s=round(len(told) * TIMES / answered),
        worked_per_s=round(len(told) / worked),
        web_cpu_us=round(cpu_s / (len(told) * TIMES) * 1e6, 1),
        slowest_ms=round(max(waits) * 1000),
        lost=lost,
        double=double,
        backwards=backwards,
    )


def _open(ledger: PostgresLedger, count: int) -> list[UUID]:
    ids = []
    for start in range(0, count, 1000):
        new = [_new(n) for n in range(start, min(start + 1000, count))]
        ids += [each.id for each in ledger.open(new)]
    return ids


def _new(n: int) -> NewDelivery:
    day = timedelta(days=1)
    command = SendWhatsApp(to=f"+55119{n:08d}".replace("+551190", "+551199"), text="Teste")
    return NewDelivery(
        id=new_id(), command=command, account="whatsapp:default", producer="bench", recipient="+55119****", key=None,
        origin=None, key_kept=day, same_within=day, expires_in=day, hold_uncertain=True,
    )  # fmt: skip


def _webhooks(told: Sequence[tuple[UUID, str]]) -> list[tuple[bytes, str]]:
    rng = random.Random(11)  # noqa: S311 - the same shuffle in every run
    every = [each for each in told for _ in range(TIMES)]
    rng.shuffle(every)
    webhooks, start = [], 0
    while start < len(every):
        size = rng.randint(MOST // 2, MOST)
        changes = [_change(id_, step) for id_, step in every[start : start + size]]
        body = meta.wire_bytes(meta.envelope(changes))
        webhooks.append((body, meta.proof(body, _SECRET)))
        start += size
    return webhooks


def _change(id_: UUID, step: str) -> dict[str, object]:
    message = {"to": "+5511999990001", "phone_number_id": "1", "biz_opaque_callback_data": str(id_)}
    return meta.status_change(message, f"wamid.{id_}", step)


def _post(port: int, body: bytes, proof: str) -> float:
    """Send one webhook until it is answered with 200, as Meta does; return the seconds of the last try."""
    while True:
        began = time.monotonic()
        url = f"http://127.0.0.1:{port}/webhooks/whatsapp/default"
        request = urllib.request.Request(url, body, {"X-Hub-Signature-256": proof})
        with suppress(OSError), urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
            if answer.status == 200:  # noqa: PLR2004 - HTTP
                return time.monotonic() - began


def _absorb(inbound: Inbound, over: threading.Event) -> None:
    while True:
        ended = over.is_set()  # asked first: what was stored before the end is still worked on
        if inbound.absorb(most=1000).worked == 0:
            if ended:
                return
            over.wait(0.05)


def _check(engine: Engine, told: Sequence[tuple[UUID, str]]) -> tuple[int, int, int]:
    expected = dict(told)  # steps are in order: the last one is the furthest
    with engine.begin() as connection:
        found = {row.id: row.progress for row in connection.execute(text("SELECT id, progress FROM deliveries"))}
        stored, different, worked = connection.execute(
            text("SELECT count(*), count(DISTINCT (delivery_id, status)), count(worked_at) FROM inbound_events")
        ).one()
        settled = connection.scalar(text("SELECT count(*) FROM audit WHERE actor = 'provider'"))
        backwards = connection.scalar(text("SELECT count(*) FROM backwards"))
    behind = sum(found.get(id_) != step for id_, step in expected.items())
    lost = behind + (len(told) - different) + (stored - worked)
    return lost, stored - different + int(settled or 0) - len(expected), int(backwards or 0)


def _await(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310 - loopback
            return
        time.sleep(0.1)
    raise SystemExit("the web process did not start within a minute")


if __name__ == "__main__":
    sys.exit(main())
