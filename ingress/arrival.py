"""The outermost middleware: gives each request an id, a lane and one log line, and answers unexpected errors.

Three lanes: callers with a known API key, webhooks, and everybody else. Each has limits of its own, so that what one of
them uses up is never what another needs. Health pages have no lane: their answers are found once for all who ask.

The id is the client's `X-Request-Id` if that is a plain word, else a new one. It is sent back, and every log line of
the request has it. Addresses, queries and bodies are never logged; the log names the route as the code declares it.
"""

import re
import time
from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from delivery.ids import new_id
from ingress.access import Doorkeeper, key_in
from ingress.problems import Problem, answer, language_of, problem_of
from ingress.sampling import Sampler
from ingress.strangers import PROVED, Kind, Refusals, Strangers
from ledger.api_keys import api_key_hash

_log = structlog.get_logger("entrega.web")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADER = "X-Request-Id"
_RETRY_S = 1
_LATE = 408
_OPEN_TO_ALL = frozenset({"/health/live", "/health/ready"})


class Arrival:
    """ASGI middleware, the outermost.

    Args:
        doorkeeper: Knows the keys.
        strangers: The limits of callers without one.
        most_at_once: Requests with a known key under way, long polls and slow bodies included; one more is answered
            503 at once.
        most_per_key: Requests of one key under way; one more is answered 429.
    """

    def __init__(
        self, app: ASGIApp, *, doorkeeper: Doorkeeper, strangers: Strangers, most_at_once: int, most_per_key: int
    ) -> None:
        self._app = app
        self._doorkeeper = doorkeeper
        self._strangers = strangers
        self._most = most_at_once
        self._most_per_key = most_per_key
        self._under_way: Counter[bytes] = Counter()
        self._sampler = Sampler()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})
        sender = _Sender(send, request_id, scope["state"], has_body=_has_body(headers))
        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._carry(scope, receive, sender, headers)
            except Exception as err:
                problem = problem_of(err, language_of(headers.get("accept-language", "")))
                if problem.code == "internal_error":
                    _log.exception("request_failed", route=_route(scope))
                if sender.status:
                    raise  # the answer is cut off: the client must not take it for a whole one
                await _refuse(problem, scope, receive, sender)
            finally:
                self._tell(scope, sender.status, time.perf_counter() - started)

    async def _carry(self, scope: Scope, receive: Receive, sender: "_Sender", headers: Headers) -> None:
        path, secret = scope["path"], key_in(headers)
        if path in _OPEN_TO_ALL:
            await self._app(scope, receive, sender)
        elif path.startswith("/webhooks/"):
            await self._carry_with_proof("webhook", self._strangers.disproved, scope, receive, sender)
        elif path == "/metrics" and not secret:
            await self._carry_with_proof("other", self._strangers.refused["other"], scope, receive, sender)
        elif (secret and self._doorkeeper.remembers(secret)) or await self._is_key(secret, scope):
            await self._carry_known(api_key_hash(secret or ""), scope, receive, sender)
        else:
            with self._strangers.one_more():
                await self._app(scope, receive, sender)

    async def _carry_known(self, key: bytes, scope: Scope, receive: Receive, sender: "_Sender") -> None:
        if self._under_way.total() >= self._most:
            raise Problem("busy", retry_after_s=_RETRY_S)
        if self._under_way[key] >= self._most_per_key:
            raise Problem("too_many_at_once", retry_after_s=_RETRY_S, most=self._most_per_key)
        scope["state"][PROVED] = True
        self._under_way[key] += 1
        try:
            await self._app(scope, receive, sender)
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    async def _is_key(self, secret: str | None, scope: Scope) -> bool:
        """Let a stranger in as far as strangers may come, and tell whether it has a key that was made lately."""
        host, refused = _host(scope), self._strangers.refused["other"]
        is_patience_over = refused.are_too_many(host)
        refused.count(host)  # before anything is waited for: those who come meanwhile must find it counted
        if secret and (is_patience_over or self._strangers.are_full):
            self._doorkeeper.list_soon(secret)  # a good one is remembered next time
        if is_patience_over:
            await self._strangers.slow_down()
            raise Problem("too_many_refusals", retry_after_s=_RETRY_S)
        if self._strangers.are_full:
            raise Problem("busy", retry_after_s=_RETRY_S)
        with self._strangers.one_more():
            return secret is not None and await self._doorkeeper.knows(secret)

    async def _carry_with_proof(
        self, kind: Kind, borne: Refusals, scope: Scope, receive: Receive, sender: "_Sender"
    ) -> None:
        """Carry a request that is verified while it is handled; if it is refused, that counts against its address."""
        if borne.are_too_many(_host(scope)):
            await self._strangers.slow_down()
            raise Problem("too_many_refusals", retry_after_s=_RETRY_S)
        await self._app(scope, receive, sender)
        if scope["state"].get(PROVED):
            self._strangers.note_proof(_host(scope))
        elif sender.status >= 400:  # noqa: PLR2004 - HTTP
            self._strangers.refused[kind].count(_host(scope))
            # A webhook that gave way to others (503), or never came whole (408), may have been a good one.
            if kind == "webhook" and sender.status < 500 and sender.status != _LATE:  # noqa: PLR2004 - HTTP
                self._strangers.disproved.count(_host(scope))

    def _tell(self, scope: Scope, status: int, took_s: float) -> None:
        route, proved = _route(scope), scope["state"].get(PROVED)
        so_far = None if proved else self._sampler.count(f"{route} {status}")
        quiet = route.startswith("/health/") or route == "/metrics"  # asked every few seconds, and seldom news
        if not proved and not quiet and so_far is None:
            return
        more = {"so_far_in_minute": so_far} if so_far and so_far > 1 else {}
        write = _log.debug if quiet else _log.info
        write("request", method=scope["method"], route=route, http_status=status, duration_ms=_ms(took_s), **more)


class _Sender:
    """Passes an answer on, with the request's id in its headers.

    A stranger that is refused loses its connection when its request has a body: the rest would have to be read.
    """

    def __init__(self, send: Send, request_id: str, state: Mapping[str, Any], *, has_body: bool) -> None:
        self._send = send
        self._request_id = request_id
        self._state = state
        self._has_body = has_body
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[_HEADER] = self._request_id
            if self._has_body and self.status >= 400 and not self._state.get(PROVED):  # noqa: PLR2004 - HTTP
                headers["Connection"] = "close"
        await self._send(message)


async def _refuse(problem: Problem, scope: Scope, receive: Receive, sender: _Sender) -> None:
    response = answer(problem, language_of(Headers(scope=scope).get("accept-language", "")))
    await response(scope, receive, sender)


def _host(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else "?"


def _request_id(headers: Headers) -> str:
    given = headers.get(_HEADER, "")
    return given if _ID.fullmatch(given) else str(new_id())


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _route(scope: MutableMapping[str, Any]) -> str:
    return getattr(scope.get("route"), "path", "none")


def _ms(took_s: float) -> float:
    return round(took_s * 1000, 1)
