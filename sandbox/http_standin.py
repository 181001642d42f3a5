"""A stand-in server: one HTTP API on a real socket, with a plan of faults and a ledger of what it really did.

It owns sockets, faults, the rate limit, counters and the control routes under `/_standin/`; what the API means is the
business of an `Api` (`sandbox.crm`, `sandbox.graph`). It trusts nobody's clock and keeps everything in memory.

Control routes: GET effects (?from=N leaves out the first N) | arrivals | counters | faults, POST faults (append) |
settings | hear | reset, DELETE faults.
"""

import json
import math
import socket
import sys
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from email.message import Message
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from sandbox.doors import free_port
from sandbox.faults import Fault, FaultPlan, RateLimit, Window, settings_from
from sandbox.tally import Tally

_CONTROL = "/_standin/"
_MAX_BODY = 10 * 1024 * 1024
_JSON = "application/json; charset=utf-8"


@dataclass(frozen=True)
class Call:
    """One complete request, as it stood on the wire."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes

    @cached_property
    def parsed(self) -> object:
        """The body as JSON; None when it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def bearer(self) -> str | None:
        """Return the Bearer token; None when there is none."""
        scheme, _, token = str(self.headers.get("Authorization", "")).partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None


@dataclass(frozen=True)
class Answer:
    """One answer: `body` is sent as JSON, or as it is when it is a string."""

    status: int
    body: object
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = _JSON

    def payload(self) -> bytes:
        """Return the bytes of the body."""
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


class Api(Protocol):
    """What a stand-in imitates. Every method is called from many threads."""

    def labels(self, call: Call) -> Collection[str]:
        """Return the operation and the delivery id of a request: what a fault may be matched on."""

    def is_limited(self, call: Call) -> bool:
        """Tell whether the request counts for the rate limit."""

    def see(self, call: Call) -> None:
        """Count a complete request, before anything is done with it."""

    def answer(self, call: Call) -> Answer:
        """Carry the request out and answer it."""

    def error(self, fault: Fault) -> Answer:
        """Return this API's own error answer for a `status` or `graph_error` fault."""

    def too_many(self, wait_s: float) -> Answer:
        """Return this API's answer to a request above the limit."""

    def expire_tokens(self) -> None:
        """Make every token handed out so far worthless."""

    def effects(self) -> list[dict[str, object]]:
        """Return one entry for each thing really done, oldest first; each has a `key`: the delivery id."""

    def reset(self) -> None:
        """Forget all effects and state."""

    def configure(self, settings: Mapping[str, object]) -> None:
        """Apply the API's own settings; raises ValueError for a wrong value."""

    def hear(self, value: object) -> None:
        """Let a person do something, e.g. answer a message; raises ValueError for what nobody can do here."""

    @property
    def settings(self) -> Collection[str]:
        """Return the names of the API's own settings."""


