"""Agents for tests: the SDK's own client, over HTTP and over pipes."""

import asyncio
import os
import sys
from pathlib import Path

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

ROOT = Path(__file__).parents[3]


class Agent:
    """A client whose session lasts as long as the work it is given."""

    def __init__(self, connect):
        self._connect = connect

    def work(self, do):
        async def run():
            async with self._connect() as client:
                return await do(client)

        return asyncio.run(asyncio.wait_for(run(), 240))

    def call(self, tool, arguments=None):
        return self.work(lambda client: client.call_tool(tool, arguments))

    def does(self, tool, arguments=None):
        """Call a tool that must work, and return its answer."""
        result = self.call(tool, arguments)
        assert not result.is_error, result.content
        return result.structured_content

    def refused(self, tool, arguments=None):
        """Call a tool that must be refused, and return why."""
        result = self.call(tool, arguments)
        assert result.is_error
        return result.structured_content


class Connection:
    """An HTTP client of the SDK with its key; a class because the SDK's client does not close what it was given."""

    def __init__(self, url, headers, mode):
        self._http = httpx2.AsyncClient(headers=headers, trust_env=False, timeout=120)
        self._client = Client(streamable_http_client(f"{url}/mcp", http_client=self._http), mode=mode)

    async def __aenter__(self):
        await self._http.__aenter__()
        return await self._client.__aenter__()

    async def __aexit__(self, *why):
        await self._client.__aexit__(*why)
        await self._http.__aexit__(*why)


def over_http(url, key, mode="auto", **headers):
    """Return an agent that speaks streamable HTTP.

    Args:
        mode: "auto" for the newest protocol, "legacy" for the handshake of the older ones.
    """
    told = {"Authorization": f"Bearer {key}"} | headers
    return Agent(lambda: Connection(url, told, mode))


def over_stdio(program):
    """Return an agent that starts a program and speaks over its pipes."""
    return Agent(lambda: Client(program))


def entrega_mcp(*options, **variables):
    """Return how `entrega mcp` is started from this working copy."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    arguments = ["-c", "from ingress.cli import main; main()", "mcp", *options]
    return StdioServerParameters(command=sys.executable, args=arguments, env={"PYTHONPATH": path} | variables)
