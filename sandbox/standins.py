"""The stand-ins together: CRM, Graph API and SMTP on loopback, in this process or as one of their own.

`python -m sandbox.standins --ports-file F` starts the three, writes their addresses to F and runs until SIGTERM or
Ctrl-C. `Standins` does the same inside a test. Either way `StandinControl` orders faults and reads effects over HTTP,
and `sandbox_environment` gives the variables that point Entrega at them.
"""

import argparse
import errno
import http.client
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from sandbox.children import Child, Command
from sandbox.crm import CrmApi, CrmCredentials
from sandbox.doors import SandboxError, free_port, log_tail, make_folder, write_private
from sandbox.faults import Fault
from sandbox.graph import GraphApi, GraphCredentials
from sandbox.graph_webhooks import Telling
from sandbox.http_standin import HttpStandin
from sandbox.mail_standin import MailStandin
from sandbox.smtp_faults import Fault as SmtpFault

_READY_WITHIN = timedelta(seconds=60)
_ADDRESSES = "standins.addresses.json"


@dataclass(frozen=True)
class Addresses:
    """Where the stand-ins are reached.

    Attributes:
        crm_url: Base URL of the CRM; its control routes are on the same port.
        graph_url: Base URL of the Graph API; likewise.
        smtp_port: The mail server's port on 127.0.0.1.
        smtp_control_url: Where the mail server's control routes are.
    """

    crm_url: str
    graph_url: str
    smtp_port: int
    smtp_control_url: str


class Reachable(Protocol):
    """What `sandbox_environment` needs to know."""

    @property
    def crm_url(self) -> str:
        """The CRM's base URL."""

    @property
    def graph_url(self) -> str:
        """The Graph API's base URL."""

    @property
    def smtp_port(self) -> int:
        """The mail server's port."""


@dataclass(frozen=True)
class Ports:
    """Where the stand-ins listen; 0 chooses a free port."""

    crm: int = 0
    graph: int = 0
    smtp: int = 0
    smtp_control: int = 0


