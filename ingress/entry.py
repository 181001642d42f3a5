"""Where `entrega` begins: the command goes to the command server of the running system, or is carried out here.

Loading SQLAlchemy, Celery and Redis takes longer than most commands do. `entrega up` keeps a process that has them
loaded (`ingress.command_server`). This module imports the standard library only, so that asking it costs little. Where
no server answers, the command runs in this process and does the same.
"""

import array
import json
import os
import socket
import sys
from pathlib import Path

SOCKET = "commands.sock"
LENGTH_BYTES = 4
_INTERRUPTED = 130
# Commands that answer and end. The others stay in this process: they ask at the terminal, run long, or concern the
# data folder itself.
_SERVED = frozenset({
    "approvals", "breaker", "callbacks", "cancel", "dead-letters", "deliveries", "doctor", "limits", "pause",
    "producers", "resume", "rollout", "show", "submit", "verify",
})  # fmt: skip


def main() -> None:
    """Run the command line."""
    try:
        code = _served(sys.argv)
    except KeyboardInterrupt:  # the connection closes, which ends the command
        code = _INTERRUPTED
    if code is not None:
        sys.exit(code)
    from ingress.cli import main as run

    run()


def _served(argv: list[str]) -> int | None:
    """Have the command server carry the command out; return its exit code, or None where there is no server."""
    folder = _data_folder()
    if len(argv) < 2 or argv[1] not in _SERVED or folder is None:  # noqa: PLR2004 - a command
        return None
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(str(folder / SOCKET))
            _hand_over(server, argv)
        except (OSError, AttributeError):  # nothing runs here, or for another account; a stream of ours is closed
            return None
        answer = server.recv(1)
    if not answer:
        sys.stderr.write(
            "The command server ended before it answered; see logs/commands.log in the data folder. What the command"
            " does may have happened: look before you give it again.\n"
        )
        return 1
    return answer[0]


def _data_folder() -> Path | None:
    """Return the data folder, or None where only the settings know it."""
    named = os.environ.get("ENTREGA_DATA")
    if named is None and Path(".env").exists():
        return None
    return Path(named or ".entrega")


def _hand_over(server: socket.socket, argv: list[str]) -> None:
    """Send the command with our three streams: what it prints goes straight to our terminal or pipe."""
    request = {
        "argv": argv,
        "cwd": str(Path.cwd()),
        "environment": dict(os.environ),
        "encoding": sys.stdout.encoding,
    }
    body = json.dumps(request).encode()
    streams = array.array("i", [sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno()])
    server.sendmsg([len(body).to_bytes(LENGTH_BYTES, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    server.sendall(body)
