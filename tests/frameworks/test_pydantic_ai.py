"""PydanticAI's toolset on the transport for FastMCP."""

from __future__ import annotations

import pytest

from resilient_mcp.demo import stdio_server

from .support import check_advice, check_cancel, check_example
from .test_fastmcp import plain

pytestmark = pytest.mark.anyio

EXAMPLE = "pydantic_ai_agent"


def test_the_example(tmp_path):
    check_example(EXAMPLE, tmp_path)


async def test_the_model_reads_our_advice(example, tmp_path):
    await check_advice(example.main, tmp_path)


async def test_cancelling_a_run_cancels_the_call(example, tmp_path):
    await check_cancel(example.main, tmp_path)


async def test_the_same_run_without_us_fails(example, monkeypatch):
    """On FastMCP's own transport the tool is gone after the kill, however often the model asks for it."""
    from pydantic_ai import UnexpectedModelBehavior

    monkeypatch.setattr(example, "ResilientTransport", plain)
    assert await example.main(stdio_server(), example.KILL_BETWEEN_CALLS) == "I was told: Connection closed"
    script = [*example.KILL_BETWEEN_CALLS, example.KILL_BETWEEN_CALLS[-1]]
    with pytest.raises(UnexpectedModelBehavior, match="exceeded max retries"):
        await example.main(stdio_server(), script)
