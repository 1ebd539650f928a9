"""Resources: lists, pages, templates, contents, subscriptions and changes of the handshake era."""

from __future__ import annotations

import base64

import anyio
from mcp import MCPError
from mcp.client import IncomingMessage
from mcp.types import (
    BlobResourceContents,
    PromptListChangedNotification,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    TextResourceContents,
    ToolListChangedNotification,
)

from .. import snippet


@snippet(on=("memory", "http", "sse"))
async def list_the_resources(connect, server):
    async with connect(server) as client:
        listed = await client.list_resources()
        print([resource.uri for resource in listed.resources])
        templates = await client.list_resource_templates()
        print([template.uri_template for template in templates.resource_templates])
        print(listed.resources[0])


@snippet("archive")
async def turn_the_pages(connect, server):
    async with connect(server) as client:
        names, cursor, pages = [], None, 0
        while True:
            page = await client.list_resources(cursor=cursor)
            pages += 1
            names.extend(resource.name for resource in page.resources)
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
        print(pages, names)
        first = await client.list_prompts()
        print([prompt.name for prompt in first.prompts], first.next_cursor)
        print([prompt.name for prompt in (await client.list_prompts(cursor=first.next_cursor)).prompts])


@snippet()
async def read_a_text(connect, server):
    async with connect(server) as client:
        for contents in (await client.read_resource("garden://beds/north")).contents:
            if isinstance(contents, TextResourceContents):
                print(contents.uri, contents.mime_type, contents.text)
        print(await client.read_resource("garden://rules"))


@snippet()
async def read_bytes(connect, server):
    async with connect(server) as client:
        for contents in (await client.read_resource("garden://plan")).contents:
            if isinstance(contents, BlobResourceContents):
                print(contents.mime_type, base64.b64decode(contents.blob))


@snippet("archive")
async def subscribe_to_a_resource(connect, server):
    changed = anyio.Event()

    async def handle(message: IncomingMessage) -> None:
        if isinstance(message, Exception):
            raise message
        if isinstance(message, ResourceUpdatedNotification):
            print("updated:", message.params.uri)
            changed.set()

    async with connect(server, mode="legacy", message_handler=handle) as client:
        print(client.server_capabilities.resources)
        print(await client.subscribe_resource("archive://shelf-2"))
        await client.call_tool("file")
        with anyio.fail_after(5):
            await changed.wait()
        print(await client.unsubscribe_resource("archive://shelf-2"))
        print((await client.call_tool("file")).content)


@snippet()
async def subscribe_where_nobody_can(connect, server):
    async with connect(server) as client:
        try:
            await client.subscribe_resource("garden://rules")
        except MCPError as exc:
            print(exc.code, exc.message)


@snippet()
async def list_again_after_a_change(connect, server):
    changes = set()
    complete = anyio.Event()

    async def handle(message: IncomingMessage) -> None:
        match message:
            case ToolListChangedNotification():
                changes.add("tools")
            case ResourceListChangedNotification():
                changes.add("resources")
            case PromptListChangedNotification():
                changes.add("prompts")
        if len(changes) == 3:
            complete.set()

    async with connect(server, mode="legacy", message_handler=handle) as client:
        await client.call_tool("rearrange")
        with anyio.fail_after(5):
            await complete.wait()
        print(sorted(changes), len((await client.list_resources()).resources))
