"""Child processes that never outlive us: start, watch and end them, and end what a killed parent left behind.

Two nets, because either alone has holes. On Linux the kernel signals the child when its parent dies
(PR_SET_PDEATHSIG); everywhere, `children.json` in the data folder records pid *and* creation time, so that the next
start can end a leftover without ever touching a stranger that got the same pid. POSIX only; it knows no server.
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import psutil

from config.running import folder_mark
from sandbox.doors import SandboxError, make_folder, write_private

_PR_SET_PDEATHSIG = 1  # Source: prctl(2), <linux/prctl.h>
_CLOCK_SLACK_S = 1.0  # psutil derives creation times from the boot time, which moves when the clock is set
_POLL_S = 0.02
_FAMILY_GRACE_S = 1.0  # children of a killed server need a moment to notice and let go of shared memory


@dataclass(frozen=True)
class Account:
    """An operating system account to run a child as.

    Attributes:
        name: Only for messages.
        uid: User id; the child also loses every extra group.
        gid: Group id.
    """

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """What to run.

    Attributes:
        name: Unique within a data folder, e.g. "postgres".
        argv: Program and arguments. Visible to every user of the machine: no passwords here.
        log: File that receives stdout and stderr, appended to.
        env: The whole environment of the child; None hands on ours.
        cwd: Working folder; None keeps ours.
        stop_signal: Asks the program to end in good order; also sent by the kernel when we die.
        account: Run as this account; only root may set it.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None


@dataclass(frozen=True)
class _Record:
    """One child in `children.json`: enough to recognise it, and its parent, for sure.

    Attributes:
        folder: The data folder that it was started for; in a copy of the folder the record says nothing.
    """

    name: str
    pid: int
    created: float
    parent_pid: int
    parent_created: float
    stop_signal: int
    folder: str = ""

    def process(self) -> psutil.Process | None:
        """Return the recorded process if it is still the same one and alive."""
        return _same_process(self.pid, self.created)

    def parent(self) -> psutil.Process | None:
        """Return the process that started it if that one is still alive."""
        return _same_process(self.parent_pid, self.parent_created)


class Child:
    """One child process in a session of its own.

    Call `start` from the main thread. The kernel's parent-death signal follows the *thread* that forked, so a child
    started elsewhere would be ended when that thread ends; such a child is therefore started without the signal and
    relies on `end_leftovers` alone.
    """

    def __init__(self, data: Path, command: Command) -> None:
        self.command = command
        self._data = data
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the process id.

        Raises:
            SandboxError: The child was never started.
        """
        if self._popen is None:
            raise SandboxError(f"{self.command.name} was never started: call start() first")
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Tell whether the process is alive."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Return how the process ended: negative for a signal, None while it runs."""
        return None if self._popen is None else self._popen.poll()

    def start(self) -> None:
        """Start the process and record it.

        Raises:
            SandboxError: A child of this name runs already on this data folder, or the program cannot be started.
        """
        # Under one lock, so that of two starts at the same moment one is refused.
        with _records(self._data) as records:
            _refuse_second(records, self._data, self.command.name)
            self._popen = _spawn(self.command)
            records.extend(_recorded(self.command, self._popen.pid, self._data))

    def stop(self, grace: timedelta = timedelta(seconds=10)) -> None:
        """Ask it to end, then insist, and take its whole family with it. Does nothing when it has ended.

        Args:
            grace: How long it may take after the stop signal before it is killed.
        """
        self._end(self.command.stop_signal, grace)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL, timedelta(0))

    def _end(self, stop_signal: signal.Signals, grace: timedelta) -> None:
        if self._popen is None:
            return
        if self._popen.poll() is None:
            _end_family(psutil.Process(self._popen.pid), stop_signal, grace)
        self._popen.wait()
        _forget(self._data, self._popen.pid)


def end_leftovers(data: Path, grace: timedelta = timedelta(seconds=10)) -> tuple[str, ...]:
    """End the children of a parent that died without stopping them.

    Only a process whose pid and creation time both match the record, and whose recorded parent is dead, is ended.

    Args:
        data: The data folder.
        grace: How long each may take after its stop signal before it is killed.

    Returns:
        The names of those that were still alive.

    Raises:
        SandboxError: A leftover belongs to another account and cannot be ended by this one.
    """
    with _records(data) as records:
        orphans = [record for record in records if record.parent() is None]
        ended = tuple(record.name for record in orphans if _end_orphan(record, grace))
        records[:] = [record for record in records if record not in orphans]
    return ended


