"""Agno with `ResilientClient` as its session."""

from __future__ import annotations

import os
import signal

import pytest

from resilient_mcp import ResilientClient
from resilient_mcp.demo import stdio_server
from tests.support import text_of

from .every_framework import (  # noqa: F401
    test_cancelling_a_run_cancels_the_call,
    test_the_example,
    test_the_model_reads_our_advice,
)

pytestmark = pytest.mark.anyio

EXAMPLE = "agno_agent"


async def test_its_connection_check():
    """`is_alive` pings: a killed server is alive again by the time of the answer."""
    from agno.tools.mcp import MCPTools

    async with ResilientClient(stdio_server(), mode="legacy") as client, MCPTools(session=client) as tools:
        os.kill(int(text_of(await client.call_tool("pid"))), signal.SIGKILL)
        assert await tools.is_alive()
