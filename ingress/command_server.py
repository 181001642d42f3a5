"""The command server: carries commands of the command line out in a process that has everything loaded.

`entrega up` runs it beside the worker. Each command gets a forked child with the caller's arguments, folder,
environment and streams, so it behaves as if the caller had run it. The socket belongs to the account that runs the
system: the kernel lets no other connect. Why: docs/adr/0027.
"""

import atexit
import fcntl
import gc
import io
import json
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from socketserver import BaseRequestHandler, ForkingMixIn, UnixStreamServer
from typing import Any

from ingress.entry import LENGTH_BYTES, SOCKET

_REQUEST_WITHIN_S = 5
# What the served commands import; the first one would otherwise pay for each.
_LOADED = (
    "celery.app.amqp", "ingress.cli", "ingress.doctor", "ingress.editing", "ingress.printing", "ledger.operating",
    "ledger.reading", "tasks", "tasks.logs", "tasks.transport", "worker.breaker", "worker.limits", "worker.wiring",
)  # fmt: skip


class _Server(ForkingMixIn, UnixStreamServer):
    request_queue_size = 64
    max_children = 16


class _Command(BaseRequestHandler):
    """One command, in a process of its own."""

    def handle(self) -> None:
        caller: socket.socket = self.request
        caller.settimeout(_REQUEST_WITHIN_S)
        request, streams = _received(caller)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # The caller's Ctrl-C closes the connection; the signal that this makes ends us as Ctrl-C would.
        fcntl.fcntl(caller, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(caller, fcntl.F_SETFL, fcntl.fcntl(caller, fcntl.F_GETFL) | os.O_ASYNC)
        _become(request, streams)
        code = _exit_code()
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        caller.sendall(bytes([code]))


def main(folder: Path) -> int:
    """Serve until SIGTERM; return the exit code."""
    for name in _LOADED:
        import_module(name)
    gc.freeze()  # forked children share what is loaded
    path = folder / SOCKET
    path.unlink(missing_ok=True)
    before = os.umask(0o177)  # the socket is made readable and writable by its owner alone
    with _Server(str(path), _Command) as server:
        os.umask(before)
        server.serve_forever()
    return 0


def _received(caller: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, streams, _, _ = socket.recv_fds(caller, LENGTH_BYTES, 3)
    left = int.from_bytes(head, "big")
    chunks = []
    while left:
        chunk = caller.recv(min(left, 65536))
        if not chunk:
            raise ConnectionError("the caller went away")
        chunks.append(chunk)
        left -= len(chunk)
    return json.loads(b"".join(chunks)), streams


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Take the caller's place: streams, folder, environment, arguments."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    encoding = request["encoding"] or "utf-8"
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding=encoding)
    sys.stdout = _writer(1, encoding, "strict")
    sys.stderr = _writer(2, encoding, "backslashreplace")
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]


def _writer(number: int, encoding: str, errors: str) -> io.TextIOWrapper:
    raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding=encoding, errors=errors, line_buffering=os.isatty(number))


def _exit_code() -> int:
    from ingress.cli import main as run

    try:
        run()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
        traceback.print_exc()
        code = 1
    else:
        code = 0
    atexit._run_exitfuncs()  # noqa: SLF001 - a forked child leaves without them, and wake-ups are published there
    with suppress(BrokenPipeError):  # `entrega deliveries | head`
        sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0) & 0xFF
