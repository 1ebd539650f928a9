"""Resources: lists, templates, contents, subscriptions and changes."""

from __future__ import annotations

import base64

import anyio
from mcp import types
from pydantic import AnyUrl

from .. import snippet


@snippet(on=("memory", "http", "sse"))
async def list_the_resources(connect, server):
    async with connect(server) as session:
        await session.initialize()
        resources = await session.list_resources()
        print([resource.uri for resource in resources.resources])
        templates = await session.list_resource_templates()
        print([template.uriTemplate for template in templates.resourceTemplates])
        print(resources.resources[0])


@snippet()
async def read_a_text(connect, server):
    async with connect(server) as session:
        await session.initialize()
        answer = await session.read_resource(AnyUrl("garden://beds/north"))
        first = answer.contents[0]
        if isinstance(first, types.TextResourceContents):
            print(first.uri, first.mimeType, first.text)


@snippet(on=("memory",))
async def read_by_a_plain_string(connect, server):
    async with connect(server) as session:
        await session.initialize()
        print(await session.read_resource("garden://rules"))


@snippet()
async def read_bytes(connect, server):
    async with connect(server) as session:
        await session.initialize()
        for contents in (await session.read_resource(AnyUrl("garden://plan"))).contents:
            if isinstance(contents, types.BlobResourceContents):
                print(contents.mimeType, base64.b64decode(contents.blob))


@snippet("archive")
async def subscribe_to_a_resource(connect, server):
    changed = anyio.Event()

    async def handle(message):
        if isinstance(message, types.ServerNotification) and isinstance(
            message.root, types.ResourceUpdatedNotification
        ):
            print("updated:", message.root.params.uri)
            changed.set()

    async with connect(server, message_handler=handle) as session:
        await session.initialize()
        print(session.get_server_capabilities().resources)
        print(await session.subscribe_resource(AnyUrl("archive://shelf-2")))
        await session.call_tool("file")
        with anyio.fail_after(5):
            await changed.wait()
        print(await session.unsubscribe_resource(AnyUrl("archive://shelf-2")))
        print((await session.call_tool("file")).content)


@snippet()
async def list_again_after_a_change(connect, server):
    changes = []
    complete = anyio.Event()

    async def handle(message):
        match message:
            case types.ServerNotification(root=types.ToolListChangedNotification()):
                changes.append("tools")
            case types.ServerNotification(root=types.ResourceListChangedNotification()):
                changes.append("resources")
            case types.ServerNotification(root=types.PromptListChangedNotification()):
                changes.append("prompts")
        if len(changes) == 3:
            complete.set()

    async with connect(server, message_handler=handle) as session:
        await session.initialize()
        await session.call_tool("rearrange")
        with anyio.fail_after(5):
            await complete.wait()
        print(changes, len((await session.list_resources()).resources))