class HttpStandin:
    """One API on 127.0.0.1. `start` and `stop` may alternate; the port stays."""

    def __init__(self, api: Api, port: int = 0) -> None:
        """Describe the server.

        Args:
            api: What it imitates.
            port: Where it listens; 0 chooses a free port that outgoing connections never take.
        """
        self.api = api
        self.port = port or free_port()
        self.faults = FaultPlan()
        self._window: Window | None = None
        self._latency_s = 0.0
        self._tally = Tally()
        self._server: _Server | None = None
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """Return the base URL, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen and answer, in threads of its own."""
        self._stopping.clear()
        self._server = _Server(("127.0.0.1", self.port), self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Close the port and every open connection, as a dead server would. Effects are kept."""
        if self._server is None:
            return
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections()
        self._server = None

    def plan(self, fault: Fault) -> None:
        """Append a fault."""
        self.faults.add(fault)

    def plan_json(self, value: object) -> None:
        """Append a fault in its JSON form.

        Raises:
            ValueError: It is not a fault.
        """
        self.plan(Fault.from_json(value))

    def clear_faults(self) -> None:
        """Forget the faults that are still to come."""
        self.faults.clear()

    def coming_faults(self) -> list[dict[str, object]]:
        """Return the faults that are still to come."""
        return self.faults.coming()

    def effects(self) -> list[dict[str, object]]:
        """Return what was really done, oldest first."""
        return self.api.effects()

    def counters(self) -> dict[str, dict[str, int]]:
        """Return the number of requests per "METHOD path" and status.

        "closed" stands for no answer, "truncated" for half a body.

        Shape: {"POST /api/v1/leads": {"201": 3, "closed": 1}}
        """
        return self._tally.counters()

    def arrivals(self) -> list[float]:
        """Return when each complete write came that a provider would count, in Unix seconds, whatever became of it."""
        return self._tally.arrivals()

    def configure(self, value: object) -> None:
        """Apply settings: `rate_limit` (or null), `latency_s` (before every answer), and those of the API.

        Raises:
            ValueError: A name or value is wrong; nothing else of the request is promised then.
        """
        settings = settings_from(value, {"rate_limit", "latency_s", *self.api.settings})
        if "rate_limit" in settings:
            limit = settings["rate_limit"]
            self._window = None if limit is None else Window(RateLimit.model_validate(limit))
        if "latency_s" in settings:
            self._latency_s = float(str(settings["latency_s"]))
        self.api.configure({name: value for name, value in settings.items() if name in self.api.settings})

    def reset(self) -> None:
        """Forget effects, counters, faults, the rate limit and the latency."""
        self.faults.clear()
        self._window, self._latency_s = None, 0.0
        self.api.reset()
        self._tally.clear()

    def control(self, call: Call) -> Answer:
        """Answer a control request."""
        try:
            return self._control(f"{call.method} {call.path.removeprefix(_CONTROL)}", call)
        except ValueError as err:
            return Answer(400, {"error": str(err)})

    def _control(self, route: str, call: Call) -> Answer:
        match route:
            case "GET effects":
                return Answer(200, {"effects": self.effects()[int(call.query.get("from", ["0"])[0]) :]})
            case "GET arrivals":
                return Answer(200, {"arrivals": self.arrivals()})
            case "GET counters":
                return Answer(200, {"requests": self.counters()})
            case "GET faults":
                return Answer(200, {"faults": self.coming_faults()})
            case "POST faults":
                self.plan_json(call.parsed)
            case "DELETE faults":
                self.clear_faults()
            case "POST settings":
                self.configure(call.parsed)
            case "POST hear":
                self.api.hear(call.parsed)
            case "POST reset":
                self.reset()
            case _:
                return Answer(404, {"error": f"no control route {route}"})
        return Answer(200, {"ok": True})

    def serve(self, call: Call, wire: "_Wire") -> None:
        """Answer one request of the imitated API, or do the wrong thing that is planned for it."""
        labels = {call.path, f"{call.method} {call.path}", *self.api.labels(call)}
        self.api.see(call)
        if call.method == "POST" and self.api.is_limited(call):
            self._tally.arrived()
        fault = self.faults.take(labels)
        self._pause(self._latency_s)
        if fault is None or fault.expire_tokens:
            if fault is not None:
                self.api.expire_tokens()
            self._send(call, wire, self._answer(call))
        else:
            self._misbehave(call, wire, fault)

    def _answer(self, call: Call) -> Answer:
        window = self._window
        if window is not None and self.api.is_limited(call):
            wait_s = window.refuse(time.monotonic())
            if wait_s is not None:
                return self.api.too_many(wait_s)
        return self.api.answer(call)

    def _misbehave(self, call: Call, wire: "_Wire", fault: Fault) -> None:
        answer = self._answer(call) if fault.acts else None
        self._pause(fault.hang_s or 0.0)
        if fault.truncate and answer is not None:
            self.count(call, "truncated")
            wire.send(answer, cut=True)
        elif fault.close or (fault.hang_s is not None and answer is None) or self._stopping.is_set():
            self.count(call, "closed")
            wire.hang_up()
        elif fault.hang_s is not None and answer is not None:
            self._send(call, wire, answer)
        else:
            self._send(call, wire, _refusal(self.api, fault))

    def _send(self, call: Call, wire: "_Wire", answer: Answer) -> None:
        # Counted first: whoever has read the answer finds it in the counters.
        self.count(call, str(answer.status))
        wire.send(answer)

    def count(self, call: Call, status: str) -> None:
        """Count one request under how it ended."""
        self._tally.ended(f"{call.method} {call.path}", status)

    def _pause(self, seconds: float) -> None:
        if seconds:
            self._stopping.wait(seconds)


def _refusal(api: Api, fault: Fault) -> Answer:
    headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
    if fault.html is not None:
        page = "<html><head><title>Bad gateway</title></head><body><h1>Bad gateway</h1></body></html>"
        return Answer(fault.html, page, headers, content_type="text/html")
    answer = api.error(fault)
    body = answer.body if fault.body is None else fault.body
    return Answer(answer.status, body, {**answer.headers, **headers})


class _Server(ThreadingHTTPServer):
    """Accepts connections and remembers them, so that stopping closes those that are kept alive too."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], standin: HttpStandin) -> None:
        self.standin = standin
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, _Wire)

    def note(self, connection: socket.socket) -> None:
        with self._guard:
            self._open.add(connection)

    def forget(self, connection: socket.socket) -> None:
        with self._guard:
            self._open.discard(connection)

    def drop_connections(self) -> None:
        with self._guard:
            for connection in self._open:
                _shut(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that leave early: they are what this server is for."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # handed on as it came


class _Wire(BaseHTTPRequestHandler):
    """One connection, HTTP/1.1 with keep-alive."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.note(self.connection)

    def finish(self) -> None:
        self.server.forget(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - as above

    def _serve(self) -> None:
        call = self._read()
        if call is None:
            self.send(Answer(411, {"error": "a body needs a Content-Length of at most 10 MiB"}))
            self.hang_up()
        elif call.path.startswith(_CONTROL):
            self.send(self.server.standin.control(call))
        else:
            self.server.standin.serve(call, self)

    def _read(self) -> Call | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit() or int(length) > _MAX_BODY:
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):  # the client left in the middle: not a request, so nothing may happen
            raise ConnectionAbortedError
        target = urlsplit(self.path)
        return Call(self.command, target.path, parse_qs(target.query), self.headers, body)

    def send(self, answer: Answer, *, cut: bool = False) -> None:
        """Send an answer in one piece; with `cut` only half of its body, then hang up."""
        payload = answer.payload()
        self.send_response_only(answer.status)
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(payload)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self._headers_buffer.append(b"\r\n" + (payload[: len(payload) // 2] if cut else payload))  # type: ignore[attr-defined]  # typeshed leaves the buffer out
        self.flush_headers()
        if cut:
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection at once."""
        self.close_connection = True
        _shut(self.connection)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server uses
        """Stay silent: tests read counters, not logs."""


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other side was faster
        return


def whole_seconds(seconds: float) -> str:
    """Return a Retry-After value that never asks to come back too early."""
    return str(max(1, math.ceil(seconds)))
