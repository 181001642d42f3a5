"""The whole system with real processes: embedded Postgres and Valkey, stand-ins, a worker, beat and the web page.

One system for each module, in a data folder of its own, and nothing of the developer's environment in it. Tests wait on
conditions and never for a fixed time; the patience is long because the machine may be slow.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import redis
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from config.neutral import set_variables
from config.settings import load_settings
from ingress.system import Plan, System
from ledger.database import transaction
from ledger.entries import hashed_key
from sandbox.children import Child
from sandbox.forms import write_forms
from sandbox.standins import controls
from tasks.app import Entrega
from worker.breaker import BreakerGate

PATIENCE_S = 240
# A lost e-mail is sent again by default, which may make a second copy; where copies are counted, a person decides.
HOLD = {"on_uncertain": "hold"}
# Long enough that a slow machine does not miss it by itself; a module whose calls are meant to may set `DEADLINE_S`.
CALL_DEADLINE_S = 10


def wait_until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Return the condition's value once it is true; fail with `what` when it never is."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"after {patience_s} s still not so: {what}")
        time.sleep(0.05)
    return found


@dataclass
class Running:
    """A running system, and everything a test does to it."""

    system: System
    app: Entrega
    control: Mapping[str, Any]
    redis: redis.Redis
    foreign: Celery
    dead_workers: list[str] = field(default_factory=list)

    wait = staticmethod(wait_until)

    def submit(self, kind: str, **body: Any) -> UUID:
        """Hand over one command as a producer does and return its delivery id."""
        return UUID(self.app.intake.submit(kind, body, producer="e2e").id)

    def lead(self, name: str = "ana", **body: Any) -> UUID:
        """Hand over one lead; each name is a person of her own."""
        return self.submit("create_lead", **lead_of(name), **body)

    def message(self, n: int) -> UUID:
        """Hand over one WhatsApp message."""
        return self.submit("send_whatsapp", to=f"+55119{99000000 + n:08d}", text=f"Mensagem de teste {n}")

    def letter(self, n: int) -> UUID:
        """Hand over one e-mail."""
        return self.submit(
            "send_email", to=f"carta{n}.teste@exemplo.com.br", subject=f"Teste {n}", text="Olá!", options=HOLD
        )

    def send_foreign(self, name: str, **options: Any) -> str:
        """Publish as a plain Celery client does, which knows the broker only; return the task id."""
        with self.foreign.connection_for_write() as connection:
            return str(self.foreign.send_task(name, connection=connection, **options).id)

    def breakers(self) -> list[Any]:
        """Return every breaker as an operator sees it."""
        return BreakerGate(self.app.specs, self.redis).statuses(self.app.accounts)

    def find(self, id_: UUID) -> Any:
        """Return a delivery with its timeline."""
        return self.app.archive.find(id_)

    def opened_by(self, task_id: str) -> UUID | None:
        """Return the delivery that a foreign message opened."""
        key = hashed_key(self.app.ledger.vault, "origin", task_id)
        rows = self.sql("SELECT delivery_id FROM idempotency WHERE key = :key", key=key)
        return rows[0][0] if rows else None

    def states(self, ids: Iterable[UUID]) -> Counter[str]:
        """Return how many of the deliveries are in each state."""
        rows = self.sql("SELECT state, count(*) FROM deliveries WHERE id = ANY(:ids) GROUP BY state", ids=list(ids))
        return Counter(dict(map(tuple, rows)))

    def until(self, ids: UUID | Sequence[UUID], *states: str, patience_s: float = PATIENCE_S) -> Any:
        """Wait, looking after the parts as `entrega up` does, until each delivery is in one of the states.

        Returns:
            The delivery, where one id was given.
        """
        wanted = [ids] if isinstance(ids, UUID) else list(ids)
        deadline = time.monotonic() + patience_s
        while sum((found := self.states(wanted))[each] for each in states) < len(set(wanted)):
            if time.monotonic() > deadline:
                pytest.fail(f"after {patience_s} s {dict(found)} of {len(set(wanted))}, not all {states}{self.tail()}")
            self.system.watch()
            if self.dead_workers:
                self.end_dead_leases()  # again: a claim may have been committed just after its worker was killed
            time.sleep(0.1)
        return self.find(ids) if isinstance(ids, UUID) else None

    def until_alone(self, id_: UUID, state: str, patience_s: float = PATIENCE_S) -> None:
        """Wait for a delivery while what was killed stays dead."""
        wait_until(lambda: self.states([id_])[state], f"delivery {id_} {state}{self.tail()}", patience_s)

    def some(self, ids: Sequence[UUID], state: str, at_least: int) -> None:
        """Wait until so many of the deliveries are in a state; nothing is started again meanwhile."""

        def enough() -> bool:
            if self.dead_workers:
                self.end_dead_leases()
            return self.states(ids)[state] >= at_least

        wait_until(enough, f"{at_least} of {len(ids)} deliveries {state}")

    @contextmanager
    def stood_still(self) -> Iterator[None]:
        """Stop the worker for the while of a block, so that what is done in it cannot overlap with its work."""
        worker = psutil.Process(self.system.parts["worker1"].pid)
        worker.suspend()
        try:
            yield
        finally:
            worker.resume()

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Look into the ledger, or shift time in it."""
        with transaction(self.app.database) as connection:
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    @contextmanager
    def holding_up(self, table: str) -> Iterator[None]:
        """Lock a table: every other process that needs it waits (five seconds at most, then tries again)."""
        with transaction(self.app.database) as connection:
            connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            yield

    def accepted(self) -> int:
        """Return how many commands were ever accepted."""
        return int(self.sql("SELECT count(*) FROM audit WHERE action = 'accepted'")[0][0])

    def requests(self, route: str = "POST /api/v1/leads", provider: str = "crm") -> Counter[str]:
        """Return how many requests a stand-in answered on a route, by status."""
        return Counter(self.control[provider].counters().get(route, {}))

    def effects(self, *providers: str) -> Counter[str]:
        """Return how often each delivery really took effect."""
        return sum((self.control[each].effects_per_key() for each in providers), Counter())

    def metrics_page(self) -> str:
        """Return the metrics page, however often a test looks: callers without a key are slowed down."""
        return str(wait_until(self._metrics_page, "the metrics page"))

    def _metrics_page(self) -> str | None:
        try:
            with urllib.request.urlopen(f"{self.system.url}/metrics", timeout=PATIENCE_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as err:
            if err.code != 429:
                raise
            return None

    def metric(self, name: str, **labels: str) -> float:
        """Return a sample of the metrics page; 0 where it is not there yet."""
        samples = [each for family in text_string_to_metric_families(self.metrics_page()) for each in family.samples]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

    def kill(self, name: str) -> None:
        """End a part with SIGKILL, as a crash would."""
        part: Any = self.system.parts[name]
        if isinstance(part, Child):
            self.dead_workers += [each for each in self._worker_names() if each.endswith(f":{part.pid}")]
        part.kill()

    def revive(self, name: str) -> None:
        """Start a killed part again."""
        part = self.system.parts[name]
        part.stop()
        part.start()

    def end_dead_leases(self) -> None:
        """Let the time pass that the leases of killed workers still have, and of nobody else."""
        self.sql(
            "UPDATE deliveries d SET lease_until = now() - interval '1 second' FROM attempts a"
            " WHERE d.state = 'attempting' AND a.delivery_id = d.id AND a.fence = d.fence AND a.worker = ANY(:dead)",
            dead=self.dead_workers,
        )

        self.sql(
            "UPDATE quarantine q SET until = now() - interval '1 second' FROM attempts a JOIN deliveries d"
            " ON d.id = a.delivery_id AND d.fence = a.fence WHERE q.delivery_id = d.id AND a.worker = ANY(:dead)",
            dead=self.dead_workers,
        )

    def tick(self, name: str) -> None:
        """Let a tick of the timetable come now; a worker carries it out."""
        self.sql("DELETE FROM ticks WHERE name = :name", name=name)
        self.app.send_task(name)

    def entrega(self, *words: object, typed: str | None = None) -> Any:
        """Run a command of the command line with --json; return what it printed, or its exit code where it refused."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("entrega")), *map(str, words), "--json"],
            env=os.environ | {"ENTREGA_DATA": str(self.system.data)},
            input=typed, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode or json.loads(done.stdout)

    def audit(self, id_: UUID) -> list[tuple[str, str, str | None]]:
        """Return a delivery's audit trail: who, what, why."""
        rows = self.sql("SELECT actor, action, reason FROM audit WHERE delivery_id = :id ORDER BY id", id=id_)
        return [tuple(row) for row in rows]

    def works(self) -> None:
        """Deliver one more lead: the proof that everything is at work."""
        self.until(self.lead(f"prova{time.monotonic_ns()}"), "succeeded")

    def log(self, name: str) -> str:
        """Return what a part has written."""
        return (self.system.data / "logs" / f"{name}.log").read_text()

    def tail(self) -> str:
        """Return the end of the worker's log, for a failure's message."""
        return "\n".join(["", *self.log("worker1").splitlines()[-15:]])

    def _worker_names(self) -> list[str]:
        return [row[0] for row in self.sql("SELECT DISTINCT worker FROM attempts")]


def lead_of(name: str) -> dict[str, str]:
    """Return the body of an invented person's lead."""
    return {"nome": f"{name.title()} Teste", "email": f"{name}.teste@exemplo.com.br", "interesse": "produto_a"}


@pytest.fixture(scope="module", autouse=True)
def neutral_environment(tmp_path_factory):
    """A developer's CRM_* or DATABASE_URL, and a `.env` where the tests are started, must not leak in."""
    with pytest.MonkeyPatch.context() as patch:
        for name in set_variables():
            patch.delenv(name)
        patch.chdir(tmp_path_factory.mktemp("nowhere"))
        yield


@pytest.fixture(scope="module")
def data_folder():
    with temporary_data() as data:
        yield data


@pytest.fixture(scope="module")
def module_system(neutral_environment, data_folder, request):
    """The module's system.

    The module may say `FLOWER = True`, `COMMANDS = True`, `WORKERS = 4`, `DEADLINE_S`, `BREAKER`, `ROLLOUT`, `LIMITS`.
    """
    asked = vars(request.module)
    settings = load_settings({"entrega_env": "sandbox", "entrega_data": data_folder, "entrega_port": 0})
    plan = Plan(
        settings,
        sandbox=True,
        flower=asked.get("FLOWER", False),
        workers=asked.get("WORKERS", 1),
        commands=asked.get("COMMANDS", False),
    )
    system = System(plan, lambda _: None)
    deadline_s = asked.get("DEADLINE_S", CALL_DEADLINE_S)
    system.variables |= {"ENTREGA_ENV": "sandbox", "CRM_TIMEOUT": str(deadline_s)}
    write_forms(data_folder / "forms", asked.get("LIMITS"), asked.get("BREAKER"), asked.get("ROLLOUT"))
    system.variables["ENTREGA_INTEGRATIONS"] = str(data_folder / "forms")
    try:
        system.start()
        with _running(system) as running:
            yield running
    finally:
        system.stop()


@pytest.fixture
def running(module_system):
    """The system, whole and with stand-ins that behave."""
    for name, part in module_system.system.parts.items():
        if not part.running:
            module_system.revive(name)
    for each in module_system.control.values():
        each.clear_faults()
    module_system.control["crm"].configure({"rate_limit": None, "latency_s": 0})
    module_system.control["graph"].configure({"latency_s": 0})
    return module_system


@pytest.fixture
def folder():
    """A data folder for one test."""
    with temporary_data() as data:
        yield data


@pytest.fixture
def wait():
    """Wait until a condition is true: `wait(condition, what)`."""
    return wait_until


@contextmanager
def temporary_data() -> Iterator[Path]:
    """Make a data folder that Postgres's own account can pass through where the tests are run by root."""
    data = Path(tempfile.mkdtemp(prefix="entrega-e2e-"))
    data.chmod(0o711)
    try:
        yield data
    finally:
        shutil.rmtree(data, ignore_errors=True)


@contextmanager
def _running(system: System) -> Iterator[Running]:
    app = _producer(system)
    valkey = system.parts["valkey"]
    client = redis.Redis.from_url(valkey.url)
    foreign = Celery("stranger", broker=valkey.url_of("foreign"), set_as_current=False)
    try:
        yield Running(system, app, controls(system.standins_or_fail), client, foreign)
        if "valkey" in system.parts and system.parts["valkey"].running:
            assert client.acl_log() == []  # no part of ours asked for more than its broker user may do
    finally:
        client.close()
        foreign.close()
        app.pool.force_close_all()
        app.close()
        app.database.dispose()


def _producer(system: System) -> Entrega:
    app = Entrega("producer")
    app.settings = load_settings({name.lower(): value for name, value in system.variables.items()})
    return app


@dataclass
class Program:
    """A program of ours in a process of its own, as a person starts it in a terminal."""

    process: subprocess.Popen[str]
    output: Path

    @property
    def text(self) -> str:
        """What it has printed so far, both streams."""
        return self.output.read_text()

    def says(self, words: str) -> None:
        """Wait until it has printed the words."""
        wait_until(lambda: words in self.text or self.process.poll() is not None, f"{words!r} in:\n{self.text}")
        assert words in self.text, f"it ended with {self.process.poll()} and printed:\n{self.text}"

    def family(self) -> list[psutil.Process]:
        """Return the process and everything below it."""
        leader = psutil.Process(self.process.pid)
        return [leader, *leader.children(recursive=True)]

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)

    def end(self) -> int:
        """Send SIGTERM, as a process supervisor does, and return the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@contextmanager
def program(output: Path, *arguments: str, **variables: str) -> Iterator[Program]:
    """Start `entrega` or `celery` of this environment; it is ended, with all below it, when the block ends."""
    name, *rest = arguments
    with output.open("w") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name(name)), *rest],
            env={**os.environ, **variables},
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
    started = Program(process, output)
    try:
        yield started
    finally:
        if process.poll() is None:
            family = started.family()
            process.terminate()
            psutil.wait_procs(family, timeout=20)
            for each in family:
                if each.is_running():
                    each.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a program: `start("celery", "-A", "worker", "beat", DATABASE_URL=...)`."""
    folder = tmp_path_factory.mktemp("programs")

    def _start(*arguments: str, **variables: str) -> Any:
        return program(folder / f"{time.monotonic_ns()}.log", *arguments, **variables)

    return _start
