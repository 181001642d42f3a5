"""Where the system that runs in a data folder answers: `entrega up` writes it down, every other process reads it.

So a second terminal, a producer or `celery -A worker worker` in the same folder finds the embedded servers without any
variable set. What the environment says always wins.

One system runs in a folder. It holds a lock on a file there as long as it lives, and the kernel frees the lock however
it ends. What was written down is believed only while that lock is held, and only in the folder it was written for: a
copy of the folder, or a file that a killed system left behind, says nothing.
"""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from config.kept_text import kept_text

_NAME = "running.json"
_LOCK = "running.lock"
# A process that asks whether the lock is held has it for a moment itself.
_PATIENCE_S = 1.0
_PAUSE_S = 0.05


class AlreadyRunning(Exception):
    """Another system runs in this data folder; the message says where, and what to do."""


class Occupied:
    """A data folder that belongs to this process's system, until `leave`."""

    def __init__(self, data: Path, lock: IO[str]) -> None:
        self._data = data
        self._lock = lock

    def answers_at(self, url: str) -> None:
        """Note where the system will answer, for the message that refuses another one."""
        _write_lock(self._lock, url)

    def announce(self, variables: Mapping[str, str]) -> None:
        """Write down where the system answers, readable by its owner only.

        Args:
            variables: Environment variables by name, e.g. {"DATABASE_URL": "postgresql://..."}.
        """
        file = self._data / _NAME
        draft = file.with_suffix(".draft")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump({"folder": folder_mark(self._data), "variables": dict(variables)}, out)
        draft.replace(file)

    def retract(self) -> None:
        """Take back what `announce` wrote."""
        (self._data / _NAME).unlink(missing_ok=True)

    def leave(self) -> None:
        """Take back what was announced, and let another system have the folder."""
        self.retract()
        self._lock.close()


def occupy(data: Path) -> Occupied:
    """Take a data folder, which exists, for the system of this process; nothing else in it is touched.

    Raises:
        AlreadyRunning: Another system runs there.
    """
    lock = os.fdopen(os.open(data / _LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    deadline = time.monotonic() + _PATIENCE_S
    while not _locked(lock, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            refusal = _refusal(data, lock.read())
            lock.close()
            raise AlreadyRunning(refusal)
        time.sleep(_PAUSE_S)
    _write_lock(lock, None)
    return Occupied(data, lock)


def announced(data: Path) -> Mapping[str, str]:
    """Return the variables of the system that runs in this folder; empty when none does."""
    try:
        found = json.loads((data / _NAME).read_text())
        if found["folder"] != folder_mark(data) or not _is_held(data / _LOCK):
            return {}
        return {str(name): str(value) for name, value in found["variables"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def servers_folder(data: Path, environment: str) -> Path:
    """Return where the embedded servers of an environment keep their data: each has a ledger and a broker of its own.

    The environment that used the data folder first has the folder itself, another one a folder in it.
    """
    first = kept_text(data / "environment", lambda: environment)
    return data if first == environment else data / environment


def folder_mark(folder: Path) -> str:
    """Return what tells a folder from every copy of it on this machine."""
    found = folder.stat()
    return f"{found.st_dev}:{found.st_ino}"


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment for a process of ours: what stands in our own, and these variables over it."""
    return {**os.environ, **variables}


def clear_metrics_folder(folder: Path) -> None:
    """Make the folder ready for a new start of the whole system; Prometheus understands counters that begin again.

    Only for the starter, before any process counts: the files of finished processes are otherwise kept for ever.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for each in folder.glob("*.db"):
        each.unlink(missing_ok=True)


def _locked(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(file: Path) -> bool:
    with file.open() as lock:
        return not _locked(lock, fcntl.LOCK_SH)


def _write_lock(lock: IO[str], url: str | None) -> None:
    lock.seek(0)
    lock.truncate()
    json.dump({"pid": os.getpid(), "url": url}, lock)
    lock.flush()


def _refusal(data: Path, written: str) -> str:
    where, process = "it is still starting", "another process"
    with suppress(ValueError, KeyError, TypeError):
        found = json.loads(written)
        where, process = found["url"] or where, f"process {int(found['pid'])}"
    return (
        f"Entrega already runs in {data}: {where} ({process}). Use that one, or stop it first; "
        f"for a second system choose another folder with ENTREGA_DATA and another ENTREGA_PORT."
    )
