"""The ground a run takes place on: the whole system with its own forms, the proxy, and a clock for delayed work."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
import yaml
from celery import Celery
from sqlalchemy import text

import config.integrations
from config.settings import load_settings
from ingress.system import Plan as SystemPlan
from ingress.system import System
from ledger.database import transaction
from sandbox.proxy import Proxy
from sandbox.standins import controls
from tasks.app import Entrega

WORKERS = ("worker1", "worker2")
CRM_TIMEOUT_S = 2
LEASE_S = CRM_TIMEOUT_S + 15
_PARKING = [2, 3, 5, 8, 10]
# What the forms say beyond this stays: error table, look-ups, what is idempotent and what is held.
_SHORT_CALLS = {
    "crm": {},
    "whatsapp": {"connect_s": 1, "read_s": 2, "total_s": 2},
    "email": {"connect_s": 1, "read_s": 3, "final_reply_s": 3, "total_s": 5},
}


def write_forms(folder: Path) -> None:
    """Write the shipped forms with limits lifted and waits that fit a run of minutes."""
    folder.mkdir(exist_ok=True)
    for form in Path(config.integrations.__file__).parent.glob("*.yaml"):
        spec: dict[str, Any] = yaml.safe_load(form.read_text(encoding="utf-8"))
        spec["limits"] = {"per_second": 1_000, "on_excess": spec["limits"]["on_excess"]}
        spec["fallback"]["parking_s"] = _PARKING
        spec["breaker"] |= {"open_s": 3}
        for operation in spec["operations"].values():
            operation["timeouts"] |= _SHORT_CALLS[spec["name"]]
            if operation["look_up"]["by"] == "webhook":
                operation["look_up"]["wait_s"] = 15
        (folder / form.name).write_text(yaml.safe_dump(spec, allow_unicode=True, sort_keys=False), encoding="utf-8")


class HurtSystem(System):
    """The system with a fault proxy between the workers and the CRM."""

    proxy: Proxy

    def _start_processes(self) -> None:
        standins = self.standins_or_fail
        self.proxy = Proxy(int(standins.crm_url.rpartition(":")[2])).start()
        self.variables |= {"CRM_API_URL": self.proxy.url, "CRM_TOKEN_URL": f"{self.proxy.url}/oauth/token"}
        super()._start_processes()


@dataclass
class Ground:
    """A running system, and what faults need to reach it. Faults are done from the main thread.

    Attributes:
        dead: Names of the workers that were killed, as they stand in the attempt rows.
        cleanup: What must be undone before the books are compared.
    """

    system: HurtSystem
    app: Entrega
    control: Mapping[str, Any]
    redis: redis.Redis
    foreign: Celery
    dead: list[str] = field(default_factory=list)
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
        self.system.proxy.heal()
        for each in self.control.values():
            each.clear_faults()
        for name in ("crm", "graph"):
            self.control[name].configure({"latency_s": 0, "rate_limit": None})

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

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Look into the ledger."""
        with transaction(self.app.database) as connection:
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
        app = Entrega("faults")
        app.settings = load_settings({name.lower(): value for name, value in system.variables.items()})
        client = redis.Redis.from_url(system.variables["REDIS_URL"], socket_timeout=5)
        foreign = Celery("stranger", broker=system.variables["REDIS_URL"], set_as_current=False)
        found = Ground(system, app, controls(system.standins_or_fail), client, foreign)
        try:
            yield found
        finally:
            with suppress(Exception):  # a system that is being torn down may be half dead already
                found.lift()
            app.pool.force_close_all()
            app.close()
            app.database.dispose()
    finally:
        system.stop()
        if hasattr(system, "proxy"):
            system.proxy.stop()
        shutil.rmtree(data / "forms", ignore_errors=True)
