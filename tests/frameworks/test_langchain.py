"""LangChain's adapters with `ResilientClient` as their session."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from anyio import BrokenResourceError, ClosedResourceError

from resilient_mcp import ResilientClient
from resilient_mcp._sdk.installed import MCPError
from resilient_mcp.demo import stdio_server

from .every_framework import (  # noqa: F401
    test_cancelling_a_run_cancels_the_call,
    test_the_example,
    test_the_model_reads_our_advice,
)
from .staying import check_cancel_alone
from .support import HANG, Journaled

pytestmark = pytest.mark.anyio

EXAMPLE = "langchain_agent"


async def test_a_cancelled_run_notifies_the_server_immediately(example, tmp_path):
    from langchain_mcp_adapters.tools import load_mcp_tools

    server = Journaled(tmp_path)
    async with ResilientClient(server.parameters) as client:
        agent = example.create_agent(example.ScriptedModel(script=HANG), await load_mcp_tools(client))
        await check_cancel_alone(agent.ainvoke({"messages": [("user", "Go on.")]}), server)
        assert client.generation == 1


async def test_the_same_run_on_the_frameworks_session_fails(example, monkeypatch):
    """On the framework's own session the call after the kill ends the run."""
    monkeypatch.setattr(example, "ResilientClient", plain)
    with pytest.raises(Exception, match="unhandled errors in a TaskGroup") as caught:
        await example.main(stdio_server(), example.KILL_BETWEEN_CALLS)
    # Depends on when the exit was noticed: before the call, while it was written, or after it.
    assert caught.group_contains((ClosedResourceError, BrokenResourceError, MCPError))


@asynccontextmanager
async def plain(server, **_):
    from langchain_mcp_adapters.sessions import create_session

    async with create_session({"transport": "stdio", "command": server.command, "args": server.args}) as session:
        await session.initialize()
        yield session
