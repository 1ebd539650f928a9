"""Strands on this library's transport."""

from __future__ import annotations

import pytest

from resilient_mcp import ResilientClient

from .every_framework import (  # noqa: F401
    test_cancelling_a_run_cancels_the_call,
    test_the_example,
    test_the_model_reads_our_advice,
)
from .staying import check_cancel_alone
from .support import HANG, Journaled

pytestmark = pytest.mark.anyio

EXAMPLE = "strands_agent"


async def test_a_cancelled_run_notifies_the_server_immediately(example, tmp_path):
    server = Journaled(tmp_path)
    client = ResilientClient(server.parameters)
    with example.MCPClient(client.as_transport) as mcp_client:
        agent = example.Agent(example.ScriptedModel(HANG), tools=mcp_client.list_tools_sync(), callback_handler=None)
        await check_cancel_alone(agent.invoke_async("Go on."), server)
        assert client.generation == 1
