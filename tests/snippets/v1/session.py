"""The session itself: the handshake, pings, errors, time limits, requests and notifications in the SDK's types."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta

import anyio
from mcp import McpError, types

from .. import snippet


@snippet(on=("memory", "http", "stdio", "sse", "json", "stateless"))
async def shake_hands(connect, server):
    async with connect(server) as session:
        answer = await session.initialize()
        print(answer.serverInfo.name, answer.serverInfo.version)
        print(answer.protocolVersion, answer.instructions)
        print(answer.capabilities)


@snippet(on=("memory",))
async def look_for_capabilities(connect, server):
    async with connect(server) as session:
        await session.initialize()
        capabilities = session.get_server_capabilities()
        if capabilities is not None and capabilities.prompts is not None:
            print([prompt.name for prompt in (await session.list_prompts()).prompts])
        if capabilities is not None and capabilities.logging is None:
            print("does not log")


@snippet(on=("memory",))
async def initialize_only_when_needed(connect, server):
    async with connect(server) as session:
        if session.get_server_capabilities() is None:
            await session.initialize()
        print([tool.name for tool in (await session.list_tools()).tools])


@snippet()
async def ping_the_server(connect, server):
    async with connect(server) as session:
        await session.initialize()
        answer = await session.send_ping()
        print("alive", answer == types.EmptyResult())


@snippet(on=("memory",))
async def introduce_the_client(connect, server):
    async with connect(server, client_info=types.Implementation(name="my-agent", version="0.3")) as session:
        await session.initialize()
        print((await session.call_tool("visitor")).structuredContent)


@snippet(on=("memory",))
async def keep_the_session_in_an_exit_stack(connect, server):
    class Assistant:
        def __init__(self):
            self.session = None
            self.exit_stack = AsyncExitStack()

        async def connect_to_server(self):
            self.session = await self.exit_stack.enter_async_context(connect(server))
            await self.session.initialize()
            listed = await self.session.list_tools()
            print("Connected, with", [tool.name for tool in listed.tools])

        async def answer(self, question):
            result = await self.session.call_tool("describe", {"plant": question})
            return result.content[0].text

        async def cleanup(self):
            await self.exit_stack.aclose()

    assistant = Assistant()
    try:
        await assistant.connect_to_server()
        print(await assistant.answer("fern"))
    finally:
        await assistant.cleanup()


@snippet(on=("http",))
async def hold_two_sessions(connect, server):
    async with connect(server) as one, connect(server) as other:
        await one.initialize()
        await other.initialize()
        print((await one.call_tool("label", {"plant": "oak"})).content)
        print((await other.call_tool("label", {"plant": "fern"})).content)


@snippet(on=("testing",))
async def test_a_server_of_this_process(connect, server):
    async with connect(server) as session:
        result = await session.call_tool("add", {"a": 1, "b": 2})
        assert result == types.CallToolResult(
            content=[types.TextContent(type="text", text="3")], structuredContent={"result": 3}
        )
        print(result)


@snippet()
async def limit_the_time_of_a_session(connect, server):
    async with connect(server, read_timeout_seconds=timedelta(seconds=0.3)) as session:
        await session.initialize()
        try:
            await session.call_tool("grow")
        except McpError as exc:
            print("timed out", exc.error.code)
        print((await session.call_tool("add", {"a": 1, "b": 1})).structuredContent)


@snippet()
async def limit_the_time_of_a_call(connect, server):
    async with connect(server) as session:
        await session.initialize()
        try:
            await session.call_tool("grow", read_timeout_seconds=timedelta(seconds=0.2))
        except McpError as exc:
            print("timed out", exc.error.code)
        result = await session.call_tool("add", {"a": 2, "b": 2}, read_timeout_seconds=timedelta(seconds=5))
        print(result.structuredContent)


@snippet()
async def handle_errors_of_the_protocol(connect, server):
    async with connect(server) as session:
        await session.initialize()
        for attempt in (
            lambda: session.get_prompt("no such prompt"),
            lambda: session.read_resource("garden://nowhere"),
            lambda: session.subscribe_resource("garden://rules"),
            lambda: session.set_logging_level("debug"),
        ):
            try:
                await attempt()
            except McpError as exc:
                print(exc.error.code, exc.error.message, exc.error.data)
                print(str(exc))


@snippet()
async def send_a_request_in_the_types(connect, server):
    async with connect(server) as session:
        await session.initialize()
        ping = types.ClientRequest(types.PingRequest())
        print(await session.send_request(ping, types.EmptyResult))
        params = types.CallToolRequestParams(name="add", arguments={"a": 5, "b": 6})
        call = types.ClientRequest(types.CallToolRequest(params=params))
        print(await session.send_request(call, types.CallToolResult))
        result = await session.send_request(
            call, types.CallToolResult, request_read_timeout_seconds=timedelta(seconds=5)
        )
        print(result.structuredContent)


@snippet()
async def follow_the_progress_of_a_request(connect, server):
    async def on_progress(progress, total, message):
        print("progress", progress, total, message)

    async with connect(server) as session:
        await session.initialize()
        params = types.CallToolRequestParams(name="water", arguments={"beds": 2})
        request = types.ClientRequest(types.CallToolRequest(params=params))
        print(await session.send_request(request, types.CallToolResult, progress_callback=on_progress))


@snippet()
async def send_notifications_in_the_types(connect, server):
    async with connect(server) as session:
        await session.initialize()
        params = types.CancelledNotificationParams(requestId="request-7", reason="The user left")
        cancelled = types.ClientNotification(types.CancelledNotification(params=params))
        print(await session.send_notification(cancelled))
        print(await session.send_progress_notification("token-1", 0.5, total=1.0, message="half"))
        print(await session.send_roots_list_changed())
        print(await session.send_ping())


@snippet(on=("memory",))
async def retry_by_hand(connect, server):
    async with connect(server) as session:
        await session.initialize()
        for attempt in range(2):
            try:
                with anyio.fail_after(0.2):
                    await session.call_tool("grow")
            except TimeoutError:
                print("attempt", attempt, "took too long")
        print((await session.call_tool("label", {"plant": "rose"})).content)
