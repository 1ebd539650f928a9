"""What the agent does when its server does not: run it with `pytest`; anyio brings the plugin for the async tests."""

from collections.abc import Iterator

import pytest
from agent import prepare

from resilient_mcp import Policy, ResilientClient, TimeoutPolicy
from resilient_mcp.testing import (
    FaultProxy,
    HttpReply,
    Latency,
    Reply,
    ScriptedHttpServer,
    ScriptedStdioServer,
    StdioReply,
    instant_waits,
)

pytestmark = pytest.mark.anyio

OBJECT = {"type": "object"}
TOOLS = [
    {"name": "forecast", "inputSchema": OBJECT, "annotations": {"readOnlyHint": True}},
    {"name": "order", "inputSchema": OBJECT},
]


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    with instant_waits():
        yield


async def test_rain() -> None:
    """All is well: two calls, one umbrella."""
    async with ScriptedHttpServer([Reply.ok("rain")], tools=TOOLS) as server, ResilientClient(server.url) as client:
        assert await prepare(client, "Bergen") == "An umbrella is on its way."
        assert [call.params["name"] for call in server.requests.of("tools/call")] == ["forecast", "order"]


async def test_an_overloaded_server() -> None:
    """It asks for half a minute, and gets it, in no time."""
    script = [HttpReply.refusal(429, retry_after=30), Reply.ok("sun")]
    async with ScriptedHttpServer(script, tools=TOOLS) as server, ResilientClient(server.url) as client:
        assert await prepare(client, "Oslo") == "No umbrella needed."


async def test_a_server_that_crashes_before_it_answers() -> None:
    """The forecast is asked for again, in the next process."""
    script = [StdioReply.exit(1), Reply.ok("sun")]
    async with ScriptedStdioServer(script, tools=TOOLS) as server, ResilientClient(server.parameters) as client:
        assert await prepare(client, "Oslo") == "No umbrella needed."
        first, second = server.requests.of("start")
        assert first.pid != second.pid


async def test_an_order_whose_answer_is_lost() -> None:
    """It is not sent again, and the agent says what nobody knows."""
    script = [Reply.ok("rain"), HttpReply.reset()]
    async with ScriptedHttpServer(script, tools=TOOLS) as server, ResilientClient(server.url) as client:
        assert "may have been ordered" in await prepare(client, "Bergen")
        assert [call.params["name"] for call in server.requests.of("tools/call")] == ["forecast", "order"]


async def test_a_network_that_is_slow_and_then_gone() -> None:
    """Between the agent and any real server: here a scripted one."""
    policy = Policy(timeout=TimeoutPolicy(ready=1))
    async with (
        ScriptedHttpServer([Reply.ok("sun")], tools=TOOLS) as server,
        FaultProxy(server.url) as proxy,
        ResilientClient(proxy.url, policy=policy) as client,
    ):
        proxy.add(Latency(0.05, jitter=0.02))
        assert await prepare(client, "Oslo") == "No umbrella needed."
        proxy.down()
        assert (await prepare(client, "Oslo")).startswith("No forecast.")
