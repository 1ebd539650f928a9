"""Tools: lists and pages, the kinds of results, progress, errors, and a model that calls them."""

from __future__ import annotations

import json

import anyio
from mcp import types
from mcp.shared.metadata_utils import get_display_name
from mcp.types import PaginatedRequestParams

from .. import snippet


@snippet(on=("memory", "http", "sse", "json", "stateless"))
async def list_the_tools(connect, server):
    async with connect(server) as session:
        await session.initialize()
        response = await session.list_tools()
        for tool in response.tools:
            print(tool.name, "-", tool.description or "no description")
            print(json.dumps(tool.inputSchema, sort_keys=True))


@snippet(on=("memory",))
async def read_schemas_and_annotations(connect, server):
    async with connect(server) as session:
        await session.initialize()
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        print(tools["describe"].outputSchema)
        print(tools["describe"].annotations.readOnlyHint, tools["add"].annotations)
        print(tools["label"].outputSchema)


@snippet("archive")
async def turn_the_pages_with_params(connect, server):
    async with connect(server) as session:
        await session.initialize()
        cursor = None
        found = []
        while True:
            page = await session.list_resources(params=PaginatedRequestParams(cursor=cursor))
            found.extend(page.resources)
            print("got", len(page.resources))
            if page.nextCursor:
                cursor = page.nextCursor
            else:
                break
        print([str(resource.uri) for resource in found])


@snippet("archive", on=("memory",))
async def turn_the_pages_with_a_cursor(connect, server):
    async with connect(server) as session:
        await session.initialize()
        page = await session.list_prompts()
        print([prompt.name for prompt in page.prompts], page.nextCursor)
        while page.nextCursor:
            page = await session.list_prompts(page.nextCursor)
            print([prompt.name for prompt in page.prompts], page.nextCursor)
        tools = await session.list_tools(cursor=None)
        print([tool.name for tool in tools.tools], tools.nextCursor)


@snippet(on=("memory",))
async def go_through_a_list_by_its_fields(connect, server):
    async with connect(server) as session:
        await session.initialize()
        tools = []
        for item in await session.list_tools():
            if isinstance(item, tuple) and item[0] == "tools":
                tools.extend((tool.name, tool.title) for tool in item[1])
        print(tools)


@snippet()
async def show_names_for_people(connect, server):
    async with connect(server) as session:
        await session.initialize()
        for tool in (await session.list_tools()).tools:
            print("tool:", get_display_name(tool))
        for resource in (await session.list_resources()).resources:
            print("resource:", get_display_name(resource), resource.uri)
        for template in (await session.list_resource_templates()).resourceTemplates:
            print("template:", get_display_name(template))
        for prompt in (await session.list_prompts()).prompts:
            print("prompt:", get_display_name(prompt))


@snippet(on=("memory", "http", "stdio", "sse", "json", "stateless"))
async def call_a_tool(connect, server):
    async with connect(server) as session:
        await session.initialize()
        result = await session.call_tool("add", arguments={"a": 5, "b": 3})
        first = result.content[0]
        if isinstance(first, types.TextContent):
            print("text:", first.text)
        print("structured:", result.structuredContent)


@snippet(on=("memory",))
async def read_structured_results(connect, server):
    async with connect(server) as session:
        await session.initialize()
        result = await session.call_tool("describe", {"plant": "oak"})
        if result.structuredContent:
            print(result.structuredContent.get("name"), result.structuredContent.get("years"))
        print(result.model_dump(mode="json"))


@snippet()
async def tell_content_apart(connect, server):
    async with connect(server) as session:
        await session.initialize()
        result = await session.call_tool("leaflet", {})
        for content in [*result.content, *(await session.call_tool("picture")).content]:
            if isinstance(content, types.TextContent):
                print("text", content.text)
            elif isinstance(content, types.ImageContent):
                print("image", content.mimeType, len(content.data))
            elif isinstance(content, types.AudioContent):
                print("audio", content.mimeType, len(content.data))
            elif isinstance(content, types.ResourceLink):
                print("link", content.name, content.uri)
            elif isinstance(content, types.EmbeddedResource):
                resource = content.resource
                if isinstance(resource, types.TextResourceContents):
                    print("file", resource.uri, resource.text)
                else:
                    print("binary file", resource.uri, resource.blob)


@snippet()
async def see_a_tool_fail(connect, server):
    async with connect(server) as session:
        await session.initialize()
        for name, arguments in (("describe", {"plant": "cactus"}), ("add", {"a": "x"}), ("no_such_tool", {})):
            result = await session.call_tool(name, arguments)
            if result.isError:
                print(name, "failed:", result.content[0].text)


@snippet("archive")
async def be_warned_of_a_wrong_structure(connect, server):
    async with connect(server) as session:
        await session.initialize()
        try:
            await session.call_tool("count")
        except RuntimeError as exc:
            print(exc)


@snippet("archive")
async def call_a_tool_that_is_not_listed(connect, server):
    async with connect(server) as session:
        await session.initialize()
        print(await session.call_tool("hidden", {}))


@snippet(on=("memory", "http", "sse"))
async def follow_progress(connect, server):
    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        print(f"{progress}/{total}: {message}")

    async with connect(server) as session:
        await session.initialize()
        result = await session.call_tool("water", {"beds": 3}, progress_callback=on_progress)
        print(result.content)


@snippet()
async def send_meta_with_a_call(connect, server):
    async with connect(server) as session:
        await session.initialize()
        result = await session.call_tool("meta", {}, meta={"example.com/tenant": "blue", "example.com/n": 3})
        print(result.structuredContent)


@snippet()
async def call_many_tools_at_once(connect, server):
    async with connect(server) as session:
        await session.initialize()
        sums = {}

        async def add(n):
            sums[n] = (await session.call_tool("add", {"a": n, "b": n})).structuredContent["result"]

        async with anyio.create_task_group() as tg:
            for n in range(8):
                tg.start_soon(add, n)
        print(sorted(sums.items()))


@snippet()
async def give_a_call_up(connect, server):
    async with connect(server) as session:
        await session.initialize()
        with anyio.CancelScope() as scope:

            async def stop_when_it_runs(progress, total, message):
                print("it runs", progress)
                scope.cancel()

            await session.call_tool("grow", progress_callback=stop_when_it_runs)
        print("given up:", scope.cancelled_caught)
        print((await session.call_tool("add", {"a": 0, "b": 1})).structuredContent)


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
    async with connect(server) as session:
        await session.initialize()
        listed = await session.list_tools()
        tools = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.inputSchema}
            for tool in listed.tools
        ]
        model, messages = Model(), [{"role": "user", "content": "How old is the oak next year?"}]
        while not isinstance(reply := model.reply(messages, tools), str):
            messages.append({"role": "assistant", "content": reply})
            results = []
            for name, arguments in reply:
                result = await session.call_tool(name, arguments)
                text = "\n".join(part.text for part in result.content if isinstance(part, types.TextContent))
                results.append({"type": "tool_result", "content": text, "is_error": result.isError})
                print(name, arguments, "->", text, result.isError)
            messages.append({"role": "user", "content": results})
        print(reply)
