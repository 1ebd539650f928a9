"""Semantic Kernel on `ResilientPlugin`."""

from __future__ import annotations

import pytest
from mcp import StdioServerParameters

from resilient_mcp import ResilientClient
from tests.support import nothing_left

from .every_framework import (  # noqa: F401
    test_cancelling_a_run_cancels_the_call,
    test_the_example,
    test_the_model_reads_our_advice,
)
from .staying import check_cancel_alone
from .support import HANG, Journaled

pytestmark = pytest.mark.anyio

EXAMPLE = "semantic_kernel_agent"


async def test_a_cancelled_run_notifies_the_server_immediately(example, tmp_path):
    server = Journaled(tmp_path)
    client = ResilientClient(server.parameters)
    async with example.ResilientPlugin(client, "weather") as plugin:
        model = example.ScriptedModel(script=HANG, plugin="weather")
        agent = example.ChatCompletionAgent(name="patient", service=model, plugins=[plugin])
        await check_cancel_alone(agent.get_response("Go on."), server)
        assert client.generation == 1


async def test_a_server_that_cannot_start_says_why(example):
    """A failed handshake raises an error, where the framework's own plugins hang forever."""
    client = ResilientClient(StdioServerParameters(command="no-such-command"))
    async with nothing_left():
        with pytest.raises(Exception, match="Failed to initialize session") as failed:
            await example.ResilientPlugin(client, "weather").connect()
    assert "No such file or directory: no-such-command" in str(failed.value.__cause__)
