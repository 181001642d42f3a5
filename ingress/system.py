"""The whole system on one machine: servers, workers, beat and the web page as child processes that are looked after.

A part that dies is started again. When this process dies, however it dies, its children go with it.
"""

import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Protocol

from config.running import (
    AlreadyRunning,
    Occupied,
    child_environment,
    clear_metrics_folder,
    occupy,
    servers_folder,
)
from config.settings import STANDINS, Settings
from sandbox.children import Child, Command, end_leftovers
from sandbox.doors import SandboxError, free_port, log_tail, make_folder, make_private_folder, write_private
from sandbox.graph_webhooks import Telling
from sandbox.logs import rotate_logs
from sandbox.postgres import PostgresServer
from sandbox.standins import Addresses, await_addresses, sandbox_environment, spawn
from sandbox.valkey import ValkeyServer

if TYPE_CHECKING:
    from ledger.database import Engine

# Three Python programs start at once: seconds on a free machine, most of a minute was measured on two busy cores.
_READY_WITHIN = timedelta(seconds=120)
_LEDGER_WITHIN = timedelta(seconds=60)
_LEDGER_PAUSE = timedelta(seconds=2)
_RESTART_PAUSE = timedelta(seconds=1)
_POLL_S = 0.05
_BROKER_USERS = {"beat": "producer", "web": "producer", "flower": "flower"}  # the others: worker
_WEBHOOK = "/webhooks/whatsapp/default"


class Part(Protocol):
    """A process that is looked after."""

    @property
    def running(self) -> bool:
        """Whether it is alive."""

    def start(self) -> object:
        """Start it."""

    def stop(self) -> None:
        """End it in good order."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        sandbox: Also run stand-ins for the CRM, WhatsApp and mail.
        workers: Worker processes, 16 threads each.
        commands: Also run the command server, for a command line that answers at once.
        verbose: Also say each step of a start and a stop.
    """

    settings: Settings
    sandbox: bool = False
    flower: bool = False
    workers: int = 1
    commands: bool = False
    verbose: bool = False


