"""FastMCP's client on this library's transport."""

from __future__ import annotations

import os
import signal

import pytest
from mcp import MCPError, StdioServerParameters

from resilient_mcp.demo import stdio_server
from tests.support import gone, nothing_left, sdk_server

from .every_framework import (  # noqa: F401
    test_cancelling_a_run_cancels_the_call,
    test_the_example,
    test_the_model_reads_our_advice,
)

pytestmark = pytest.mark.anyio

EXAMPLE = "fastmcp_client"


def plain(server):
    """FastMCP's own transport."""
    from fastmcp.client.transports import StdioTransport

    return StdioTransport(command=server.command, args=server.args)


async def test_the_same_run_on_the_frameworks_transport_fails(example, monkeypatch):
    """FastMCP's own transport does not survive the kill."""
    monkeypatch.setattr(example, "ResilientTransport", plain)
    with pytest.raises(MCPError, match="Connection closed"):
        await example.main(stdio_server(), example.KILL_BETWEEN_CALLS)


async def test_the_clients_handlers_are_called():
    """Roots and progress reach FastMCP's handlers, even after a kill; and a client can be entered twice."""
    from fastmcp import Client

    from resilient_mcp.integrations.fastmcp import ResilientTransport

    seen = []

    async def on_progress(progress, total, message):
        seen.append(progress)

    client = Client(ResilientTransport(sdk_server()), roots=["file:///a", "file:///b"], progress_handler=on_progress)
    async with nothing_left():
        for _ in range(2):
            async with client:
                pid = int((await client.call_tool("pid")).content[0].text)
                os.kill(pid, signal.SIGKILL)
                await gone(pid)
                assert (await client.call_tool("count_roots")).content[0].text == "2"
                await client.call_tool("steps", {"count": 2, "pause": 0})
    assert seen == [1, 2, 1, 2]


async def test_a_server_that_cannot_start_says_why():
    """Wrong arguments are reported on creating the transport, a wrong command on connecting."""
    from fastmcp import Client

    from resilient_mcp.integrations.fastmcp import ResilientTransport

    with pytest.raises(ValueError, match="not a server's URL"):
        ResilientTransport("nonsense")
    transport = ResilientTransport(StdioServerParameters(command="no-such-command"))
    assert repr(transport) == "<ResilientTransport(server='no-such-command')>"
    with pytest.raises(MCPError, match="cannot start: .*: no-such-command"):
        async with Client(transport):
            pass
