"""Servers of mcp 1.x that need its low-level API."""

from __future__ import annotations

from typing import Any

import anyio
from mcp import types
from mcp.server.experimental.task_context import ServerTaskContext
from mcp.server.lowlevel import Server
from pydantic import AnyUrl

SHELVES = [f"shelf-{n}" for n in range(1, 8)]
PAGE = 3
ANY_OBJECT = {"type": "object", "properties": {}}


def archive() -> Server:
    """Lists by pages, subscriptions, log levels, and a tool that breaks its own output schema."""
    server: Server = Server("archive", version="3.1")
    wanted: set[str] = set()
    level = "info"

    @server.list_tools()
    async def list_tools(request: types.ListToolsRequest) -> types.ListToolsResult:
        number = {"type": "object", "properties": {"pages": {"type": "integer"}}, "required": ["pages"]}
        tools = [
            types.Tool(name="count", inputSchema=ANY_OBJECT, outputSchema=number),
            types.Tool(name="file", inputSchema=ANY_OBJECT),
            types.Tool(name="whisper", inputSchema=ANY_OBJECT),
        ]
        names, cursor = page([tool.name for tool in tools], request)
        return types.ListToolsResult(tools=[tool for tool in tools if tool.name in names], nextCursor=cursor)

    def page(names: list[str], request: Any) -> tuple[list[str], str | None]:
        params = request.params if request is not None else None  # the SDK itself lists the tools with None
        start = 0 if params is None or params.cursor is None else int(params.cursor)
        end = start + PAGE
        return names[start:end], str(end) if end < len(names) else None

    @server.list_resources()
    async def list_resources(request: types.ListResourcesRequest) -> types.ListResourcesResult:
        names, cursor = page(SHELVES, request)
        shelves = [types.Resource(uri=AnyUrl(f"archive://{name}"), name=name) for name in names]
        return types.ListResourcesResult(resources=shelves, nextCursor=cursor)

    @server.list_prompts()
    async def list_prompts(request: types.ListPromptsRequest) -> types.ListPromptsResult:
        names, cursor = page(SHELVES, request)
        return types.ListPromptsResult(prompts=[types.Prompt(name=name) for name in names], nextCursor=cursor)

    @server.subscribe_resource()
    async def subscribe(uri: AnyUrl) -> None:
        wanted.add(str(uri))

    @server.unsubscribe_resource()
    async def unsubscribe(uri: AnyUrl) -> None:
        wanted.discard(str(uri))

    @server.set_logging_level()
    async def set_level(new: types.LoggingLevel) -> None:
        nonlocal level
        level = new

    @server.call_tool()
    async def call_tool(name: str, arguments: dict[str, Any]) -> Any:
        context = server.request_context
        if name == "count":
            pages = {"pages": "many"}
            return types.CallToolResult(content=[types.TextContent(type="text", text="many")], structuredContent=pages)
        if name == "file":
            for uri in sorted(wanted):
                await context.session.send_resource_updated(AnyUrl(uri))
            return [types.TextContent(type="text", text=f"{len(wanted)} notified")]
        if name == "whisper":
            text = f"the level is {level}"
            await context.session.send_log_message(level, text, logger="archive", related_request_id=context.request_id)
            return [types.TextContent(type="text", text="whispered")]
        return types.CallToolResult(content=[types.TextContent(type="text", text="not on the list")])

    return server


def workshop() -> Server:
    """Tools that run as tasks."""
    server: Server = Server("workshop")
    server.experimental.enable_tasks()

    @server.list_tools()
    async def list_tools() -> list[types.Tool]:
        required = types.ToolExecution(taskSupport=types.TASK_REQUIRED)
        return [
            types.Tool(name=name, inputSchema=ANY_OBJECT, execution=required) for name in ("repair", "demolish", "wait")
        ]

    async def repair(task: ServerTaskContext) -> types.CallToolResult:
        await task.update_status("sawing")
        return types.CallToolResult(content=[types.TextContent(type="text", text="repaired")])

    async def demolish(task: ServerTaskContext) -> types.CallToolResult:
        answer = await task.elicit("Really?", {"type": "object", "properties": {"sure": {"type": "boolean"}}})
        return types.CallToolResult(content=[types.TextContent(type="text", text=f"{answer.action} {answer.content}")])

    async def wait(task: ServerTaskContext) -> types.CallToolResult:
        await anyio.sleep_forever()
        raise AssertionError

    works = {"repair": repair, "demolish": demolish, "wait": wait}

    @server.call_tool()
    async def call_tool(name: str, arguments: dict[str, Any]) -> types.CreateTaskResult:
        experimental = server.request_context.experimental
        experimental.validate_task_mode(types.TASK_REQUIRED)
        return await experimental.run_task(works[name])

    return server


BUILDERS = {"archive": archive, "workshop": workshop}
