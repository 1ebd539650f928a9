"""PydanticAI's toolset on the FastMCP transport."""

from __future__ import annotations

import pytest

from resilient_mcp.demo import stdio_server

from .every_framework import (  # noqa: F401
    test_cancelling_a_run_cancels_the_call,
    test_the_example,
    test_the_model_reads_our_advice,
)
from .test_fastmcp import plain

pytestmark = pytest.mark.anyio

EXAMPLE = "pydantic_ai_agent"


async def test_the_same_run_on_fastmcps_transport_fails(example, monkeypatch):
    """On FastMCP's own transport the tool is gone after the kill, however often the model calls it."""
    from pydantic_ai import UnexpectedModelBehavior

    monkeypatch.setattr(example, "ResilientTransport", plain)
    assert await example.main(stdio_server(), example.KILL_BETWEEN_CALLS) == "The tool says: Connection closed"
    script = [*example.KILL_BETWEEN_CALLS, example.KILL_BETWEEN_CALLS[-1]]
    with pytest.raises(UnexpectedModelBehavior, match="exceeded max retries"):
        await example.main(stdio_server(), script)
