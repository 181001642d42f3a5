"""The sockets under `providers.http`: a total deadline for each call, and connections that go where they may.

What requests and urllib3 do not offer: a read time-out that does not start afresh with every byte, no second use of a
connection that rested for long, a say in which addresses a name may stand for, and answers with an unusual head:
interim answers, many headers, long ones.
"""

import http.client
import io
import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, LocationValueError, NameResolutionError, SSLError

from config.policy import TlsVersion

TLS_VERSIONS: Mapping[TlsVersion, ssl.TLSVersion] = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# Servers and gateways commonly close connections after 30 to 60 s without a word; a request that meets such a close
# cannot be told from one that was carried out. (Source: advice in urllib3 and gateway manuals, read 2026-11-22.)
_IDLE_S = 25.0
# Bounds of an answer's head: our own choice, far beyond what any server means.
_LONGEST_HEAD, _LONGEST_HEADER, _MOST_HEADERS, _MOST_INTERIM = 1_000_000, 65_000, 99, 100
_ENDS = frozenset({b"\r\n", b"\n"})
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)\d\d\b")
_NEEDED = re.compile(
    rb"(?:content-(?:length|encoding|type)|transfer-encoding|connection|date|retry-after)[ \t]*:", re.IGNORECASE
)
# Scheme, host and port to the addresses that may be connected to, in the order of preference.
Reach = Callable[[str, str, int], Sequence[str]]


class Unreachable(LocationValueError):
    """A URL leads where this client must not go; nothing was sent."""


# When the call of this thread must be over, by the monotonic clock. The session offers no way to hand it down.
call_ends_at: ContextVar[float] = ContextVar("ends_at", default=math.inf)


class HandshakeFailed(SSLError):
    """TLS never stood, so no byte of the request left; an `SSLError` alone may come after the request."""


class _TimedReader(io.RawIOBase):
    """Reads a socket until a moment: a read time-out alone starts afresh with every byte that drips in."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, ends_at: float) -> None:
        self._sock = sock
        self._raw = raw
        self._ends_at = ends_at
        self._read_s = sock.gettimeout() or math.inf

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the total time of the call is used up")
        if left < self._read_s:
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Head:
    """The head of the final answer, line by line, as `http.client` can read it.

    Every interim answer is read past. The library takes 100 headers of 64 kB: of more, those that every answer is
    read by, and those that come first, are handed on; a longer one is left out.

    Source: RFC 9110, section 15.2, "A client MUST be able to parse one or more 1xx responses"; 101 ends the exchange.
    Read 2026-11-30.
    """

    def __init__(self, wire: io.BufferedReader) -> None:
        self._wire = wire
        self._lines: Iterator[bytes] | None = None

    def readline(self, _most: int = -1) -> bytes:
        if self._lines is None:
            self._lines = iter(self._final())
        return next(self._lines, b"")

    def close(self) -> None:
        self._wire.close()

    def _final(self) -> list[bytes]:
        left = _LONGEST_HEAD
        for _ in range(_MOST_INTERIM):
            lines = list(self._read(left))
            left -= sum(map(len, lines))
            if not lines or not _INTERIM.match(lines[0]):
                return lines[:1] + _readable(lines[1:])
        raise http.client.HTTPException(f"more than {_MOST_INTERIM} interim answers")

    def _read(self, left: int) -> Iterator[bytes]:
        """Read one head, up to its empty line or the end of the connection."""
        while line := self._wire.readline(left + 1):
            left -= len(line)
            if left < 0:
                raise http.client.HTTPException(f"a head of more than {_LONGEST_HEAD} bytes")
            yield line
            if line in _ENDS:
                return


def _readable(lines: Sequence[bytes]) -> list[bytes]:
    headers: list[bytes] = []
    for line in lines:
        if headers and line[:1] in {b" ", b"\t"}:  # it goes on with the header before it
            headers[-1] = headers[-1].rstrip(b"\r\n") + line
        else:
            headers.append(line)
    ends = headers[-1:] if headers and headers[-1] in _ENDS else []
    fit = [each for each in headers if len(each) <= _LONGEST_HEADER and each not in _ENDS]
    return sorted(fit, key=lambda each: not _NEEDED.match(each))[:_MOST_HEADERS] + ends


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
        super().__init__(sock, debuglevel, method)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_TimedReader(sock, raw, call_ends_at.get()))

    def begin(self) -> None:
        if self.headers is not None:
            return
        wire = self.fp
        self.fp = _Head(wire)  # the head is read from it, and nothing else
        try:
            super().begin()
        finally:
            if self.fp is not None:  # None: there was no status, and the library closed it
                self.fp = wire


class _Connection(HTTPConnection):
    """A connection that reads no longer than the call may last, and is not used again after long idleness."""

    response_class = _TimedResponse
    _used_at = -math.inf
    _held: bytearray | None = None

    def __init__(self, *args: Any, reach: Callable[[str, int], Sequence[str]] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reach = reach

    def _new_conn(self) -> socket.socket:
        if self._reach is None:
            return super()._new_conn()
        try:
            addresses = self._reach(self.host, self.port or self.default_port)
        except OSError as err:
            raise NameResolutionError(self.host, self, err) from err  # type: ignore[arg-type]  # as gaierror is
        return self._connected(addresses)

    def _connected(self, addresses: Sequence[str]) -> socket.socket:
        *others, last = addresses
        for address in others:
            with suppress(ConnectTimeoutError):
                return self._connected_to(address)
        return self._connected_to(last)

    def _connected_to(self, address: str) -> socket.socket:
        name = self._dns_host
        self._dns_host = address  # urllib3 uses it for the name look-up and for nothing else
        try:
            return super()._new_conn()
        finally:
            self._dns_host = name

    def request(self, *args: Any, **options: Any) -> None:
        """Send head and body together; urllib3 gives each a packet, and a second trip into the kernel."""
        self._held = whole = bytearray()
        try:
            super().request(*args, **options)
        finally:
            self._held = None
        self.send(whole)

    def send(self, data: Any) -> None:
        if self._held is None:
            super().send(data)
        else:
            self._held += data

    @property
    def is_connected(self) -> bool:
        return time.monotonic() - self._used_at < _IDLE_S and super().is_connected

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # urllib3 does the same
        self._used_at = time.monotonic()
        return super().getresponse()


class _SecureConnection(_Connection, HTTPSConnection):
    def connect(self) -> None:
        try:
            super().connect()
        except OSError as err:  # name look-up, refusal and time-out of TCP speak through classes of their own
            raise HandshakeFailed(err) from err


class Pool(HTTPConnectionPool):
    """Connections over plain TCP to one host."""

    ConnectionCls = _Connection


class SecurePool(HTTPSConnectionPool):
    """Connections over TLS to one host."""

    ConnectionCls = _SecureConnection
