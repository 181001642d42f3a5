"""The ground a run takes place on: the whole system with its own forms, fault proxies, and a clock for delayed work."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import psutil
import redis
import yaml
from celery import Celery
from sqlalchemy import text

import config.integrations
from config.settings import load_settings
from ingress.system import Plan as SystemPlan
from ingress.system import System
from ledger.database import Engine, connect, transaction
from sandbox.children import Child, Command
from sandbox.doors import free_port
from sandbox.proxy import Proxy
from sandbox.standins import StandinControl, controls
from tasks.app import Entrega
from worker.failpoints import FOLDER, Failpoints, Point, brittle_ledger

WORKERS = ("worker1", "worker2")
BEHIND_PROXIES = WORKERS[0]  # it reaches Postgres and Redis through proxies, the other one straight
# Calls that were let go and have not arrived yet. Each asks right before it begins, so they are far fewer than the
# threads; the most that was seen is 24.
IN_FLIGHT = 32
CRM_TIMEOUT_S = 2
LEASE_S = CRM_TIMEOUT_S + 15
_PARKING = [2, 3, 5, 8, 10]
# Such that they bind while a backlog is worked off, and not so that a run takes longer.
LIMITS: Mapping[str, list[dict[str, int]]] = {
    "crm": [{"calls": 400, "every_s": 5}],
    "whatsapp": [{"calls": 60, "every_s": 1}],
    "email": [{"calls": 300, "every_s": 5}],
}
STANDINS = {"crm": "crm", "whatsapp": "graph", "email": "smtp"}
# What the forms say beyond this stays: error table, look-ups, what is idempotent and what is held.
_SHORT_CALLS = {
    "crm": {},
    "whatsapp": {"connect_s": 1, "read_s": 2, "total_s": 2},
    "email": {"connect_s": 1, "read_s": 3, "final_reply_s": 3, "total_s": 5},
}
EVIDENCE_S = 20
# Status events come by the real door: each twice, in any order, some before the answer to the send, many in one body.
UNRULY = {"step_s": 0.3, "repeat": 2, "shuffle": True, "every_s": 0.5}


def write_forms(folder: Path) -> None:
    """Write the shipped forms with limits and waits that fit a run of minutes."""
    folder.mkdir(exist_ok=True)
    for form in Path(config.integrations.__file__).parent.glob("*.yaml"):
        spec: dict[str, Any] = yaml.safe_load(form.read_text(encoding="utf-8"))
        if spec["name"] not in LIMITS:  # callbacks: a run asks for none
            shutil.copy(form, folder / form.name)
            continue
        spec["limits"] = {"other": LIMITS[spec["name"]], "on_excess": spec["limits"]["on_excess"]}
        spec["fallback"]["parking_s"] = _PARKING
        spec["breaker"] |= {"open_s": 3}
        for operation in spec["operations"].values():
            operation["timeouts"] |= _SHORT_CALLS[spec["name"]]
            if operation["look_up"]["by"] == "webhook":
                operation["look_up"]["wait_s"] = EVIDENCE_S
        (folder / form.name).write_text(yaml.safe_dump(spec, allow_unicode=True, sort_keys=False), encoding="utf-8")


class HurtSystem(System):
    """The system with a fault proxy in front of every provider, and in front of one worker's servers.

    Attributes:
        proxies: "crm", "whatsapp" and "email" for both workers, "postgres" and "redis" for `BEHIND_PROXIES`.
    """

    def __init__(self, plan: SystemPlan, say: Callable[[str], None]) -> None:
        super().__init__(plan, say)
        self.proxies: dict[str, Proxy] = {}

    def start_flower(self) -> None:
        """Start Flower when the run is well under way: it keeps what it hears in memory. Once."""
        if "flower" in self.parts:
            return
        self.variables["FLOWER_PORT"] = str(free_port())
        self._celery("flower", "flower", without=("PROMETHEUS_MULTIPROC_DIR",))

    def _start_processes(self) -> None:
        standins = self.standins_or_fail
        ports = {
            "crm": urlsplit(standins.crm_url).port,
            "whatsapp": urlsplit(standins.graph_url).port,
            "email": standins.smtp_port,
            "postgres": urlsplit(self.variables["DATABASE_URL"]).port,
            "redis": urlsplit(self.variables["REDIS_URL"]).port,
        }
        self.proxies = {name: Proxy(port or 0).start() for name, port in ports.items()}
        crm = self.proxies["crm"].url
        self.variables |= {
            "CRM_API_URL": crm, "CRM_TOKEN_URL": f"{crm}/oauth/token", "ENTREGA_REMOTE_CONTROL": "true",
            "WHATSAPP_API_URL": self.proxies["whatsapp"].url, "SMTP_PORT": str(self.proxies["email"].port),
        }  # fmt: skip
        super()._start_processes()

    def _python(self, name: str, *arguments: str, without: tuple[str, ...] = ()) -> None:
        shared = self.variables
        fitted = {"ENTREGA_FAILPOINTS": "true"} if name in WORKERS else {}
        moved = self.behind_proxies() if name == BEHIND_PROXIES else {}
        self.variables = {**shared, **fitted, **moved}
        try:
            super()._python(name, *arguments, without=without)
        finally:
            self.variables = shared

    def behind_proxies(self) -> dict[str, str]:
        """Return the addresses of the servers as they are reached through the proxies."""
        return {
            variable: _at_port(self.variables[variable], self.proxies[name].port)
            for variable, name in (("DATABASE_URL", "postgres"), ("REDIS_URL", "redis"))
        }


def _at_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}"))


@dataclass
class Ground:
    """A running system, and what faults need to reach it. Faults are done from the main thread.

    Attributes:
        app: The producers' application; it reaches Postgres through the proxy.
        books: Straight to Postgres, for looking.
        failpoints: Those of the workers.
        own_failpoints: Those of the producers here, which can only fail: an exit would end the run.
        dead: Ends of the names of the workers that were killed, as they stand in the attempt rows.
        armed: Notes of the failpoints that were armed.
        held: Why an account was held by a wrong certificate.
        impostor_mails: Messages that a server with a wrong certificate got to see; must stay 0.
    """

    system: HurtSystem
    app: Entrega
    books: Engine
    control: Mapping[str, StandinControl]
    redis: redis.Redis
    foreign: Celery
    failpoints: Failpoints
    own_failpoints: Failpoints
    dead: list[str] = field(default_factory=list)
    armed: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    impostor_mails: int = 0
    foreign_sent: int = 0
    _later: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    @property
    def is_hurt(self) -> bool:
        """True while a fault goes on or a part is down."""
        return bool(self._later) or not all(each.running for each in self.system.parts.values())

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something after a while, from the main thread."""
        self._later.append((time.monotonic() + seconds, action))

    def tick(self) -> None:
        """Do what has come due and start again what has died."""
        due = [each for each in self._later if each[0] <= time.monotonic()]
        self._later = [each for each in self._later if each not in due]
        for _, action in due:
            action()
        self.system.watch()

    def lift(self) -> None:
        """End every fault that still goes on."""
        while self._later:
            self._later.pop(0)[1]()
        for proxy in self.system.proxies.values():
            proxy.heal()
        for each in self.control.values():
            each.clear_faults()
        for name in ("crm", "graph"):
            self.control[name].configure({"latency_s": 0, "rate_limit": None})

    def runs(self, name: str) -> bool:
        """Tell whether a part is alive."""
        return self.system.parts[name].running

    def child(self, name: str) -> Child:
        """Return a part that is a child process of ours."""
        part = self.system.parts[name]
        if not isinstance(part, Child):
            raise TypeError(f"{name} is not a child process of this run")
        return part

    def arm(self, points: Failpoints, point: Point, action: Literal["exit", "fail"]) -> None:
        """Arm a failpoint and remember it."""
        self.armed.append(f"{action}-{len(self.armed)}")
        points.arm(point, action, self.armed[-1])

    def struck_at_points(self) -> dict[str, tuple[str, datetime]]:
        """Return whom failpoints struck (the end of a worker's name) and when, by the note of the arming."""
        folders = (self.failpoints.folder, self.own_failpoints.folder)
        taken = [each for folder in folders for each in folder.glob("*.*.*")]
        return {
            each.name.split(".")[2]: (f":{each.name.split('.')[1]}", datetime.fromtimestamp(each.stat().st_ctime, UTC))
            for each in taken
        }

    def process(self, name: str) -> psutil.Process:
        """Return the process of a part."""
        part: Any = self.system.parts[name]
        return psutil.Process(part.pid)

    def kill(self, name: str) -> None:
        """End a part and all below it with SIGKILL."""
        part: Any = self.system.parts[name]
        if name in WORKERS:
            self.dead.append(f":{part.pid}")
        part.kill()

    def revive(self, name: str) -> None:
        """Start a part again."""
        part = self.system.parts[name]
        part.stop()
        part.start()

    def add_part(self, name: str, *arguments: str) -> Child:
        """Start one more process of ours, looked after like the others."""
        log = self.system.data / "logs" / f"{name}.log"
        environment = self.child_environment()
        child = Child(self.system.data, Command(name, arguments, log=log, env=environment))
        child.start()
        self.system.parts[name] = child
        return child

    def child_environment(self) -> Mapping[str, str]:
        """Return the environment of the parts that reach everything straight."""
        return self.child("beat").command.env or {}

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Look into the ledger."""
        with transaction(self.books) as connection:
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []


@contextmanager
def ground(data: Path) -> Iterator[Ground]:
    """Start a system in a new folder, and end all of it when the block ends."""
    data.chmod(0o711)  # Postgres's own account passes through where we are root
    write_forms(data / "forms")
    own = load_settings({"entrega_env": "sandbox", "entrega_data": data, "entrega_port": 0})
    settings = own.model_copy(update={"database_url": None, "redis_url": None})
    system = HurtSystem(SystemPlan(settings, sandbox=True, workers=len(WORKERS)), lambda _: None)
    system.variables |= {
        "ENTREGA_ENV": "sandbox",
        "ENTREGA_LOG": "json",
        "ENTREGA_INTEGRATIONS": str(data / "forms"),
        "CRM_TIMEOUT": str(CRM_TIMEOUT_S),
    }
    try:
        system.start()
        found = _surveyed(system)
        found.control["graph"].configure({"webhooks": UNRULY})
        try:
            yield found
        finally:
            with suppress(Exception):  # a system that is being torn down may be half dead already
                found.lift()
            found.app.pool.force_close_all()
            found.app.close()
            found.app.database.dispose()
            found.books.dispose()
    finally:
        system.stop()
        for proxy in system.proxies.values():
            proxy.stop()
        shutil.rmtree(data / "forms", ignore_errors=True)


def _stranger(broker: str) -> Celery:
    client = Celery("stranger", broker=broker, set_as_current=False)
    # The thread that sends is the one that thaws a frozen Redis.
    client.conf.broker_transport_options = {"socket_timeout": 1, "socket_connect_timeout": 1}
    client.conf.task_publish_retry = False
    return client


def _surveyed(system: HurtSystem) -> Ground:
    app = Entrega("faults")
    variables = system.variables | {"DATABASE_URL": system.behind_proxies()["DATABASE_URL"]}
    app.settings = load_settings({name.lower(): value for name, value in variables.items()})
    brittle = brittle_ledger(app.ledger, system.data / "own-failpoints")
    app.ledger = brittle
    return Ground(
        system,
        app,
        connect(system.variables["DATABASE_URL"], pool_size=4, name="faults"),
        controls(system.standins_or_fail),
        redis.Redis.from_url(system.parts["valkey"].url, socket_timeout=5),
        _stranger(system.parts["valkey"].url_of("foreign")),
        Failpoints(system.data / FOLDER),
        brittle.failpoints,
    )
