"""ADK on this library's toolset."""

from __future__ import annotations

import pytest

from resilient_mcp import ResilientClient, State
from resilient_mcp.demo import stdio_server

from .every_framework import (  # noqa: F401
    test_cancelling_a_run_cancels_the_call,
    test_the_example,
    test_the_model_reads_our_advice,
)

pytestmark = pytest.mark.anyio

EXAMPLE = "google_adk_agent"


async def test_closing_the_toolset_leaves_the_client_open():
    """The client belongs to its creator; connection options of the toolset's own are rejected."""
    from resilient_mcp.integrations.google_adk import ResilientToolset

    async with ResilientClient(stdio_server()) as client:
        toolset = ResilientToolset(client, tool_filter=["pid"])
        assert [tool.name for tool in await toolset.get_tools()] == ["pid"]
        await toolset.close()
        assert client.state is State.READY
    with pytest.raises(TypeError, match="header_provider"):
        ResilientToolset(client, header_provider=dict)
