"""The provider that every system of `benchmarks.compare` calls: one process, asyncio without a framework, no work.

It answers a WhatsApp message as the Graph API would, after a latency that can be set, and writes down when the first
byte of each message came. A message is known by its `biz_opaque_callback_data`, so that losses and doubles show.
`python -m benchmarks.rivals.provider` prints its port and runs until its standard input is closed.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

CONTROL = "/_bench/"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb'"biz_opaque_callback_data": ?"([^"]+)"')
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_SENT = (
    b'{"messaging_product":"whatsapp","contacts":[{"input":"+5511999990001","wa_id":"5511999990001"}],'
    b'"messages":[{"id":"wamid.%s"}]}'
)


@dataclass
class Tally:
    """What came in since the last reset.

    Attributes:
        arrivals: When the first byte of each message came, by id, in seconds of the system-wide monotonic clock.
        doubles: Messages beyond the first of their id.
        last_answer: When the last answer went out, on the same clock.
        in_flight: Calls that wait for their answer.
        most_at_once: The most of them.
    """

    latency_s: float = 0.0
    arrivals: dict[str, float] = field(default_factory=dict)
    doubles: int = 0
    last_answer: float = 0.0
    in_flight: int = 0
    most_at_once: int = 0

    def came(self, name: str, at: float) -> None:
        """Count one call."""
        self.in_flight += 1
        self.most_at_once = max(self.most_at_once, self.in_flight)
        self.doubles += name in self.arrivals
        self.arrivals.setdefault(name, at)

    def answered(self) -> None:
        """Count one answer."""
        self.in_flight -= 1
        self.last_answer = time.monotonic()


class Caller(asyncio.Protocol):
    """One connection of a caller; requests come one after the other, as HTTP clients send them."""

    def __init__(self, provider: "Provider") -> None:
        self._provider = provider
        self._buffer = b""
        self._since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment] # a server's transport writes

    def data_received(self, data: bytes) -> None:
        """Take up bytes, and answer each request that is whole."""
        if not self._buffer:
            self._since = time.monotonic()
        self._buffer += data
        while (end := _end(self._buffer)) is not None:
            request, self._buffer = self._buffer[:end], self._buffer[end:]
            self._take(request)

    def _take(self, request: bytes) -> None:
        found = _ID.search(request)
        if found is None:
            self._write(self._provider.told(request.split(b" ", 2)[1].decode()))
            return
        tally = self._provider.tally
        tally.came(found[1].decode(), self._since)
        answer = _SENT % found[1]
        if tally.latency_s:
            asyncio.get_running_loop().call_later(tally.latency_s, self._answer, tally, answer)
        else:
            self._answer(tally, answer)

    def _answer(self, tally: Tally, body: bytes) -> None:
        tally.answered()
        self._write(body)

    def _write(self, body: bytes) -> None:
        self._transport.write(_HEAD % len(body) + body)


@dataclass
class Provider:
    """The tally and its control routes."""

    tally: Tally = field(default_factory=Tally)

    def told(self, path: str) -> bytes:
        """Carry out a control request and return its JSON; anything else gets an empty object.

        Shape: GET /_bench/reset/100 (latency in ms) · /_bench/count · /_bench/report
        """
        word, _, value = path.removeprefix(CONTROL).partition("/")
        if not path.startswith(CONTROL):
            return b"{}"
        if word == "reset":
            self.tally = Tally(latency_s=int(value) / 1000)
        return json.dumps(self._report() if word == "report" else {"count": len(self.tally.arrivals)}).encode()

    def _report(self) -> Mapping[str, object]:
        tally = self.tally
        return {
            "arrivals": tally.arrivals,
            "doubles": tally.doubles,
            "last_answer": tally.last_answer,
            "most_at_once": tally.most_at_once,
        }


def _end(buffer: bytes) -> int | None:
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return None
    length = _LENGTH.search(buffer, 0, head + 2)
    end = head + 4 + (int(length[1]) if length else 0)
    return end if len(buffer) >= end else None


async def _serve() -> None:
    provider = Provider()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Caller(provider), "127.0.0.1", 0, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)  # whoever started us closes it, also by dying
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
