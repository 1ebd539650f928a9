"""`listen()` at 2026-07-28 ends as on `mcp.Client`: with the server's own error, immediately, after one request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import anyio
import pytest

from resilient_mcp import BreakerPolicy, Change, ResilientClient, RetryPolicy
from resilient_mcp._sdk.installed import MAJOR, HighLevelServer, MCPError, mcp_error
from resilient_mcp.testing import HttpReply, ScriptedHttpServer

from .changing import next_of
from .support import LEGACY, QUICK, client_of, every_pair

pytestmark = pytest.mark.anyio

needs_2 = pytest.mark.skipif(MAJOR == 1, reason="needs mcp 2.x")
PINNED = {"mode": "2026-07-28"}


def server_of(refusal: int | None = None, **options: Any) -> tuple[Any, list[str]]:
    """An SDK server object that may refuse to listen, and the list of what it was asked to listen for."""
    asked: list[str] = []

    async def watch(context: Any, call_next: Any) -> Any:
        if context.method == "subscriptions/listen":
            asked.append(str(context.params))
            if refusal is not None:
                raise mcp_error(refusal, "not for you")
        return await call_next(context)

    server = HighLevelServer("listening", middleware=[watch], log_level="CRITICAL", **options)

    async def grow(context: Any) -> str:
        await context.notify_tools_changed()
        return "grown"

    grow.__annotations__["context"] = import_module("mcp.server.mcpserver").Context
    server.add_tool(grow)

    @server.resource("note://todo")
    def todo() -> str:
        return "buy milk"

    return server, asked


@contextmanager
def at(where: str, server: Any) -> Iterator[Any]:
    """What a client takes to reach `server`: the object itself, or a URL at which uvicorn serves it."""
    if where == "in process":
        yield server
        return
    import uvicorn  # the SDK of 1.x installs it too

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            server.streamable_http_app, factory=True, log_level="critical", timeout_graceful_shutdown=1
        )
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=([listening],))  # on asyncio, whatever the test runs on
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        finally:
            running.should_exit = True
            thread.join()


@needs_2
@every_pair("where", ["in process", "http"])
@pytest.mark.parametrize("code", [-32600, -32603, -31999])
async def test_a_refusal_is_the_servers_own(where: str, code: int):
    """The server's code and message reach the caller after a single request."""
    server, asked = server_of(code)
    with at(where, server) as target:
        async with ResilientClient(target) as client:
            with pytest.raises(MCPError, match="not for you") as caught:
                async with client.listen(resource_subscriptions=["note://todo"]):
                    raise AssertionError
            assert caught.value.code == code
            assert len([one for one in asked if "note://todo" in one]) == 1


@needs_2
@every_pair("where", ["in process", "http"])
@pytest.mark.parametrize("options", [{}, PINNED], ids=["auto", "pinned"])
async def test_a_server_without_subscriptions_says_so(where: str, options: dict[str, Any]):
    """The error "Method not found" reaches the caller, whether or not the capabilities are known."""
    with at(where, server_of(subscriptions=False)[0]) as target:
        async with ResilientClient(target, **options) as client:
            with pytest.raises(MCPError, match="Method not found"):
                async with client.listen(tools_list_changed=True):
                    raise AssertionError


@needs_2
@every_pair("where", ["in process", "http"])
async def test_a_pinned_version_listens_and_watches(where: str):
    """A client with a pinned version never learns what the server declares, and asks all the same."""
    from mcp.client.subscriptions import ToolsListChanged

    with at(where, server_of()[0]) as target:
        async with ResilientClient(target, **PINNED) as client:
            async with client.listen(tools_list_changed=True) as events:
                await client.call_tool("grow")
                assert await next_of(events) == ToolsListChanged()
            async with client.watch(tools=True) as changes:
                await client.call_tool("grow")
                assert await next_of(changes) == Change("tools")
            assert [tool.name for tool in (await client.list_tools()).tools] == ["grow"]
            assert client.offers("anything")


@needs_2
async def test_a_server_that_declares_nothing_is_asked():
    """As with `mcp.Client`, the server decides, not what it declares; `watch()` still says what is missing."""
    from mcp.client.subscriptions import ToolsListChanged
    from mcp.server import Server
    from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler

    bus = InMemorySubscriptionBus()
    server = Server("bare", on_subscriptions_listen=ListenHandler(bus))
    async with ResilientClient(server) as client:
        assert not client.offers("tools")
        async with client.listen(tools_list_changed=True) as events:
            await bus.publish(ToolsListChanged())
            assert await next_of(events) == ToolsListChanged()
        with pytest.raises(MCPError, match=r"does not declare tools.listChanged"):
            async with client.watch(tools=True):
                raise AssertionError


async def test_unsubscribing_does_not_wait_for_the_circuit():
    """It returns immediately while the circuit is open, and the replay sends the unsubscribe request later."""
    policy = QUICK.model_copy(
        update={"retry": RetryPolicy(attempts=1), "breaker": BreakerPolicy(failures=2, open=30)},
    )

    def answer(request: Any) -> Any:
        return HttpReply.refusal(502) if request.method == "tools/call" else None

    async with ScriptedHttpServer(answer) as server, client_of(server.url, policy, **LEGACY) as client:
        await client.subscribe_resource("scripted://note")
        for _ in range(2):
            with pytest.raises(MCPError):
                await client.call_tool("order", {"text": "x"})
        assert not client._gate.is_closed
        with anyio.fail_after(5):
            await client.unsubscribe_resource("scripted://note")
        while not server.requests.of("resources/unsubscribe"):
            await anyio.sleep(0.01)
