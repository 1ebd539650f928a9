"""The OpenAI Agents SDK on `ResilientMCPServer`, with either major of mcp."""

from __future__ import annotations

import anyio
import pytest

from resilient_mcp import ResilientClient
from resilient_mcp._sdk.installed import MCPError
from resilient_mcp.demo import NOTES, notes_server, stdio_server
from tests.support import nothing_left, text_of

from .every_framework import (  # noqa: F401
    test_cancelling_a_run_cancels_the_call,
    test_the_example,
    test_the_model_reads_our_advice,
)
from .staying import check_cancel_alone
from .support import HANG, Journaled

pytestmark = pytest.mark.anyio

EXAMPLE = "openai_agents_agent"


async def test_a_cancelled_run_notifies_the_server_immediately(example, tmp_path):
    server = Journaled(tmp_path)
    client = ResilientClient(server.parameters)
    async with example.ResilientMCPServer(client) as mcp_server:
        agent = example.Agent("patient", mcp_servers=[mcp_server], model=example.ScriptedModel(HANG))
        config = example.RunConfig(tracing_disabled=True)
        await check_cancel_alone(example.Runner.run(agent, "Go on.", run_config=config), server)
        assert client.generation == 1


async def test_the_framework_keeps_its_features():
    """A filter, the tool cache, the server's own information, and a manager that reconnects all work."""
    from agents.mcp import MCPServerManager

    from resilient_mcp.integrations.openai_agents import ResilientMCPServer

    async with nothing_left(), ResilientClient(stdio_server()) as client:
        server = ResilientMCPServer(client, tool_filter={"allowed_tool_names": ["pid"]}, cache_tools_list=True)
        async with MCPServerManager([server], strict=True) as manager:
            assert [tool.name for tool in await server.list_tools()] == ["pid"]
            assert len(server.cached_tools) == 3
            assert server.server_initialize_result is not None
            pid = text_of(await server.call_tool("pid", {}))
            await manager.reconnect(failed_only=False)
            assert text_of(await server.call_tool("pid", {})) == pid


async def test_its_message_handler_gets_notifications():
    """The session's `message_handler` gets the server's notifications."""
    from resilient_mcp.integrations.openai_agents import ResilientMCPServer

    heard = anyio.Event()

    async def handler(message):
        if NOTES[0] in repr(message):
            heard.set()

    client = ResilientClient(notes_server())
    async with nothing_left(), ResilientMCPServer(client, message_handler=handler):
        await client.subscribe_resource(NOTES[0])
        with anyio.fail_after(15):
            await heard.wait()


async def test_the_same_run_on_the_frameworks_server_fails(example, monkeypatch):
    """The framework's own server is gone by the model's next turn."""
    monkeypatch.setattr(example, "ResilientClient", lambda server, **_: server)
    monkeypatch.setattr(example, "ResilientMCPServer", plain)
    with pytest.raises((anyio.ClosedResourceError, MCPError)):
        await example.main(stdio_server(), example.KILL_BETWEEN_CALLS)


def plain(server, **options):
    from agents.mcp import MCPServerStdio

    return MCPServerStdio({"command": server.command, "args": server.args}, **options)
