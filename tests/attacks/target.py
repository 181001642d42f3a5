"""The system under attack: what `entrega up --sandbox --flower` runs, with the shipped specs and limits."""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Engine, text

from config.settings import Settings, load_settings
from ingress.system import Plan, System
from ledger.database import connect, transaction
from sandbox.standins import StandinControl, controls

_PATIENCE_S = 60
_FOREIGN_VARIABLES = ("CELERY", "FLOWER_", "PG", "PROMETHEUS_", "SENTRY_")


@dataclass(frozen=True)
class Verdict:
    """What one attack did.

    Attributes:
        attack: What was sent, in a few words.
        happened: What was measured.
        limit: What is allowed.
    """

    attack: str
    happened: str
    limit: str
    passed: bool


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `body` is the parsed JSON, or the text where it is none."""

    status: int
    body: Any
    seconds: float


@dataclass
class Target:
    """A running sandbox system, and what an attacker or an honest producer does to it.

    Attributes:
        key: The admin API key that the sandbox made.
        short: In CI an attack proves its point with fewer requests and in less time.
    """

    system: System
    key: str
    database: Engine
    standins: Mapping[str, StandinControl]
    short: bool = False
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def url(self) -> str:
        """Where REST, MCP and webhooks answer."""
        return self.system.url

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self.system.data

    @property
    def redis_url(self) -> str:
        """Valkey, with the rights that a worker has."""
        return self.system.variables["REDIS_URL"]

    def broker_url(self, user: str) -> str:
        """Return Valkey's URL with the rights of a user of `config.broker_users`."""
        valkey: Any = self.system.parts["valkey"]
        return str(valkey.url_of(user))

    @property
    def admin_redis_url(self) -> str:
        """Valkey, with every right."""
        valkey: Any = self.system.parts["valkey"]
        return str(valkey.url)

    @property
    def database_url(self) -> str:
        """Postgres."""
        return self.system.variables["DATABASE_URL"]

    def pid(self, name: str = "worker1") -> int:
        """Return the process id of a part. The programme restarts nothing, so a dead part stays dead."""
        part: Any = self.system.parts[name]
        return int(part.pid)

    def lives(self, name: str = "worker1") -> bool:
        """Tell whether a part is still the process that was started."""
        return self.system.parts[name].running

    def log(self, name: str = "worker1") -> str:
        """Return what a part has written."""
        return (self.folder / "logs" / f"{name}.log").read_text(encoding="utf-8")

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Look into the ledger."""
        with transaction(self.database) as connection:
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request on a connection of its own, with the admin key or with `key`; "" sends none."""
        sent = {"Connection": "close", **(headers or {})}
        bearer = self.key if key is None else key
        if bearer:
            sent["Authorization"] = f"Bearer {bearer}"
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if raw is not None:
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=_PATIENCE_S)
        started = time.perf_counter()
        try:
            connection.request(method, path, raw, sent)
            response = connection.getresponse()
            answered = response.read()
        finally:
            connection.close()
        return Answer(response.status, _parsed(answered), time.perf_counter() - started)

    def lead(self, *, key: str | None = None, **fields: Any) -> Answer:
        """Hand over the lead of an invented person, another one each time."""
        person = f"pessoa{next(self._numbers)}.{time.monotonic_ns()}"
        body = {"nome": "Ana Teste", "email": f"{person}@exemplo.com.br", "interesse": "produto_a", **fields}
        return self.ask("POST", "/v1/leads", body, key=key)

    def make_key(self, producer: str, *scopes: str) -> str:
        """Make an API key for a producer."""
        found = self.entrega("keys", "create", producer, *(f"--scope={each}" for each in scopes))
        return str(found["key"])

    def entrega(self, *words: object, typed: str | None = None) -> Any:
        """Run a command with --json; return what it printed, or its exit code where it refused."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("entrega")), *map(str, words), "--json"],
            env=os.environ | {"ENTREGA_DATA": str(self.folder)},
            input=typed, capture_output=True, text=True, timeout=_PATIENCE_S * 2, check=False,
        )  # fmt: skip
        return done.returncode or json.loads(done.stdout)

    def until(self, condition: Callable[[], Any], within_s: float = _PATIENCE_S) -> Any:
        """Return the condition's value once it is true, or the last one when the time is over."""
        deadline = time.monotonic() + within_s
        while not (found := condition()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def state(self, id_: str) -> str:
        """Return a delivery's state."""
        return str(self.sql("SELECT state FROM deliveries WHERE id = :id", id=id_)[0][0])

    def works(self) -> bool:
        """Tell whether a new lead arrives at the CRM."""
        id_ = self.lead().body["id"]
        return bool(self.until(lambda: self.state(id_) == "succeeded"))


def percentile(seconds: list[float], share: float = 0.99) -> float:
    """Return a percentile, the nearest rank, in milliseconds."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


@contextmanager
def running_target(*, short: bool = False) -> Iterator[Target]:
    """Start the system in a folder of its own, without anything of the caller's environment; stop it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="entrega-attack-"))
    folder.chmod(0o711)  # where root runs this, Postgres's own account passes through
    with _neutral_environment(folder):
        settings = load_settings({"entrega_env": "sandbox", "entrega_data": folder / "data", "entrega_port": 0})
        system = System(Plan(settings, sandbox=True, flower=True), lambda _: None)
        try:
            system.start()
            database = connect(system.variables["DATABASE_URL"], pool_size=2, name="attack")
            key = (system.key_file or folder).read_text(encoding="utf-8").strip()
            yield Target(system, key, database, controls(system.standins_or_fail), short)
            database.dispose()
        finally:
            system.stop()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _neutral_environment(folder: Path) -> Iterator[None]:
    ours = {each.upper() for each in Settings.model_fields}
    before = dict(os.environ)
    for name in [each for each in os.environ if each.upper() in ours or each.startswith(_FOREIGN_VARIABLES)]:
        del os.environ[name]
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")
