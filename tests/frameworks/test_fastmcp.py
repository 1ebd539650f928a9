"""FastMCP's client on a transport of ours."""

from __future__ import annotations

import pytest
from mcp import MCPError

from resilient_mcp.demo import stdio_server

from .support import check_advice, check_cancel, check_example

pytestmark = pytest.mark.anyio

EXAMPLE = "fastmcp_client"


def test_the_example(tmp_path):
    check_example(EXAMPLE, tmp_path)


async def test_the_model_reads_our_advice(example, tmp_path):
    await check_advice(example.main, tmp_path)


async def test_cancelling_a_run_cancels_the_call(example, tmp_path):
    await check_cancel(example.main, tmp_path)


def plain(server):
    """FastMCP's own transport."""
    from fastmcp.client.transports import StdioTransport

    return StdioTransport(command=server.command, args=server.args)


async def test_the_same_run_without_us_fails(example, monkeypatch):
    """FastMCP's own transport does not survive the kill."""
    monkeypatch.setattr(example, "ResilientTransport", plain)
    with pytest.raises(MCPError, match="Connection closed"):
        await example.main(stdio_server(), example.KILL_BETWEEN_CALLS)
