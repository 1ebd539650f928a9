"""`@modelcontextprotocol/server-everything` from npm, over stdio and Streamable HTTP, with a restart in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp import StdioServerParameters
from pydantic import AnyUrl

from resilient_mcp import Change, Connected, ResilientClient, Restored

from .npm import NODE, needs_npm, program
from .support import QUICK, HttpServer, Recorder, children, every_pair, text_of

pytestmark = [pytest.mark.anyio, needs_npm]


@asynccontextmanager
async def client_on(
    transport: str, folder: Path, events: Recorder
) -> AsyncIterator[tuple[ResilientClient, HttpServer]]:
    command = [NODE, "--require", str(folder / "loopback.cjs"), program(folder), "streamableHttp"]
    server = HttpServer(command=command)
    try:
        if transport == "stdio":
            parameters = StdioServerParameters(command=NODE, args=[program(folder), "stdio"])
            async with ResilientClient(parameters, policy=QUICK, on_event=events) as client:
                yield client, server
            return
        server.start()
        await server.listening()
        async with ResilientClient(server.url, policy=QUICK, on_event=events) as client:
            yield client, server
    finally:
        server.kill()


async def crash(transport: str, server: HttpServer, before: set[int]) -> None:
    if transport == "stdio":
        for pid in set(children()) - before:
            os.kill(pid, signal.SIGKILL)
    else:
        server.kill()
        server.start()


@pytest.mark.timeout(200)  # the first use installs the package
def test_the_package_is_installed(everything: Path):
    """npm installs the server's program."""
    assert Path(program(everything)).exists()


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_every_operation_before_and_after_a_restart(everything: Path, transport: str):
    """Tools, resources, prompts and progress work, and work again after the server was killed."""
    events = Recorder()
    before = set(children())
    async with client_on(transport, everything, events) as (client, server):
        await use(client)
        await crash(transport, server, before)
        await use(client)
        assert len(events.of(Connected)) == 2


async def use(client: ResilientClient) -> None:
    tools = {tool.name for tool in (await client.list_tools()).tools}
    assert {"echo", "get-sum", "trigger-long-running-operation"} <= tools
    assert text_of(await client.call_tool("echo", {"message": "hi"})) == "Echo: hi"
    assert "5" in text_of(await client.call_tool("get-sum", {"a": 2, "b": 3}))
    resources = (await client.list_resources()).resources
    assert resources
    read = await client.read_resource(AnyUrl(str(resources[0].uri)))
    assert read.contents
    assert (await client.list_resource_templates()) is not None
    prompts = (await client.list_prompts()).prompts
    assert prompts
    prompt = await client.get_prompt("simple-prompt")
    assert prompt.messages
    seen: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    arguments = {"duration": 0.4, "steps": 4}
    result = await client.call_tool("trigger-long-running-operation", arguments, progress_callback=on_progress)
    assert "completed" in text_of(result)
    with anyio.fail_after(3):  # on mcp 2.x the last callback may run after the answer
        while len(seen) < 4:
            await anyio.sleep(0.01)
    assert sorted(seen) == [1, 2, 3, 4]
    await client.set_logging_level("warning")
    await client.subscribe_resource(resources[0].uri)
    await client.unsubscribe_resource(resources[0].uri)
    await client.send_ping()


@every_pair("transport", ["stdio", "http"])
async def test_concurrent_callers_through_a_restart(everything: Path, transport: str):
    """20 callers get every answer while the server is killed, over one new connection."""
    events = Recorder()
    before = set(children())
    async with client_on(transport, everything, events) as (client, server):

        async def caller(n: int) -> None:
            for k in range(10):
                assert text_of(await client.call_tool("echo", {"message": f"{n}-{k}"})) == f"Echo: {n}-{k}"
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as tg:
            for n in range(20):
                tg.start_soon(caller, n)
            await client.call_tool("echo", {"message": "under way"})
            await crash(transport, server, before)
        assert len(events.of(Connected)) == 2


@pytest.mark.timeout(60)  # an update every five seconds
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_subscription_through_a_restart(everything: Path, transport: str):
    """The subscription is restored automatically, `missed` is reported, and the next real update arrives."""
    events = Recorder()
    before = set(children())
    async with client_on(transport, everything, events) as (client, server):
        uri = str((await client.list_resources()).resources[0].uri)
        async with client.watch([uri]) as changes:
            await client.call_tool("toggle-subscriber-updates", {})
            with anyio.fail_after(15):
                assert await anext(changes) == Change("resource", uri)
            await crash(transport, server, before)
            with anyio.fail_after(15):
                while not (await anext(changes)).missed:
                    pass
            assert (await events.wait_for(Restored)).restored == (f"resources/subscribe {uri}",)
            await client.call_tool("toggle-subscriber-updates", {})
            with anyio.fail_after(15):
                assert await anext(changes) == Change("resource", uri)
        assert len(events.of(Connected)) == 2
