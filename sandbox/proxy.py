"""A TCP fault proxy on 127.0.0.1: it stands in front of one server and hurts connections as a network does.

The kinds follow the toxics of Shopify's toxiproxy (README, read 2026-11-22), with some of our own: `lose_answer`
carries the request over and the answer never, `half_open` stops reading without closing, `cut_before` and `cut_after`
end a connection at certain bytes of the client, and `impostor` sends new connections to another server.
"""

import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self, get_args

from sandbox.doors import free_port

Kind = Literal[
    "latency", "reset", "black_hole", "cut", "slow_bytes", "half_open", "lose_answer",
    "cut_before", "cut_after", "impostor",
]  # fmt: skip
_CHUNK = 65536
_CONNECT_S = 5.0
_AT_PATTERN = frozenset({"cut_before", "cut_after"})
_CARRIED_OUT_S = 0.2  # so that the server has done what the piece asks for
_CLOSE_WITH_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: close() sends RST. Source: socket(7)


@dataclass(frozen=True)
class Hurt:
    """What happens to connections while it is set; also to those that are open already.

    Attributes:
        kind: `latency` waits `seconds` before each piece; `reset` ends with RST at the first piece of the client;
            `black_hole` swallows what the client sends; `cut` lets `size` bytes of answers through and closes;
            `slow_bytes` lets one byte of the answer through every `seconds`; `half_open` reads nothing and closes
            nothing; `lose_answer` carries requests over and swallows answers; `cut_before` ends the connection in
            place of handing on a piece of the client that holds `pattern`, `cut_after` hands it on but nothing comes
            back; `impostor` connects new clients to `port`.
        seconds: For `latency` and `slow_bytes`.
        size: For `cut`, in bytes.
        pattern: For `cut_before` and `cut_after`, e.g. what a database client sends to commit.
        port: For `impostor`, on 127.0.0.1.
    """

    kind: Kind
    seconds: float = 0.2
    size: int = 20
    pattern: bytes = b""
    port: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown kind {self.kind!r}; wanted one of {', '.join(get_args(Kind))}")


class Proxy:
    """Forwards connections to a server, faithfully until `hurt` is called."""

    def __init__(self, target_port: int, port: int = 0) -> None:
        self.port = port or free_port()
        self.struck: Counter[str] = Counter()
        self._target = ("127.0.0.1", target_port)
        self._hurt: Hurt | None = None
        self._ended = threading.Event()
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._muted: set[socket.socket] = set()  # servers whose answers are swallowed
        self._listener = socket.socket()

    @property
    def url(self) -> str:
        """Return `http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Listen and forward, in threads of its own; returns itself."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(256)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the door and every connection."""
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._drop_all()

    def hurt(self, how: Hurt) -> None:
        """Do this from now on."""
        self._hurt = how
        self._changed.clear()

    def heal(self) -> None:
        """Forward faithfully again; connections that were hurt are closed, for their streams are broken."""
        if self._hurt is not None:
            self._hurt = None
            self._changed.set()
            self._drop_all()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()
            except OSError:  # closed by `stop`
                return

    def _serve(self, client: socket.socket) -> None:
        how = self._hurt
        target = ("127.0.0.1", how.port) if how is not None and how.kind == "impostor" else self._target
        try:
            server = socket.create_connection(target, _CONNECT_S)
        except OSError:
            client.close()
            return
        for each in (client, server):
            each.settimeout(None)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open |= {client, server}
        threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()
        self._pump(client, server, answers=False)

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:  # noqa: FBT001 - a thread's target
        with suppress(OSError):
            while piece := source.recv(_CHUNK):
                how = self._hurt
                if how is None:
                    sink.sendall(piece)
                elif not self._pass(how, piece, source, sink, answers=answers):
                    break
        self._close(source, sink)

    def _pass(self, how: Hurt, piece: bytes, source: socket.socket, sink: socket.socket, *, answers: bool) -> bool:
        """Hand one piece on as the hurt wants it; return whether the connection goes on."""
        if how.kind in _AT_PATTERN:
            return self._pass_until(how, piece, source, sink, answers=answers)
        self.struck[how.kind] += 1
        match how.kind, answers:
            case "latency", _:
                self._wait(how.seconds)
                sink.sendall(piece)
            case "reset", False:
                source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_WITH_RESET)
                return False
            case "half_open", _:
                self._changed.wait(60)
                return False
            case ("black_hole", _) | ("lose_answer", True):
                return True
            case "cut", True:
                sink.sendall(piece[: how.size])
                return False
            case "slow_bytes", True:
                for n in range(len(piece)):
                    self._wait(how.seconds if self._hurt else 0)
                    sink.sendall(piece[n : n + 1])
            case _:
                sink.sendall(piece)
        return True

    def _pass_until(
        self, how: Hurt, piece: bytes, source: socket.socket, sink: socket.socket, *, answers: bool
    ) -> bool:
        if source in self._muted:
            return True
        if answers or how.pattern not in piece:
            sink.sendall(piece)
            return True
        self.struck[how.kind] += 1
        if how.kind == "cut_after":
            self._muted.add(sink)
            sink.sendall(piece)
            self._wait(_CARRIED_OUT_S)
        return False

    def _wait(self, seconds: float) -> None:
        self._changed.wait(seconds)

    def _close(self, *connections: socket.socket) -> None:
        with self._lock:
            self._open -= set(connections)
            self._muted -= set(connections)
        for each in connections:
            with suppress(OSError):
                # Wakes the thread that reads the other direction; a lingering reset is sent by close().
                if each.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) != _CLOSE_WITH_RESET:
                    each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _drop_all(self) -> None:
        with self._lock:
            connections = list(self._open)
        for each in connections:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
