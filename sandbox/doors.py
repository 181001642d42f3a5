"""The data folder and the doors of embedded servers: private files, logs, free ports, kept passwords.

A door is remembered, so that a restarted server is found at the address its clients already have.
"""

import json
import os
import secrets
import socket
import threading
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

# Below the range from which Linux, macOS and the BSDs take ports for outgoing connections (32768 and up):
# nobody takes a port from here by accident while a server is being restarted.
_PORTS = range(15_000, 30_000)
# What this process was given and may not have opened yet: two servers of one system must not get the same port.
_given: deque[int] = deque(maxlen=1000)


class SandboxError(Exception):
    """A part of the sandbox cannot start or stop; the message says what to do next."""


@dataclass(frozen=True)
class Door:
    """Where an embedded server listens on 127.0.0.1, and the password that opens it."""

    port: int
    password: str


def remembered_door(file: Path) -> Door:
    """Return the door kept in `file`, made at the first call; another port only if the kept one is taken.

    The file holds the password and is readable by its owner only.
    """
    kept = json.loads(file.read_text()) if file.exists() else {}
    door = Door(free_port(kept.get("port")), kept.get("password") or secrets.token_hex(24))
    write_private(file, json.dumps(asdict(door)))
    return door


def free_port(preferred: int | None = None) -> int:
    """Return a TCP port on which 127.0.0.1 can be listened to: the preferred one if it is free.

    Raises:
        SandboxError: No free port was found.
    """
    candidates = [preferred] if preferred else []
    candidates += [port for port in (secrets.choice(_PORTS) for _ in range(50)) if port not in _given]
    for port in candidates:
        if _is_free(port):
            _given.append(port)
            return port
    raise SandboxError(f"no free TCP port between {_PORTS.start} and {_PORTS.stop} on 127.0.0.1: end what holds them")


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
    draft.replace(file)


def make_folder(folder: Path) -> None:
    """Make a folder of ours, closed to listing by others.

    Made by root it can still be passed through, because PostgreSQL refuses to run as root and its account has to reach
    the folder below; what lies in it is private file by file.
    """
    folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)


def make_private_folder(folder: Path) -> None:
    """Make a folder of ours that no other account can enter, root's among them; one that was open is closed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def append_private(file: Path, text: str) -> None:
    """Append to a file that only its owner can read."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as out:
        out.write(text)


def log_tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log, for an error message."""
    if not log.exists():
        return "(no log was written)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
