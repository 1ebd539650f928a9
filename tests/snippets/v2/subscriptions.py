"""`listen()`: a stream of the changes of a server at 2026-07-28."""

from __future__ import annotations

import anyio
from mcp.client.subscriptions import (
    ListenNotSupportedError,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.types import TextResourceContents

from .. import snippet


async def read(client, uri="board://todo"):
    [contents] = (await client.read_resource(uri)).contents
    assert isinstance(contents, TextResourceContents)
    return contents.text


@snippet("board")
async def follow_a_resource(connect, server):
    async def watch(client, subscription):
        async for event in subscription:
            print(event, await read(client))
            if isinstance(event, ResourceUpdated):
                return

    async with connect(server) as client:
        await client.call_tool("write", {"name": "todo", "content": "weed"})
        async with client.listen(resource_subscriptions=["board://todo"]) as subscription:
            print(await read(client))
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tg:
                    tg.start_soon(watch, client, subscription)
                    await client.call_tool("write", {"name": "todo", "content": "mow"})


@snippet("board")
async def follow_the_lists(connect, server):
    async with connect(server) as client:
        async with client.listen(
            tools_list_changed=True, prompts_list_changed=True, resources_list_changed=True
        ) as subscription:
            await client.call_tool("extend")
            seen = set()
            with anyio.fail_after(5):
                async for event in subscription:
                    match event:
                        case ToolsListChanged():
                            seen.add("tools")
                        case PromptsListChanged():
                            seen.add("prompts")
                        case ResourcesListChanged():
                            seen.add("resources")
                    if len(seen) == 3:
                        break
            print(sorted(seen))
        print([tool.name for tool in (await client.list_tools()).tools])


@snippet("board")
async def take_one_event_at_a_time(connect, server):
    async with connect(server) as client:
        async with client.listen(tools_list_changed=True, resource_subscriptions=["board://todo"]) as subscription:
            print(subscription.honored.tools_list_changed, subscription.honored.resource_subscriptions)
            await client.call_tool("write", {"name": "done", "content": "all"})
            await client.call_tool("write", {"name": "todo", "content": "nothing"})
            with anyio.fail_after(5):
                print(await anext(subscription) == ResourceUpdated(uri="board://todo"))
            await client.call_tool("extend")
            with anyio.fail_after(5):
                print(await anext(subscription) == ToolsListChanged())


@snippet("board")
async def listen_in_the_older_protocol(connect, server):
    async with connect(server, mode="legacy") as client:
        try:
            async with client.listen(tools_list_changed=True):
                raise AssertionError
        except ListenNotSupportedError:
            print("not at", client.protocol_version)


@snippet("board")
async def listen_for_nothing(connect, server):
    async with connect(server) as client:
        try:
            async with client.listen() as subscription:
                print(subscription.honored)
        except Exception as exc:
            print(type(exc).__name__)
