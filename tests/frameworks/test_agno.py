"""Agno on our client as its session."""

from __future__ import annotations

import os
import signal

import pytest

from resilient_mcp import ResilientClient
from resilient_mcp.demo import stdio_server
from tests.support import text_of

from .support import check_advice, check_cancel, check_example

pytestmark = pytest.mark.anyio

EXAMPLE = "agno_agent"


def test_the_example(tmp_path):
    check_example(EXAMPLE, tmp_path)


async def test_the_model_reads_our_advice(example, tmp_path):
    await check_advice(example.main, tmp_path)


async def test_cancelling_a_run_cancels_the_call(example, tmp_path):
    await check_cancel(example.main, tmp_path)


async def test_its_look_at_the_connection():
    """`is_alive` pings: a server that was killed is alive again by the time of the answer."""
    from agno.tools.mcp import MCPTools

    async with ResilientClient(stdio_server(), mode="legacy") as client, MCPTools(session=client) as tools:
        os.kill(int(text_of(await client.call_tool("pid"))), signal.SIGKILL)
        assert await tools.is_alive()
