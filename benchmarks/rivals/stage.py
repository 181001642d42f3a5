"""One system on its own servers: Postgres, Valkey, the provider, the system's programs and one producer.

Each case gets fresh servers with the same settings (Postgres with fsync, Valkey with its append-only file), so that
nobody finds what another left behind.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.rivals.cases import Case, Shape
from benchmarks.rivals.provider import CONTROL
from benchmarks.rivals.wire import POSTGRES_VARIABLE, PROVIDER_VARIABLE, THREADS_VARIABLE, VALKEY_VARIABLE
from config.running import child_environment, clear_metrics_folder
from sandbox.children import Child, Command
from sandbox.doors import log_tail
from sandbox.forms import write_forms
from sandbox.postgres import PostgresServer
from sandbox.valkey import ValkeyServer

ROOT = Path(__file__).resolve().parents[2]
# The limiter works, and no run comes near this.
_LIMITS = {"whatsapp": {"per_second": 5000}}
_ANSWER_WITHIN_S = 120.0


class CaseFailedError(Exception):
    """A system did not run; the message says why."""


class Provider:
    """The provider process, seen from here."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "benchmarks.rivals.provider"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        self._port = int(self._process.stdout.readline())

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def reset(self, latency_ms: int) -> None:
        """Forget what came, and answer after this long from now on."""
        self._ask(f"reset/{latency_ms}")

    def count(self) -> int:
        """Return how many different messages came."""
        return int(self._ask("count")["count"])

    def report(self) -> Mapping[str, Any]:
        """Return arrivals by id, doubles, the last answer and the most calls in flight."""
        return self._ask("report")

    def end(self) -> None:
        """End it."""
        _end(self._process)

    def _ask(self, what: str) -> Mapping[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", CONTROL + what)
            told: Mapping[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return told


class Producer:
    """The producer process, seen from here."""

    def __init__(self, module: str, python: Path, environment: Mapping[str, str], folder: Path) -> None:
        self._log = folder / "producer.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                (str(python), "-m", "benchmarks.rivals.producer", module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=environment,
                text=True,
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, **order: object) -> Mapping[str, Any]:
        """Have it do one thing and return what it says.

        Raises:
            CaseFailedError: It ended, or took longer than two minutes.
        """
        sent, got = self._process.stdin, self._process.stdout
        assert sent is not None  # noqa: S101 - asked for above
        assert got is not None  # noqa: S101 - asked for above
        watch = threading.Timer(_ANSWER_WITHIN_S, self._process.kill)
        watch.start()
        try:
            sent.write(json.dumps(order) + "\n")
            sent.flush()
            line = got.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        if not line:
            raise CaseFailedError(f"the producer ended at {order['do']}: {last_words(self._log)}")
        told: Mapping[str, Any] = json.loads(line)
        return told

    def end(self) -> None:
        """End it."""
        _end(self._process)


@dataclass(frozen=True)
class Stage:
    """A system that runs.

    Attributes:
        versions: Of what it is made of, by package.
        roles: Processes by role; children belong to them.
        variables: What the programs were told through their environment, e.g. DATABASE_URL.
    """

    case: Case
    shape: Shape
    provider: Provider
    producer: Producer
    children: Mapping[str, Child]
    versions: Mapping[str, str]
    roles: Mapping[str, tuple[int, ...]]
    variables: Mapping[str, str]

    def check(self) -> None:
        """Look whether all programs are alive.

        Raises:
            CaseFailedError: One has ended.
        """
        for name, child in self.children.items():
            if not child.running:
                raise CaseFailedError(f"{name} ended by itself: {last_words(child.command.log)}")

    def await_messages(self, wanted: set[str], seconds: float) -> Mapping[str, Any]:
        """Wait until messages came, or the time is over, and return the provider's report.

        Raises:
            CaseFailedError: A program of the system ended.
        """
        deadline = time.monotonic() + seconds
        while self.provider.count() < len(wanted) and time.monotonic() < deadline:
            self.check()
            time.sleep(0.05)
        while wanted - (report := self.provider.report())["arrivals"].keys() and time.monotonic() < deadline:
            time.sleep(0.2)
        return report


@contextmanager
def staged(case: Case, shape: Shape, rivals_python: Path) -> Iterator[Stage]:
    """Start everything, and end it afterwards.

    Args:
        rivals_python: The interpreter of the environment that has the rivals' packages.

    Raises:
        CaseFailedError: A part of the system did not start.
        SandboxError: A server did not start.
    """
    with TemporaryDirectory(prefix="entrega-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)
        provider = Provider()
        stack.callback(provider.end)
        servers, environment = _servers(case, folder, stack)
        environment = child_environment(environment | _variables(provider.url, shape, folder))
        python = Path(sys.executable) if case.ours else rivals_python
        producer = Producer(case.module, python, environment, folder)
        stack.callback(producer.end)
        versions = producer.ask(do="versions")
        producer.ask(do="prepare")
        children = _programs(case, shape, python, environment, folder, stack)
        roles = {**servers, **_roles(case, shape, children), "producer": (producer.pid,)}
        yield Stage(case, shape, provider, producer, children, versions, roles, environment)


def last_words(log: Path) -> str:
    """Return the last line of a log that says anything, without paths of this machine."""
    lines = [line.strip() for line in log_tail(log, 40).splitlines() if line.strip()]
    line = lines[-1] if lines else "nothing was said"
    for path, word in ((log.parent, "DATA"), (ROOT, "."), (Path(sys.prefix), "VENV"), (Path.home(), "~")):
        line = line.replace(str(path), word)
    return line[:300]


def _servers(case: Case, folder: Path, stack: ExitStack) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    roles: dict[str, tuple[int, ...]] = {}
    variables: dict[str, str] = {}
    if "postgres" in case.needs:
        postgres = PostgresServer(folder)
        stack.callback(postgres.remove)
        url = postgres.start()
        variables |= {POSTGRES_VARIABLE: url, "DATABASE_URL": url}
        roles["postgres"] = (postgres.pid,)
    if "valkey" in case.needs:
        valkey = ValkeyServer(folder)
        stack.callback(valkey.stop)
        url = valkey.start()
        variables |= {VALKEY_VARIABLE: url, "REDIS_URL": url}
        roles["valkey"] = (valkey.pid,)
    return roles, variables


def _variables(provider_url: str, shape: Shape, folder: Path) -> dict[str, str]:
    forms, metrics = folder / "forms", folder / "metrics"
    write_forms(forms, limits=_LIMITS)
    clear_metrics_folder(metrics)
    return {
        "PYTHONPATH": str(ROOT),
        PROVIDER_VARIABLE: provider_url,
        THREADS_VARIABLE: str(shape.threads),
        "ENTREGA_ENV": "sandbox",
        "ENTREGA_DATA": str(folder),
        "ENTREGA_MASTER_KEYS": b64encode(bytes(32)).decode(),
        "ENTREGA_INTEGRATIONS": str(forms),
        "ENTREGA_WORKERS": str(shape.processes),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "WHATSAPP_API_URL": provider_url,
        "WHATSAPP_ACCESS_TOKEN": "invented-token",
        "WHATSAPP_PHONE_NUMBER_ID": "100200300",
    }


def _programs(  # noqa: PLR0913, PLR0917 - what a program stands on
    case: Case, shape: Shape, python: Path, environment: Mapping[str, str], folder: Path, stack: ExitStack
) -> dict[str, Child]:
    children: dict[str, Child] = {}
    for part in case.parts(shape):
        command = Command(
            part.name,
            (str(python), *part.arguments),
            log=folder / f"{part.name}.log",
            env=environment,
            cwd=folder,
            stop_signal=part.stop_signal,
        )
        children[part.name] = Child(folder, command)
        children[part.name].start()
        stack.callback(children[part.name].stop)
    return children


def _roles(case: Case, shape: Shape, children: Mapping[str, Child]) -> dict[str, tuple[int, ...]]:
    parts = case.parts(shape)
    roles = sorted({part.role for part in parts})
    return {role: tuple(children[part.name].pid for part in parts if part.role == role) for role in roles}


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
