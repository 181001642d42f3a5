"""The agents' tools as a server of the Model Context Protocol, over HTTP or over standard input and output.

It only translates between the protocol and `agent_tools`. Which protocol versions are spoken is the SDK's matter. The
SDK takes half as long to load as all the rest of a web process: import this module where an agent calls. Why so:
docs/adr/0019.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import anyio
import structlog
from fastapi.concurrency import run_in_threadpool
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
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

from delivery.errors import LedgerUnavailable
from ingress.access import Caller
from ingress.agent_answers import Refused, refused_answer
from ingress.agent_schemas import without
from ingress.agent_tools import INSTRUCTIONS, AgentTools, Sheet, Visitor
from ingress.problems import Language, problem_of
from ingress.rest import RestDoor

_log = structlog.get_logger("entrega.mcp")

# In the `_meta` of `tools/list`. A client that keeps it notices when the text that steers its model was changed.
TOOLS_HASH = "entrega/tools-sha256"
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
        offered = [_tool(each) for each in tools.sheets.values()]
        return ListToolsResult(tools=offered, _meta={TOOLS_HASH: tools_hash(offered)})

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


def tools_hash(tools: Sequence[Tool]) -> str:
    """Return the SHA-256 of what a model is told of the tools: names, titles, descriptions and input schemas."""
    told = [each.model_dump(mode="json", by_alias=True, include=_TOLD) for each in tools]
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_TOLD = {"name", "title", "description", "input_schema"}


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
