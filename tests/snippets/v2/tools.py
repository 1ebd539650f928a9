"""Tools: lists and pages, the kinds of results, progress, errors, and a model that calls them."""

from __future__ import annotations

import json

import anyio
from mcp.types import (
    AudioContent,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
)

from .. import snippet


@snippet(on=("memory", "http", "sse"))
async def list_the_tools(connect, server):
    async with connect(server) as client:
        for tool in (await client.list_tools()).tools:
            print(tool.name, tool.title, tool.description)
            print(json.dumps(tool.input_schema, sort_keys=True))


@snippet()
async def read_schemas_and_annotations(connect, server):
    async with connect(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        print(tools["describe"].output_schema)
        print(tools["describe"].annotations.read_only_hint, tools["add"].annotations)
        print(tools["label"].output_schema)


@snippet()
async def collect_all_tools(connect, server):
    async with connect(server) as client:
        tools: list[Tool] = []
        cursor: str | None = None
        while True:
            page = await client.list_tools(cursor=cursor)
            tools.extend(page.tools)
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
        print([tool.name for tool in tools])


@snippet(on=("memory", "http", "stdio", "sse", "json", "stateless"))
async def call_a_tool(connect, server):
    async with connect(server) as client:
        result = await client.call_tool("describe", {"plant": "oak"})
        for block in result.content:
            if isinstance(block, TextContent):
                print(block.text)
        print(result.structured_content, result.is_error)
        print(result)


@snippet()
async def tell_content_apart(connect, server):
    async with connect(server) as client:
        result = await client.call_tool("leaflet")
        for content in [*result.content, *(await client.call_tool("picture")).content]:
            match content:
                case TextContent(text=text):
                    print("text", text)
                case ImageContent() | AudioContent():
                    print(content.type, content.mime_type, len(content.data))
                case ResourceLink():
                    print("link", content.name, content.uri)
                case EmbeddedResource(resource=TextResourceContents() as resource):
                    print("file", resource.uri, resource.text)
                case EmbeddedResource():
                    print("binary file", content.resource.uri, content.resource.blob)


@snippet()
async def see_a_tool_fail(connect, server):
    async with connect(server) as client:
        for name, arguments in (("describe", {"plant": "cactus"}), ("add", {"a": "x"}), ("no_such_tool", {})):
            result = await client.call_tool(name, arguments)
            print(name, result.is_error, result.content, result.structured_content)


@snippet("archive")
async def be_warned_of_a_wrong_structure(connect, server):
    async with connect(server) as client:
        try:
            await client.call_tool("count")
        except RuntimeError as exc:
            print(exc)


@snippet("archive")
async def call_a_tool_that_is_not_listed(connect, server):
    async with connect(server) as client:
        print(await client.call_tool("hidden", {}))


@snippet(on=("memory", "http", "sse"))
async def follow_progress(connect, server):
    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        print(f"{progress:g}/{total:g}: {message}")  # over streams, mcp 2.x makes them floats

    async with connect(server) as client:
        result = await client.call_tool("water", {"beds": 3}, progress_callback=on_progress)
        print(result.content)


@snippet(on=("json",))
async def hear_no_progress_of_json(connect, server):
    seen = []

    async def on_progress(progress, total, message):
        seen.append(progress)

    async with connect(server) as client:
        result = await client.call_tool("water", {"beds": 2}, progress_callback=on_progress)
        print(result.content, seen)


@snippet()
async def send_meta_with_a_call(connect, server):
    async with connect(server) as client:
        result = await client.call_tool("meta", {}, meta={"example.com/tenant": "blue", "example.com/n": 3})
        print(result.structured_content)


@snippet()
async def call_many_tools_at_once(connect, server):
    async with connect(server) as client:
        sums = {}

        async def add(n):
            sums[n] = (await client.call_tool("add", {"a": n, "b": n})).structured_content["result"]

        async with anyio.create_task_group() as tg:
            for n in range(8):
                tg.start_soon(add, n)
        print(sorted(sums.items()))


@snippet()
async def give_a_call_up(connect, server):
    async with connect(server) as client:
        with anyio.CancelScope() as scope:

            async def stop_when_it_runs(progress, total, message):
                print("it runs", progress)
                scope.cancel()

            await client.call_tool("grow", progress_callback=stop_when_it_runs)
        print("given up:", scope.cancelled_caught)
        print((await client.call_tool("add", {"a": 0, "b": 1})).structured_content)


class Model:
    """Takes the place of a model: requests two tools, then answers."""

    def __init__(self):
        self.turns = [
            [("describe", {"plant": "oak"}), ("describe", {"plant": "palm"})],
            [("add", {"a": 300, "b": 1})],
            "The oak is 301 years old next year.",
        ]

    def reply(self, messages, tools):
        assert {tool["name"] for tool in tools} >= {"add", "describe"}
        assert all(message["content"] for message in messages)
        return self.turns.pop(0)


@snippet()
async def let_a_model_call_tools(connect, server):
    async with connect(server) as client:
        listed = await client.list_tools()
        tools = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
            for tool in listed.tools
        ]
        model, messages = Model(), [{"role": "user", "content": "How old is the oak next year?"}]
        while not isinstance(reply := model.reply(messages, tools), str):
            messages.append({"role": "assistant", "content": reply})
            results = []
            for name, arguments in reply:
                result = await client.call_tool(name, arguments)
                text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
                results.append({"type": "tool_result", "content": text, "is_error": bool(result.is_error)})
                print(name, arguments, "->", text, result.is_error)
            messages.append({"role": "user", "content": results})
        print(reply)
