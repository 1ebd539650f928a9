"""ADK on a toolset of ours."""

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


async def test_the_client_stays_with_who_made_it():
    """Closing the toolset leaves the client; options of a connection of its own are refused."""
    from resilient_mcp.integrations.google_adk import ResilientToolset

    async with ResilientClient(stdio_server()) as client:
        toolset = ResilientToolset(client, tool_filter=["pid"])
        assert [tool.name for tool in await toolset.get_tools()] == ["pid"]
        await toolset.close()
        assert client.state is State.READY
    with pytest.raises(TypeError, match="header_provider"):
        ResilientToolset(client, header_provider=dict)
