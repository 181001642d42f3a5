"""What the attacks on the doors send, each in a process of its own: `python -m tests.attacks.senders NAME HOST PORT`.

It imports little, so that its start costs the machine next to nothing, and says `sending` when it begins. `nothing` is
no sender but a server: it reads what comes and closes the connection after a while, and says on which port.
"""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

from config.api_key_text import new_api_key

_HOOK = "/webhooks/whatsapp/default"
_PROOF = f"X-Hub-Signature-256: sha256={'0' * 64}"
_MOST_OPEN = 800
_HELD_S = 3  # as long as the web process makes strangers wait


class _Nothing(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if b"\r\n\r\n" in data:
            held_s = _HELD_S + (id(self) % 100 - 50) / 50  # not the same for each, as there
            asyncio.get_running_loop().call_later(held_s, self.transport.close)


def nothing(host: str, port: int) -> None:
    """Serve nothing."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Nothing, host, port, backlog=2048)
        _say(str(server.sockets[0].getsockname()[1]))
        await asyncio.sleep(3600)

    asyncio.run(serve())


def guess_keys(host: str, port: int) -> None:
    """Send 2,000 well-formed wrong keys a second."""
    asyncio.run(_each_second(host, port, 2000, lambda: _get("/v1/deliveries", new_api_key())))


def ask_unknown_paths(host: str, port: int) -> None:
    """Ask 2,000 times a second for a path that there is not."""
    asyncio.run(_each_second(host, port, 2000, lambda: _get("/wp-login.php", None)))


def read_metrics(host: str, port: int) -> None:
    """Read the metrics with 40 readers."""

    async def read() -> None:
        await asyncio.gather(*(_again(host, port, _get("/metrics", None)) for _ in range(40)))

    asyncio.run(read())


def hold_webhooks(host: str, port: int) -> None:
    """Hold 500 connections with the head of a webhook and no body."""
    head = f"POST {_HOOK} HTTP/1.1\r\nHost: x\r\n{_PROOF}\r\nContent-Length: 1000\r\n\r\n".encode()

    async def hold() -> None:
        await asyncio.gather(*(_again(host, port, head) for _ in range(500)))

    asyncio.run(hold())


def send_bodies(host: str, port: int) -> None:
    """Send 43 unsigned bodies of 3 MB, again and again."""
    head = f"POST {_HOOK} HTTP/1.1\r\nHost: x\r\n{_PROOF}\r\nContent-Length: 3000000\r\n\r\n".encode()
    body = head + b" " * 3_000_000

    async def send() -> None:
        await asyncio.gather(*(_again(host, port, body, pause_s=1) for _ in range(43)))

    asyncio.run(send())


def drip_headers(host: str, port: int) -> None:
    """Send one byte of a header on each of 600 connections now and then."""
    with ExitStack() as stack:
        while True:
            socks = [stack.enter_context(socket.create_connection((host, port))) for _ in range(600)]
            for _ in range(5):
                for each in socks:
                    with suppress(OSError):
                        each.send(b"X")
                time.sleep(1)
            stack.close()


def do_all(host: str, port: int) -> None:
    """Hold webhooks, send bodies and guess keys."""
    for each in (hold_webhooks, send_bodies):
        threading.Thread(target=each, args=(host, port), daemon=True).start()
    guess_keys(host, port)


def _get(path: str, key: str | None) -> bytes:
    proof = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{proof}\r\n".encode()


async def _each_second(host: str, port: int, times: int, request: Callable[[], bytes]) -> None:
    """Begin so many requests a second, each on a connection of its own, as long as not too many are unanswered."""
    tasks: set[asyncio.Task[None]] = set()
    started, begun = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - started) * times)
        for _ in range(min(due - begun, _MOST_OPEN - len(tasks))):
            task = asyncio.create_task(_once(host, port, request()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        begun = due
        await asyncio.sleep(0.005)


async def _again(host: str, port: int, request: bytes, pause_s: float = 0.05) -> None:
    while True:
        await _once(host, port, request)
        await asyncio.sleep(pause_s)


async def _once(host: str, port: int, request: bytes) -> None:
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(request)
            await reader.read(65536)
        finally:
            writer.close()


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


_ALL: Mapping[str, Callable[[str, int], None]] = {
    each.__name__: each
    for each in (
        nothing, guess_keys, ask_unknown_paths, read_metrics, hold_webhooks, send_bodies, drip_headers, do_all
    )
}  # fmt: skip

if __name__ == "__main__":
    _, chosen, to_host, to_port = sys.argv
    if chosen != "nothing":
        _say("sending")
    _ALL[chosen](to_host, int(to_port))