def refuse_second(data: Path, name: str) -> None:
    """Refuse to go on when a child of this name is alive on this data folder.

    Raises:
        SandboxError: It is; the message says which processes.
    """
    with _records(data) as records:
        _refuse_second(records, data, name)


def _refuse_second(records: Sequence[_Record], data: Path, name: str) -> None:
    alive = [record for record in records if record.name == name and record.process() is not None]
    if alive:
        raise SandboxError(
            f"{name} is already running on {data} as process {alive[0].pid}, started by process "
            f"{alive[0].parent_pid}: stop that one first, or choose another data folder",
        )


def _spawn(command: Command) -> subprocess.Popen[bytes]:
    account = command.account
    command.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = os.open(command.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - the programs are ours or come from a wheel; no shell
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=command.env,
            cwd=command.cwd,
            start_new_session=True,
            umask=0o077,  # what it writes is for its own account alone
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_die_with_parent(command.stop_signal),  # noqa: PLW1509 - two system calls, nothing that locks
        )
    except OSError as err:
        raise SandboxError(f"cannot start {command.name} from {command.argv[0]}: {err.strerror}") from err
    finally:
        os.close(log)


def _die_with_parent(signal_number: int) -> Callable[[], None] | None:
    """Return what the child runs before its program, or None where the kernel cannot help."""
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def _ask_kernel() -> None:
        # Runs after the change of account, which would clear the setting (prctl(2)).
        prctl(_PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:  # the parent died before the kernel was asked: nobody would tell us
            os.kill(os.getpid(), signal.SIGKILL)

    return _ask_kernel


def _same_process(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) <= _CLOCK_SLACK_S
    except psutil.Error:
        return None
    return process if same and _is_alive(process) else None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end_orphan(record: _Record, grace: timedelta) -> bool:
    process = record.process()
    if process is None:
        return False
    try:
        _end_family(process, signal.Signals(record.stop_signal), grace)
    except psutil.AccessDenied as err:
        raise SandboxError(
            f"{record.name} was left behind as process {record.pid} of another account: end it from that account",
        ) from err
    return True


def _end_family(leader: psutil.Process, stop_signal: signal.Signals, grace: timedelta) -> None:
    # PostgreSQL's backends leave the group of their postmaster, so the group alone would miss them.
    family = _descendants(leader)
    _signal(leader, stop_signal)
    if _still_alive([leader], grace.total_seconds()):
        _signal(leader, signal.SIGKILL)
    for process in _still_alive([leader, *family], _FAMILY_GRACE_S):
        _signal(process, signal.SIGKILL)
    _kill_group(leader.pid)
    _still_alive([leader, *family], _FAMILY_GRACE_S)


def _descendants(leader: psutil.Process) -> list[psutil.Process]:
    try:
        return leader.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _kill_group(group: int) -> None:
    # The leader had this pid as its group; the kernel gives the number to nobody while a member lives.
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _still_alive(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    alive = [process for process in processes if _is_alive(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        alive = [process for process in alive if _is_alive(process)]
    return alive


def _recorded(command: Command, pid: int, data: Path) -> list[_Record]:
    me = psutil.Process()
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:  # it ended at once; the caller finds out from `running` and the log
        return []
    stop_signal = int(command.stop_signal)
    return [_Record(command.name, pid, created, me.pid, me.create_time(), stop_signal, folder_mark(data))]


def _forget(data: Path, pid: int) -> None:
    with _records(data) as records:
        records[:] = [record for record in records if record.pid != pid]


@contextmanager
def _records(data: Path) -> Iterator[list[_Record]]:
    """Yield the records under a lock between processes; what the caller leaves in the list is written back."""
    make_folder(data)
    file = data / "children.json"
    with os.fdopen(os.open(data / "children.lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = [_Record(**row) for row in json.loads(file.read_text())] if file.exists() else []
        # A record without a folder is from an earlier version, which wrote none.
        records = [record for record in before if record.folder in {"", folder_mark(data)}]
        yield records
        if records != before:
            write_private(file, json.dumps([asdict(record) for record in records], indent=1))
