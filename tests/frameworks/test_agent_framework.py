"""Agent Framework on the SDK's client, backed by `ResilientClient`."""

from __future__ import annotations

import json
import os
import signal

import pytest

from resilient_mcp import ResilientClient
from resilient_mcp.demo import stdio_server
from resilient_mcp.demo.server import forecast_for

from .every_framework import (  # noqa: F401
    test_cancelling_a_run_cancels_the_call,
    test_the_example,
    test_the_model_reads_our_advice,
)

pytestmark = pytest.mark.anyio

EXAMPLE = "agent_framework_agent"


async def test_the_client_as_its_session():
    """Its older parameter `session=` takes the client as it is; each call checks the connection first."""
    from agent_framework import MCPStdioTool

    async with ResilientClient(stdio_server()) as client, MCPStdioTool("demo", session=client) as tools:
        [pid] = await tools.call_tool("pid")
        os.kill(int(json.loads(pid.text)["result"]), signal.SIGKILL)
        [forecast] = await tools.call_tool("forecast", city="Oslo")
        assert json.loads(forecast.text) == {"result": forecast_for("Oslo")}
