"""The client: its state once connected, protocol versions, errors, time limits and the cache."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
from mcp import MCPError
from mcp.client import CacheConfig
from mcp.shared.metadata_utils import get_display_name
from mcp.types import INVALID_PARAMS, DiscoverResult, Implementation, TextContent
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from .. import snippet


@snippet(on=("memory", "http", "stdio", "sse", "json", "stateless"))
async def look_at_the_connection(connect, server):
    async with connect(server) as client:
        print(client.server_info)
        print(client.server_capabilities)
        print(client.protocol_version)
        print(client.instructions)


@snippet()
async def speak_the_older_protocol(connect, server):
    async with connect(server, mode="legacy") as client:
        print(client.protocol_version == LATEST_HANDSHAKE_VERSION, client.server_info.name)
        print((await client.call_tool("add", {"a": 1, "b": 2})).structured_content)


@snippet()
async def pin_the_newest_protocol(connect, server):
    async with connect(server, mode=LATEST_MODERN_VERSION) as client:
        print(client.protocol_version, client.server_info, client.server_capabilities)
        print([tool.name for tool in (await client.list_tools()).tools])


@snippet()
async def connect_in_both_eras(connect, server):
    async with connect(server, mode="auto") as modern:
        print(modern.protocol_version, modern.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS)
        print((await modern.call_tool("label", {"plant": "oak"})).content)
    async with connect(server, mode="legacy") as legacy:
        print(legacy.protocol_version, legacy.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS)
        print((await legacy.call_tool("label", {"plant": "oak"})).content)


@snippet()
async def misspell_the_mode(connect, server):
    try:
        connect(server, mode="2024-11-05")
    except ValueError as exc:
        print("refused", "legacy" in str(exc))


@snippet()
async def reconnect_with_what_is_known(connect, server):
    async with connect(server) as client:
        known = client.session.discover_result
        print(LATEST_MODERN_VERSION in known.supported_versions)
    stored = known.model_dump_json(by_alias=True)

    loaded = DiscoverResult.model_validate_json(stored)
    async with connect(server, mode=LATEST_MODERN_VERSION, prior_discover=loaded) as client:
        print(client.protocol_version, client.server_info.name, client.server_capabilities.tools is not None)
        print(client.session.discover_result == loaded)
        print((await client.call_tool("add", {"a": 1, "b": 1})).structured_content)


@snippet()
async def look_too_early(connect, server):
    client = connect(server)
    try:
        print(client.session)
    except RuntimeError:
        print("not connected yet")


@snippet()
async def enter_a_client_twice(connect, server):
    client = connect(server)
    async with client:
        print(client.server_info.name)
    try:
        async with client:
            raise AssertionError
    except RuntimeError:
        print("make a new one")


@snippet()
async def introduce_the_client(connect, server):
    async with connect(server, mode="legacy", client_info=Implementation(name="my-agent", version="1")) as client:
        print((await client.call_tool("visitor")).structured_content)


@snippet()
async def keep_the_client_in_an_exit_stack(connect, server):
    class Assistant:
        def __init__(self):
            self.client = None
            self.exit_stack = AsyncExitStack()

        async def connect_to_server(self):
            self.client = await self.exit_stack.enter_async_context(connect(server, mode="auto"))
            listed = await self.client.list_tools()
            print("Connected over", self.client.protocol_version, "with", [tool.name for tool in listed.tools])

        async def cleanup(self):
            await self.exit_stack.aclose()

    assistant = Assistant()
    try:
        await assistant.connect_to_server()
        result = await assistant.client.call_tool("describe", {"plant": "fern"})
        print(result.structured_content)
    finally:
        await assistant.cleanup()


@snippet()
async def look_at_the_options(connect, server):
    async def handle(*_):
        raise NotImplementedError

    info = Implementation(name="my-agent", version="1")
    client = connect(server, client_info=info, elicitation_callback=handle, read_timeout_seconds=9, mode="legacy")
    print(client.mode, client.client_info, client.elicitation_callback is handle, client.read_timeout_seconds)
    print(client.server is server, client.raise_exceptions, client.log_level, client.input_required_max_rounds)
    print(client.sampling_callback, client.list_roots_callback, client.logging_callback, client.message_handler)
    print(client.extensions, client.prior_discover, client.sampling_capabilities, client.cache is not None)


@snippet("archive")
async def tell_the_two_kinds_of_error_apart(connect, server):
    async with connect(server) as client:
        try:
            await client.call_tool("refuse")
        except MCPError as exc:
            print(exc.code == INVALID_PARAMS, exc.code, exc.message, exc.data)
            print(exc.error)
            print(str(exc))


@snippet()
async def handle_errors_of_the_protocol(connect, server):
    async with connect(server) as client:
        for attempt in (
            lambda: client.get_prompt("no such prompt"),
            lambda: client.read_resource("garden://nowhere"),
            lambda: client.call_tool("enter"),
        ):
            try:
                await attempt()
            except MCPError as exc:
                print(exc.code, exc.message, exc.data)


@snippet()
async def limit_the_time_of_a_client(connect, server):
    async with connect(server, read_timeout_seconds=0.5) as client:
        try:
            await client.call_tool("grow")
        except MCPError as exc:
            print("timed out", exc.code)
        print((await client.call_tool("add", {"a": 1, "b": 1})).structured_content)


@snippet()
async def limit_the_time_of_a_call(connect, server):
    async with connect(server) as client:
        try:
            await client.call_tool("grow", read_timeout_seconds=0.2)
        except MCPError as exc:
            print("timed out", exc.code)
        print((await client.call_tool("add", {"a": 1, "b": 1}, read_timeout_seconds=5)).structured_content)


@snippet(on=("memory",))
async def let_errors_of_a_test_through(connect, server):
    async with connect(server, raise_exceptions=True) as client:
        print((await client.call_tool("add", {"a": 1, "b": 2})).structured_content)
        print((await client.call_tool("describe", {"plant": "cactus"})).is_error)
        try:
            await client.read_resource("garden://nowhere")
        except Exception as exc:
            print(type(exc).__name__, exc)


@snippet(on=("http",))
async def hold_two_clients(connect, server):
    seen = {}

    async def work(plant):
        async def on_progress(progress, total, message):
            seen.setdefault(plant, []).append(message)

        async with connect(server) as client:
            await client.call_tool("water", {"beds": len(plant)}, progress_callback=on_progress)

    async with anyio.create_task_group() as tg:
        for plant in ("ivy", "lily"):
            tg.start_soon(work, plant)
    print(sorted(seen.items()))


@snippet("almanac", on=("memory",))
async def reuse_what_may_be_cached(connect, server):
    now = 1_000_000.0
    async with connect(server, cache=CacheConfig(clock=lambda: now)) as client:

        async def newest(**options):
            return (await client.list_resources(**options)).resources[0].name

        print(await newest(), await newest())
        now += 61
        print(await newest(), await newest(cache_mode="refresh"), await newest())
        print(await newest(cache_mode="bypass"), await newest())


@snippet("almanac", on=("memory",))
async def cache_nothing(connect, server):
    async with connect(server, cache=None) as client:
        for _ in range(2):
            print((await client.list_resources()).resources[0].name)


@snippet()
async def show_names_for_people(connect, server):
    async with connect(server) as client:
        for tool in (await client.list_tools()).tools:
            print("tool:", get_display_name(tool))
        for resource in (await client.list_resources()).resources:
            print("resource:", get_display_name(resource), resource.uri)
        for template in (await client.list_resource_templates()).resource_templates:
            print("template:", get_display_name(template))
        for prompt in (await client.list_prompts()).prompts:
            print("prompt:", get_display_name(prompt))


@snippet(on=("memory",))
async def embed_a_server(connect, server):
    async with connect(server) as client:
        result = await client.call_tool("label", {"plant": "rose"})
        [content] = result.content
        assert isinstance(content, TextContent)
        print(content.text, result)
