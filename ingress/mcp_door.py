"""The MCP door: the agents' tools over streamable HTTP at /mcp.

Every request stands alone, with its own key: no session is kept, so any web process can answer, and nothing is lost
when one ends. Why so: docs/adr/0019.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from anyio.abc import TaskStatus
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from ingress.access import Caller
from ingress.agent_tools import AgentTools, Visitor
from ingress.bodies import JSON, MOST_SMALL_BYTES, parsed_object
from ingress.parameters import STRICT
from ingress.problems import Problem
from ingress.rest import SUBMIT_SCOPES, RestDoor, Spoken

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

# An e-mail with a text and an HTML part, both as long as they may be, in characters of two bytes.
MOST_MCP_BYTES = 4_000_000
# The SDK reads them once more, on the event loop. No call of a tool comes near.
_MOST_VALUES = 10_000

_VISITOR = "entrega_visitor"


def mcp_router(door: RestDoor) -> APIRouter:
    """Return the route for agents that speak streamable HTTP. Key, language and body are read as for REST."""
    manager = _LateManager(lambda: _manager(door))

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            await group.start(manager.run)
            yield
            group.cancel_scope.cancel()

    router = APIRouter(lifespan=running)

    @router.post("/mcp", include_in_schema=False, dependencies=[*STRICT, Depends(_no_browser)])
    async def mcp(
        request: Request,
        caller: Annotated[Caller, Depends(door.doorkeeper.needs("read", "operate", *SUBMIT_SCOPES))],
        language: Spoken,
    ) -> Response:
        # Whoever may not submit has nothing long to say.
        may_submit = any(caller.may(each) for each in SUBMIT_SCOPES)
        max_bytes = MOST_MCP_BYTES if may_submit else MOST_SMALL_BYTES
        async with door.bodies.reading(request, types=(JSON,), max_bytes=max_bytes) as raw:
            # The SDK's parser is lenient: what two parsers could read differently ends here.
            await run_in_threadpool(parsed_object, raw, most_values=_MOST_VALUES)
            request.scope[_VISITOR] = Visitor(caller, language)
            return _HandedOn(await manager.ready(), raw)

    return router


def _manager(door: RestDoor) -> "StreamableHTTPSessionManager":
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from ingress.mcp_server import mcp_server

    async def caller_of(context: Any) -> Caller:
        return _visitor(context).caller

    server = mcp_server(AgentTools(door), caller_of=caller_of, language_of=lambda context: _visitor(context).language)
    # Answers are JSON and no stream: they come at once, and a proxy has nothing to buffer.
    return StreamableHTTPSessionManager(
        server,
        stateless=True,
        json_response=True,
        max_request_body_size=MOST_MCP_BYTES,
    )


class _LateManager:
    """The SDK's manager, loaded by the first request, so that a web process is ready sooner.

    It lives in a task of its own: what it opens must be closed by the task that opened it.
    """

    def __init__(self, make: "Callable[[], StreamableHTTPSessionManager]") -> None:
        self._make = make

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Wait for the first request, load, and serve until the end."""
        self._asked, self._made = anyio.Event(), anyio.Event()
        task_status.started()
        await self._asked.wait()
        self._manager = await run_in_threadpool(self._make)
        async with self._manager.run():
            self._made.set()
            await anyio.sleep_forever()

    async def ready(self) -> "StreamableHTTPSessionManager":
        """Return it as soon as it serves."""
        self._asked.set()
        await self._made.wait()
        return self._manager


class _HandedOn(Response):
    """An answer that the SDK gives, to a body that was read already."""

    def __init__(self, manager: "StreamableHTTPSessionManager", raw: bytes) -> None:
        super().__init__()
        self._manager = manager
        self._raw = raw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the SDK answer."""
        pending: list[Message] = [{"type": "http.request", "body": self._raw, "more_body": False}]

        async def again() -> Message:
            return pending.pop() if pending else await receive()

        await self._manager.handle_request(scope, again, send)


def _visitor(context: Any) -> Visitor:
    found: Visitor = context.request.scope[_VISITOR]
    return found


async def _no_browser(request: Request) -> None:
    # Only browsers send Origin, and a page on another site must not reach a server on the reader's own machine.
    # Source: Model Context Protocol, Transports, "Security Warning", edition of 2025-11-25, read 2026-11-22.
    if "origin" in request.headers:
        raise Problem("browser")
