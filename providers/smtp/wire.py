"""A socket that keeps its caller's deadline byte by byte; it speaks no protocol.

Why: a socket's own time-out starts again with every byte that arrives, so a peer that drips one byte at a time, or
never ends a reply, holds a worker for ever. Here every single wait is cut to what is left of the total, and every
conversation has a most it may say. Only the name look-up is outside: the system's resolver has its own time-out.
"""

import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK_BYTES = 64 * 1024

Clock = Callable[[], float]


class Deadline:
    """The instant by which a whole exchange must be over, on a clock that never jumps."""

    def __init__(self, total_s: float, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + total_s

    def left(self, most_s: float) -> float:
        """Return how many seconds the next wait may last, at most `most_s`.

        Raises:
            TimeoutError: No time is left.
        """
        left_s = min(self._end - self._clock(), most_s)
        if left_s <= 0:
            raise TimeoutError("the total time for this exchange is over")
        return left_s


class TimedSocket:
    """A connected socket whose every wait ends by the deadline.

    Offers what `smtplib.SMTP` asks of its socket (`sendall`, `makefile`, `close`), so the standard library keeps
    speaking the protocol.

    Attributes:
        step_s: The longest single wait of the present step, in seconds.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline, *, step_s: float, max_bytes: int) -> None:
        self.step_s = step_s
        self._sock = sock
        self._deadline = deadline
        self._bytes_left = max_bytes

    def sendall(self, data: bytes) -> None:
        """Hand all of `data` to the system. When it raises, the last byte was not handed over.

        Raises:
            OSError: The peer is gone or takes too long.
        """
        rest = memoryview(data)
        while rest:
            # Piece by piece: on TLS the system's own sendall() would start its time-out again inside.
            self._arm()
            rest = rest[self._sock.send(rest[:_CHUNK_BYTES]) :]

    def receive_into(self, buffer: "WriteableBuffer") -> int:
        """Read what has arrived; return its length in bytes, 0 at the end of the stream.

        Raises:
            OSError: The peer is gone, takes too long or has said more than it may.
        """
        self._arm()
        got = self._sock.recv_into(buffer)
        self._bytes_left -= got
        if self._bytes_left < 0:
            raise OSError("the server sent more than max_response_bytes allows")
        return got

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a reader for whole lines; the mode is always "rb"."""
        return io.BufferedReader(_TimedReader(self))

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Turn the connection into TLS with a verified certificate for `host`.

        Raises:
            ssl.SSLCertVerificationError: The certificate is not trusted, has expired or names another host.
            OSError: The handshake failed, or the peer is gone or takes too long.
        """
        self._arm()
        self._sock = context.wrap_socket(self._sock, server_hostname=host)

    @property
    def encryption(self) -> str:
        """The TLS version in use, e.g. "TLSv1.3"; an empty text when the line is clear."""
        return (self._sock.version() or "") if isinstance(self._sock, ssl.SSLSocket) else ""

    @property
    def peer_is_loopback(self) -> bool:
        """True when the connected address, not just its name, is this machine."""
        return ipaddress.ip_address(self._sock.getpeername()[0]).is_loopback

    def close(self) -> None:
        """Close the connection; a second close does nothing."""
        self._sock.close()

    def _arm(self) -> None:
        self._sock.settimeout(self._deadline.left(self.step_s))


class _TimedReader(io.RawIOBase):
    def __init__(self, timed: TimedSocket) -> None:
        self._timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        return self._timed.receive_into(buffer)


def dial(host: str, port: int, deadline: Deadline, *, connect_s: float) -> socket.socket:
    """Return a connected socket, trying each address of the host once.

    Raises:
        OSError: No address answered in time; the last reason.
        UnicodeError: The host cannot be a host name.
    """
    reason = OSError("the host has no address")
    for family, kind, protocol, _name, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(deadline.left(connect_s))
            sock.connect(address)
        except OSError as err:
            sock.close()
            reason = err
        else:
            return sock
    raise reason