@dataclass
class System:
    """Starts, watches and stops the parts. Use it from the main thread.

    Attributes:
        say: Called with one sentence for what a person should know.
        variables: What the parts were told through their environment; producers need the same.
    """

    plan: Plan
    say: Callable[[str], None]
    variables: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    standins: Addresses | None = None
    _occupied: Occupied | None = None
    _down_since: dict[str, float] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The data folder, absolute."""
        return self.plan.settings.entrega_data.resolve()

    @property
    def key_file(self) -> Path | None:
        """Where the sandbox keeps its admin key; None where one was set, or none is made."""
        settings = self.plan.settings
        made = settings.entrega_env == "sandbox" and settings.entrega_bootstrap_key is None
        return settings.bootstrap_key_file.resolve() if made else None

    @property
    def foreign_url_file(self) -> Path:
        """Where the REDIS_URL for other programs' Celery clients is kept: they may send commands, and read nothing."""
        return self.data / "celery-clients.url"

    @property
    def url(self) -> str:
        """Where the web page answers."""
        return f"http://{self.variables['ENTREGA_HOST']}:{self.variables['ENTREGA_PORT']}"

    def start(self) -> None:
        """Start everything and return once it is ready.

        Raises:
            SandboxError: Another system runs in the data folder, or a part did not start; the message says which, why,
                and what to do.
            ConfigurationError: The sandbox was given a ledger on another machine; nothing was made.
            LedgerUnavailable: The database that DATABASE_URL names does not answer.
        """
        if self.plan.sandbox and self.plan.settings.entrega_env != "sandbox":
            environment = self.plan.settings.entrega_env
            raise SandboxError(f"stand-ins are for the sandbox, and ENTREGA_ENV is {environment}: leave --sandbox out")
        self.plan.settings.ledger_url()  # refuses a ledger on another machine before anything is made
        make_folder(self.data)
        try:
            self._occupied = occupied = occupy(self.data)  # first: another system's files must not be touched
        except AlreadyRunning as err:
            raise SandboxError(str(err)) from err
        for folder in {self.data, self._servers}:
            for name in end_leftovers(folder):
                self.say(f"ended {name}, left behind by an earlier run")
        self._choose_address()
        occupied.answers_at(self.url)
        with _loading_ledger():
            self._start_servers()
        self._prepare_ledger()
        self._start_processes()
        occupied.announce(self.variables)
        self._await_ready()
        if self.plan.commands:  # last: it takes as long to load as the worker, and the system is up without it
            self._part("commands", "commands")

    def watch(self) -> None:
        """Start again what has died, and keep the logs short. Call this every second or so."""
        rotate_logs(self.data)
        for name, part in self.parts.items():
            if part.running:
                self._down_since.pop(name, None)
            elif (
                time.monotonic() - self._down_since.setdefault(name, time.monotonic()) > _RESTART_PAUSE.total_seconds()
            ):
                self.say(f"{name} ended by itself and is started again")
                part.stop()  # clears what is left of it
                part.start()

    def stop(self) -> None:
        """Stop everything in good order: first the doors, then the workers, the servers last."""
        if self._occupied is None:
            return
        self._occupied.retract()
        for name in reversed(self.parts):
            self._step(f"stopping {name}")
            self.parts[name].stop()
        self.parts.clear()
        self._occupied.leave()
        self._occupied = None

    def _step(self, sentence: str) -> None:
        if self.plan.verbose:
            self.say(sentence)

    @property
    def _environment(self) -> str:
        return STANDINS if self.plan.sandbox else self.plan.settings.delivery_environment

    @property
    def _servers(self) -> Path:
        return servers_folder(self.data, self._environment)

    def _choose_address(self) -> None:
        settings = self.plan.settings
        port = settings.entrega_port or free_port()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.entrega_host, port))
            except OSError as err:
                address = f"{settings.entrega_host}:{port}"
                raise SandboxError(f"{address} is taken; stop what listens there or set ENTREGA_PORT") from err
        metrics = self.data / "metrics"
        clear_metrics_folder(metrics)
        self.variables |= {
            "ENTREGA_HOST": settings.entrega_host,
            "ENTREGA_PORT": str(port),
            "ENTREGA_DATA": str(self.data),
            "ENTREGA_WORKERS": str(self.plan.workers),
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        }

    def _start_servers(self) -> None:
        settings = self.plan.settings
        secret = token_hex(16)
        if self.plan.sandbox:  # first, because they need nothing and come up meanwhile
            standins = spawn(self.data, Telling(url=self.url + _WEBHOOK, app_secret=secret))
            self.parts["standins"] = standins
        if (url := settings.ledger_url()) is None:
            postgres = PostgresServer(self._servers)
            self.variables["DATABASE_URL"] = self._started("postgres", postgres, postgres.start)
            if postgres.note:
                self.say(postgres.note)
        else:
            self.variables["DATABASE_URL"] = url
        if settings.redis_url is None:
            valkey = ValkeyServer(self._servers)
            self._started("valkey", valkey, valkey.start)
            self.variables["REDIS_URL"] = valkey.url_of("worker")
            write_private(self.foreign_url_file, valkey.url_of("foreign") + "\n")
        else:
            self.variables["REDIS_URL"] = settings.redis_url.get_secret_value()
        if self.plan.sandbox:
            self.standins = await_addresses(self.data, standins)
            self.variables |= sandbox_environment(self.standins_or_fail) | {"WHATSAPP_APP_SECRET": secret}
            self._step(f"stand-ins answer: CRM {self.standins.crm_url}, Graph API {self.standins.graph_url}")

    @property
    def standins_or_fail(self) -> Addresses:
        """The stand-ins' addresses.

        Raises:
            SandboxError: This system runs without stand-ins.
        """
        if self.standins is None:
            raise SandboxError("this system runs without stand-ins: start it with --sandbox")
        return self.standins

    def _started(self, name: str, part: Part, start: Callable[[], str]) -> str:
        url = start()
        self.parts[name] = part
        self._step(f"{name} answers on this machine")
        return url

    def _prepare_ledger(self) -> None:
        from ledger.database import connect
        from ledger.operating import Desk
        from ledger.sealing import MasterKeys
        from ledger.vault import Vault

        engine = connect(self.variables["DATABASE_URL"], pool_size=1, name="entrega up")
        before, after = self._migrated(engine)
        # Here and in no other process the key of an embedded ledger is made.
        vault = Vault(engine, MasterKeys(self.plan.settings.master_keys()))
        vault.check_masters()
        if before not in (None, after):
            from ledger.hashing import hash_clear

            hash_clear(vault)
        Desk(engine, actor="up").forget_ticks()
        engine.dispose()
        self._step(f"the ledger's schema is at revision {after}" + ("" if before == after else " (brought up to date)"))

    def _migrated(self, engine: "Engine") -> tuple[str | None, str]:
        from delivery.errors import LedgerUnavailable
        from ledger.schema import migrate

        deadline = time.monotonic() + _LEDGER_WITHIN.total_seconds()
        while True:
            try:
                return migrate(engine, self._environment)
            except LedgerUnavailable as err:
                if time.monotonic() > deadline:
                    raise
                self.say(f"{err}; trying again in {_LEDGER_PAUSE.seconds} s")
                time.sleep(_LEDGER_PAUSE.total_seconds())

    def _start_processes(self) -> None:
        if self.plan.flower:
            self.variables["ENTREGA_REMOTE_CONTROL"] = "true"
        for n in range(1, self.plan.workers + 1):
            self._part("worker", f"worker{n}")
        self._part("beat", "beat")
        self._part("web", "web")
        if self.plan.flower:
            self.variables |= {"FLOWER_PORT": str(free_port(5555))}
            self._celery("flower", "flower", without=("PROMETHEUS_MULTIPROC_DIR",))  # its own series are not ours

    def _part(self, part: str, name: str) -> None:
        self._python(name, "-m", "ingress.process", part, name)

    def _celery(self, name: str, *arguments: str, without: tuple[str, ...] = ()) -> None:
        self._python(name, "-m", "celery", "-A", "worker", *arguments, without=without)

    def _python(self, name: str, *arguments: str, without: tuple[str, ...] = ()) -> None:
        variables = {key: value for key, value in self.variables.items() if key not in without}
        valkey = self.parts.get("valkey")
        if isinstance(valkey, ValkeyServer) and name in _BROKER_USERS:
            variables["REDIS_URL"] = valkey.url_of(_BROKER_USERS[name], variables["REDIS_URL"])
        environment = child_environment(variables)
        log = self.data / "logs" / f"{name}.log"
        make_private_folder(log.parent)
        child = Child(self.data, Command(name, (sys.executable, *arguments), log=log, env=environment))
        child.start()
        self.parts[name] = child

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN.total_seconds()
        while time.monotonic() < deadline:
            self._check_alive()
            if _answers(f"{self.url}/health/ready"):
                return
            time.sleep(_POLL_S)
        tails = "\n".join(
            f"--- {name}\n{log_tail(self.data / 'logs' / f'{name}.log')}" for name in ("worker1", "beat", "web")
        )
        raise SandboxError(
            f"the system was not ready within {_READY_WITHIN.seconds} s; the last lines of its logs:\n{tails}"
        )

    def _check_alive(self) -> None:
        for name, part in self.parts.items():
            if not part.running:
                log = self.data / "logs" / f"{name}.log"
                raise SandboxError(f"{name} ended at start; the last lines of {log}:\n{log_tail(log)}")


