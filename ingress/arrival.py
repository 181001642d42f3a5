"""What every request meets first: an id, one log line, and the end of faults that nobody foresaw.

The id comes from the client (`X-Request-Id`) where it is a plain word, is sent back, and stands in every log line that
is written on the way. Never logged are addresses, queries and bodies: the route as the code writes it tells enough.
"""

import re
import time
from collections.abc import MutableMapping
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from delivery.ids import new_id
from ingress.problems import Problem, answer, language_of

_log = structlog.get_logger("entrega.web")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADER = "X-Request-Id"
_BUSY_RETRY_S = 1


class Arrival:
    """ASGI middleware, the outermost.

    Args:
        most_at_once: Requests under way at the same time; one more is answered 503 at once.
    """

    def __init__(self, app: ASGIApp, *, most_at_once: int) -> None:
        self._app = app
        self._most = most_at_once
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        sender = _Sender(send, request_id)
        started = time.perf_counter()
        self._under_way += 1
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._carry(scope, receive, sender)
            except Exception:
                _log.exception("request_failed", route=_route(scope))
                if sender.status:
                    raise  # the answer is cut off: the client must not take it for a whole one
                problem = answer(Problem("internal_error"), language_of(headers.get("accept-language", "")))
                await problem(scope, receive, sender)
            finally:
                self._under_way -= 1
                _tell(scope, sender.status, time.perf_counter() - started)

    async def _carry(self, scope: Scope, receive: Receive, sender: "_Sender") -> None:
        if self._under_way > self._most and not scope["path"].startswith("/health/"):
            language = language_of(Headers(scope=scope).get("accept-language", ""))
            await answer(Problem("busy", retry_after_s=_BUSY_RETRY_S), language)(scope, receive, sender)
        else:
            await self._app(scope, receive, sender)


class _Sender:
    """Passes an answer on, with the request's id in its headers."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[_HEADER] = self._request_id
        await self._send(message)


def _request_id(headers: Headers) -> str:
    given = headers.get(_HEADER, "")
    return given if _ID.fullmatch(given) else str(new_id())


def _route(scope: MutableMapping[str, Any]) -> str:
    return getattr(scope.get("route"), "path", "none")


def _tell(scope: Scope, status: int, took_s: float) -> None:
    route = _route(scope)
    quiet = route.startswith("/health/") or route == "/metrics"  # asked every few seconds, and seldom news
    write = _log.debug if quiet else _log.info
    write("request", method=scope["method"], route=route, http_status=status, duration_ms=round(took_s * 1000, 1))