class Standins:
    """The three stand-ins in this process. `start` and `stop` may alternate; addresses stay, effects of mail do not."""

    def __init__(self, ports: Ports | None = None, telling: Telling | None = None) -> None:
        ports = ports or Ports()
        self.crm = HttpStandin(CrmApi(), ports.crm)
        self._graph = GraphApi(telling=telling)
        self.graph = HttpStandin(self._graph, ports.graph)
        self.mail = MailStandin(ports.smtp, ports.smtp_control)

    @property
    def crm_url(self) -> str:
        """The CRM's base URL."""
        return self.crm.url

    @property
    def graph_url(self) -> str:
        """The Graph API's base URL, without a version."""
        return self.graph.url

    @property
    def smtp_port(self) -> int:
        """The mail server's port on 127.0.0.1."""
        return self.mail.smtp_port

    @property
    def addresses(self) -> Addresses:
        """Everything another process needs to reach them."""
        return Addresses(self.crm_url, self.graph_url, self.smtp_port, self.mail.url)

    def start(self) -> Self:
        """Start the three; returns itself."""
        for standin in (self.crm, self.graph, self.mail):
            standin.start()
        return self

    def stop(self) -> None:
        """Stop the three; what was not told yet stays untold."""
        for standin in (self.crm, self.graph, self.mail):
            standin.stop()
        self._graph.fall_silent()

    def control(self, name: str) -> "StandinControl":
        """Return the control of "crm", "graph" or "smtp"."""
        return controls(self.addresses)[name]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class StandinControl:
    """Orders faults and reads effects of one stand-in over HTTP; for tests, the demo and benchmarks."""

    def __init__(self, base_url: str) -> None:
        """Describe the control.

        Args:
            base_url: `Addresses.crm_url`, `graph_url` or `smtp_control_url`.
        """
        self._host = urlsplit(base_url).netloc

    def effects(self, *, skip: int = 0) -> list[dict[str, object]]:
        """Return what was really done, oldest first, without the first `skip`; `key` is the delivery id."""
        found = self._ask("GET", f"effects?from={skip}")["effects"]
        return found if isinstance(found, list) else []

    def arrivals(self) -> list[float]:
        """Return when each write came that a provider's limit would count, in Unix seconds."""
        found = self._ask("GET", "arrivals")["arrivals"]
        return sorted(found) if isinstance(found, list) else []

    def effects_per_key(self) -> Counter[str]:
        """Return how often each delivery took effect: more than 1 is a duplicate, absent is a loss."""
        return Counter(str(effect["key"]) for effect in self.effects())

    def plan(self, fault: Fault | SmtpFault | Mapping[str, object]) -> None:
        """Append a fault.

        Raises:
            SandboxError: The stand-in does not know such a fault.
        """
        if isinstance(fault, Fault):
            self._ask("POST", "faults", fault.as_json())
        elif isinstance(fault, SmtpFault):
            self._ask("POST", "faults", asdict(fault))
        else:
            self._ask("POST", "faults", fault)

    def clear_faults(self) -> None:
        """Forget the faults that are still to come."""
        self._ask("DELETE", "faults")

    def configure(self, settings: Mapping[str, object]) -> None:
        """Apply settings.

        Shape: {"rate_limit": {"limit": 50, "window_s": 10}, "latency_s": 0.1, "expires_in": 60, "idempotency": false}

        Raises:
            SandboxError: A name or value is wrong.
        """
        self._ask("POST", "settings", settings)

    def hear(self, said: Mapping[str, object]) -> None:
        """Let a person do something; see `sandbox.graph.GraphApi.hear`.

        Raises:
            SandboxError: Nobody can do that here.
        """
        self._ask("POST", "hear", said)

    def counters(self) -> dict[str, dict[str, int]]:
        """Return the number of requests per route and status."""
        found = self._ask("GET", "counters")["requests"]
        return found if isinstance(found, dict) else {}

    def reset(self) -> None:
        """Forget effects, counters, arrivals, faults and settings."""
        self._ask("POST", "reset")

    def _ask(self, method: str, route: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        try:
            connection.request(method, f"/_standin/{route}", None if body is None else json.dumps(body))
            answer = connection.getresponse()
            found: dict[str, object] = json.loads(answer.read())
        except OSError as err:
            raise SandboxError(f"the stand-in at {self._host} does not answer: is it started?") from err
        finally:
            connection.close()
        if answer.status != 200:  # noqa: PLR2004 - HTTP
            raise SandboxError(f"the stand-in at {self._host} refused {method} {route}: {found.get('error')}")
        return found


def controls(addresses: Addresses) -> dict[str, StandinControl]:
    """Return the controls of "crm", "graph" and "smtp"."""
    return {
        "crm": StandinControl(addresses.crm_url),
        "graph": StandinControl(addresses.graph_url),
        "smtp": StandinControl(addresses.smtp_control_url),
    }


def sandbox_environment(standins: Reachable) -> dict[str, str]:
    """Return the environment variables that point Entrega at the stand-ins, with their invented credentials.

    The Graph API's version is no part of its URL here: the integration's form puts it in.
    """
    crm, graph = CrmCredentials(), GraphCredentials()
    return {
        "ENTREGA_STANDINS": "true",
        "CRM_API_URL": standins.crm_url,
        "CRM_CLIENT_ID": crm.client_id,
        "CRM_CLIENT_SECRET": crm.client_secret,
        "CRM_TOKEN_URL": f"{standins.crm_url}/oauth/token",
        "WHATSAPP_API_URL": standins.graph_url,
        "WHATSAPP_ACCESS_TOKEN": graph.access_token,
        "WHATSAPP_PHONE_NUMBER_ID": graph.phone_number_id,
        "WHATSAPP_APP_SECRET": graph.app_secret,
        "WHATSAPP_VERIFY_TOKEN": graph.verify_token,
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(standins.smtp_port),
        "SMTP_USE_SSL": "false",
        "FROM_EMAIL": "entrega@exemplo.com.br",
    }


def launch(data: Path, telling: Telling | None = None) -> tuple[Child, Addresses]:
    """Start the stand-ins as a child process that keeps its addresses in `data`, and wait until they answer.

    Call from the main thread (see `sandbox.children.Child`).

    Args:
        telling: Where the Graph API tells what becomes of its messages; nowhere when left out.

    Raises:
        SandboxError: They did not start within 15 s (with the log's tail).
    """
    child = spawn(data, telling)
    try:
        return child, await_addresses(data, child)
    except BaseException:  # Ctrl-C too: nobody else knows the child yet
        child.stop()
        raise


def spawn(data: Path, telling: Telling | None = None) -> Child:
    """Start the stand-ins as `launch` does, without waiting for them."""
    data = data.resolve()  # the child works in another folder
    make_folder(data)
    ports_file, log = data / _ADDRESSES, data / "standins.log"
    ports_file.unlink(missing_ok=True)
    arguments: tuple[str, ...] = (
        sys.executable,
        "-m",
        "sandbox.standins",
        "--ports-file",
        str(ports_file),
        "--data",
        str(data),
    )
    if telling is not None:
        write_private(data / "webhooks.json", telling.model_dump_json())
        arguments += ("--webhooks", str(data / "webhooks.json"))
    # From the folder that holds our package, so that `-m` finds it wherever the caller stands.
    child = Child(data, Command("standins", arguments, log=log, cwd=Path(__file__).parents[1]))
    child.start()
    return child


def await_addresses(data: Path, child: Child) -> Addresses:
    """Return where the stand-ins that were spawned answer, as soon as they do.

    Raises:
        SandboxError: As `launch`.
    """
    ports_file = data.resolve() / _ADDRESSES
    deadline = time.monotonic() + _READY_WITHIN.total_seconds()
    while not ports_file.exists():
        if not child.running or time.monotonic() > deadline:
            log = child.command.log
            raise SandboxError(f"the stand-ins did not start; the last lines of {log}:\n{log_tail(log)}")
        time.sleep(0.02)
    return read_addresses(ports_file)


def read_addresses(ports_file: Path) -> Addresses:
    """Return what `--ports-file` holds."""
    return Addresses(**json.loads(ports_file.read_text()))


def main(arguments: list[str] | None = None) -> int:
    """Run the stand-ins until SIGTERM or Ctrl-C; return the exit code."""
    asked = _parser().parse_args(arguments)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    telling = Telling.model_validate_json(asked.webhooks.read_text()) if asked.webhooks else None
    standins = started(asked.data, Ports(asked.crm_port, asked.graph_port, asked.smtp_port), telling)
    try:
        write_private(asked.ports_file, json.dumps(asdict(standins.addresses)))
        ended.wait()
    finally:
        standins.stop()
    return 0


def started(data: Path | None, asked: Ports, telling: Telling | None) -> Standins:
    """Start on ports that nobody has; who takes one between the look and the start has us look again.

    Raises:
        OSError: An asked port is taken, or luck failed four times.
    """
    for is_last in (False, False, False, True):
        standins = Standins(_kept_ports(data, asked), telling)
        try:
            return standins.start()
        except OSError as err:
            standins.stop()
            if is_last or err.errno != errno.EADDRINUSE:
                raise
    raise AssertionError("unreachable: the last start raises")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox.standins", description="Stand-in CRM, Graph API and SMTP.")
    parser.add_argument("--ports-file", type=Path, required=True, help="the addresses are written here, as JSON")
    parser.add_argument("--crm-port", type=int, default=0)
    parser.add_argument("--graph-port", type=int, default=0)
    parser.add_argument("--smtp-port", type=int, default=0)
    parser.add_argument("--webhooks", type=Path, help="a file with JSON that says where webhooks go, and their secret")
    parser.add_argument("--data", type=Path, help="keep the same ports between starts in this folder")
    return parser


def _kept_ports(data: Path | None, asked: Ports) -> Ports:
    """Return a port for each: the asked one, else the one of last time if free, else another free one."""
    if data is None:
        return asked
    make_folder(data)
    file = data / "standins.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    ports = Ports(**{name: port or free_port(kept.get(name)) for name, port in asdict(asked).items()})
    write_private(file, json.dumps(asdict(ports)))
    return ports


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