def addresses(system: System) -> Mapping[str, str]:
    """Return where a program finds the parts that have a page or a port. It holds passwords: not for a screen.

    Shape: {"ingress": "http://127.0.0.1:8080", "database": "postgresql://...", "redis": "redis://..."}
    """
    found = {
        "ingress": system.url,
        "database": system.variables["DATABASE_URL"].replace("postgresql+psycopg://", "postgresql://"),
        "redis": system.variables["REDIS_URL"],
        "logs": str(system.data / "logs"),
    }
    if "valkey" in system.parts:
        found["celery_clients"] = system.foreign_url_file.read_text(encoding="ascii").strip()
    if "FLOWER_PORT" in system.variables:
        from worker.flower import USER, flower_password  # nothing else here needs the worker's packages

        found["flower"] = f"http://127.0.0.1:{system.variables['FLOWER_PORT']}"
        found["flower_login"] = f"{USER}:{flower_password(system.data)}"
    if system.standins is not None:
        found |= {
            "sandbox_crm": system.standins.crm_url,
            "sandbox_graph": system.standins.graph_url,
            "sandbox_smtp": f"127.0.0.1:{system.standins.smtp_port}",
            "sandbox_smtp_control": system.standins.smtp_control_url,
        }
    return found


@contextmanager
def _loading_ledger() -> Iterator[None]:
    """Load what the ledger needs on a thread of its own: half a second, in which servers start and others wait."""
    with ThreadPoolExecutor(1) as aside:
        loaded = aside.submit(_load_ledger)
        yield
        loaded.result()


def _load_ledger() -> None:
    import_module("ledger.operating")
    import_module("ledger.schema").load_migrations()


def _answers(url: str) -> bool:
    # Our own page: a proxy that this person uses for the internet cannot reach it.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004 - HTTP
    except (urllib.error.URLError, OSError):
        return False
