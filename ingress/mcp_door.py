"""The MCP door: the agents' tools over streamable HTTP at /mcp and over standard input and output.

It only translates between the protocol and `agent_tools`. Over HTTP every request stands alone, with its own key: no
session is kept, so any web process can answer, and nothing is lost when one ends. Which protocol versions are spoken is
the SDK's matter. Why so: docs/adr/0019.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Annotated, Any

import anyio
import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel, SecretStr, TypeAdapter
from starlette.types import Message, Receive, Scope, Send

from delivery.errors import LedgerUnavailable
from ingress.access import Caller
from ingress.agent_answers import Refused, refused_answer
from ingress.agent_schemas import without
from ingress.agent_tools import INSTRUCTIONS, AgentTools, Sheet, Visitor
from ingress.bodies import parsed_object
from ingress.problems import Language, Problem, problem_of
from ingress.rest import SUBMIT_SCOPES, RestDoor, Spoken

# An e-mail with a text and an HTML part, both as long as they may be, in characters of two bytes.
MOST_MCP_BYTES = 4_000_000

_log = structlog.get_logger("entrega.mcp")
_VISITOR = "entrega_visitor"

Context = Any  # the SDK's: `request` is the HTTP request, or None


def mcp_server(
    tools: AgentTools,
    *,
    caller_of: Callable[[Context], Awaitable[Caller]],
    language_of: Callable[[Context], Language],
) -> Server[Any]:
    """Return the server that offers the tools.

    Args:
        caller_of: Tells who makes a request; what it raises becomes the answer.
        language_of: Tells in which language sentences are wanted.
    """

    async def list_tools(_context: Context, _params: PaginatedRequestParams | None) -> ListToolsResult:
        await run_in_threadpool(tools.refresh)
        return ListToolsResult(tools=[_tool(each) for each in tools.sheets.values()])

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
        await run_in_threadpool(tools.refresh)
        if params.name not in tools.sheets:
            raise MCPError(INVALID_PARAMS, f"there is no such tool; there are: {', '.join(tools.sheets)}")
        language = language_of(context)
        try:
            visitor = Visitor(await caller_of(context), language)
            return _result(await tools.call(params.name, params.arguments or {}, visitor))
        except Exception as err:  # noqa: BLE001 - the door's edge: a model must get an answer, and it is logged
            problem = problem_of(err, language)
            if problem.code == "internal_error":
                _log.exception("tool_failed", tool=params.name)
            return _result(refused_answer(problem, language), is_error=True)

    return Server(
        "entrega",
        title="Entrega",
        version=version("entrega"),
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        get_tool_input_schema=lambda name: tools.sheets[name].takes if name in tools.sheets else None,
    )


def mcp_router(door: RestDoor) -> APIRouter:
    """Return the route for agents that speak streamable HTTP. Key, language and body are read as for REST."""

    async def caller_of(context: Context) -> Caller:
        return _visitor(context).caller

    server = mcp_server(AgentTools(door), caller_of=caller_of, language_of=lambda context: _visitor(context).language)
    # Answers are JSON and no stream: they come at once, and a proxy has nothing to buffer.
    manager = StreamableHTTPSessionManager(
        server,
        stateless=True,
        json_response=True,
        max_request_body_size=MOST_MCP_BYTES,
    )

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        async with manager.run():
            yield

    router = APIRouter(lifespan=running)

    @router.post("/mcp", include_in_schema=False, dependencies=[Depends(_no_browser)])
    async def mcp(
        request: Request,
        caller: Annotated[Caller, Depends(door.doorkeeper.needs("read", "operate", *SUBMIT_SCOPES))],
        raw: Annotated[bytes, Depends(door.body(MOST_MCP_BYTES))],
        language: Spoken,
    ) -> Response:
        parsed_object(raw)  # the SDK's parser is lenient: what two parsers could read differently ends here
        request.scope[_VISITOR] = Visitor(caller, language)
        return _HandedOn(manager, raw)

    return router


def serve_stdio(door: RestDoor, key: SecretStr, language: Language) -> None:
    """Serve one agent on standard input and output until it closes them.

    The key is looked at again for each call, so that a revocation is in force at once here too.

    Raises:
        Problem: The key is not good.
    """
    secret = key.get_secret_value()
    with suppress(LedgerUnavailable):  # not now, perhaps; each call says so
        door.doorkeeper.admit(secret)

    async def caller_of(_context: Context) -> Caller:
        return await run_in_threadpool(door.doorkeeper.admit, secret)

    server = mcp_server(AgentTools(door), caller_of=caller_of, language_of=lambda _: language)

    async def serve() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(serve)


class _HandedOn(Response):
    """An answer that the SDK gives, to a body that was read already."""

    def __init__(self, manager: StreamableHTTPSessionManager, raw: bytes) -> None:
        super().__init__()
        self._manager = manager
        self._raw = raw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the SDK answer."""
        pending: list[Message] = [{"type": "http.request", "body": self._raw, "more_body": False}]

        async def again() -> Message:
            return pending.pop() if pending else await receive()

        await self._manager.handle_request(scope, again, send)


def _visitor(context: Context) -> Visitor:
    found: Visitor = context.request.scope[_VISITOR]
    return found


def _no_browser(request: Request) -> None:
    # Only browsers send Origin, and a page on another site must not reach a server on the reader's own machine.
    # Source: Model Context Protocol, Transports, "Security Warning", edition of 2025-11-25, read 2026-11-22.
    if "origin" in request.headers:
        raise Problem("browser")


def _tool(sheet: Sheet) -> Tool:
    # An error is structured too, and some clients check it against the schema of the tool's answer.
    either: Any = sheet.answers | Refused
    answers = TypeAdapter(either).json_schema(mode="serialization")
    return Tool(
        name=sheet.name,
        title=sheet.title,
        description=sheet.description,
        input_schema=sheet.takes,
        output_schema={"type": "object", **without(answers, "title", "examples")},
        annotations=ToolAnnotations(
            read_only_hint=sheet.reads, destructive_hint=sheet.destroys, idempotent_hint=True, open_world_hint=True
        ),
    )


def _result(answer: BaseModel, *, is_error: bool = False) -> CallToolResult:
    # The text is the same object: some clients show a model nothing else.
    text = TextContent(text=answer.model_dump_json())
    return CallToolResult(content=[text], structured_content=answer.model_dump(mode="json"), is_error=is_error)
