"""A `ClientSession` over the streams of a transport, as programs for 1.x still use it on 2.x.

It is replaced by `ResilientClient(server, mode="legacy")`: such a session speaks the handshake protocol.
"""

from __future__ import annotations

import anyio
import mcp.types as types
from mcp import ClientSession, MCPError
from mcp.client import ClientRequestContext
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp.types import URL_ELICITATION_REQUIRED, PaginatedRequestParams, PromptReference

from .. import snippet


@snippet(on=("memory", "http", "stdio", "sse"), streams="legacy")
async def shake_hands(connect, server):
    async with connect(server) as session:
        answer = await session.initialize()
        print(answer.server_info.name, answer.protocol_version, answer.instructions)
        print(answer.capabilities)
        print(session.protocol_version, session.server_info.name, session.server_capabilities == answer.capabilities)
        print([tool.name for tool in (await session.list_tools()).tools])


@snippet(streams="legacy")
async def go_through_all_verbs(connect, server):
    async with connect(server) as session:
        await session.initialize()
        print([prompt.name for prompt in (await session.list_prompts()).prompts])
        print((await session.get_prompt("welcome", arguments={"name": "Alex"})).messages[0].content)
        print([resource.uri for resource in (await session.list_resources()).resources])
        print([template.uri_template for template in (await session.list_resource_templates()).resource_templates])
        print((await session.read_resource("garden://beds/west")).contents[0])
        result = await session.call_tool("add", arguments={"a": 5, "b": 3})
        print(result.content[0], result.structured_content)
        prompt = PromptReference(type="ref/prompt", name="advise")
        print((await session.complete(ref=prompt, argument={"name": "plant", "value": ""})).completion.values)
        print(await session.send_ping())


@snippet("archive", streams="legacy")
async def turn_the_pages_with_params(connect, server):
    async with connect(server) as session:
        await session.initialize()
        names, cursor = [], None
        while True:
            page = await session.list_resources(params=PaginatedRequestParams(cursor=cursor))
            names.extend(resource.name for resource in page.resources)
            if not page.next_cursor:
                break
            cursor = page.next_cursor
        print(names)


@snippet(streams="legacy")
async def send_messages_in_the_types(connect, server):
    async with connect(server) as session:
        await session.initialize()
        params = types.CallToolRequestParams(name="add", arguments={"a": 1, "b": 2})
        request = types.CallToolRequest(params=params)
        print(await session.send_request(request, types.CallToolResult))
        print(await session.send_request(request, types.CallToolResult, request_read_timeout_seconds=5))
        cancelled = types.CancelledNotificationParams(request_id="request-7")
        print(await session.send_notification(types.CancelledNotification(params=cancelled)))
        print(await session.send_progress_notification("token-1", 1))


@snippet(streams="legacy")
async def lend_a_model(connect, server):
    async def handle_sampling(
        context: ClientRequestContext, params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult:
        print(isinstance(context.session, ClientSession), params.messages[0].content)
        content = types.TextContent(type="text", text="Violets are blue.")
        return types.CreateMessageResult(role="assistant", content=content, model="my-model", stop_reason="endTurn")

    async with connect(server, sampling_callback=handle_sampling) as session:
        await session.initialize()
        print((await session.call_tool("poem", {"topic": "violet"})).content)


@snippet(streams="legacy")
async def visit_pages(connect, server):
    async def handle_elicitation(context, params):
        if params.mode == "url":
            print("open", params.url)
            return types.ElicitResult(action="accept")
        return types.ErrorData(code=types.INVALID_REQUEST, message=f"no elicitation in mode {params.mode}")

    async with connect(server, elicitation_callback=handle_elicitation) as session:
        await session.initialize()
        print((await session.call_tool("donate")).content)
        for tool in ("enter", "hire"):
            try:
                print(await session.call_tool(tool))
            except MCPError as exc:
                print(exc.error.code, exc.error.message)
                if exc.error.code == URL_ELICITATION_REQUIRED:
                    pages = UrlElicitationRequiredError.from_error(exc.error).elicitations
                    print([(page.elicitation_id, page.url) for page in pages])


@snippet(streams="legacy")
async def limit_the_time_of_a_session(connect, server):
    async with connect(server, read_timeout_seconds=0.5) as session:
        await session.initialize()
        try:
            await session.call_tool("grow")
        except MCPError as exc:
            print("timed out", exc.error.code)


@snippet("archive", streams="legacy")
async def follow_a_resource_and_the_log(connect, server):
    complete = anyio.Event()
    seen = []

    def note(what):
        seen.append(what)
        if len(seen) == 3:
            complete.set()

    async def handle_message(message):
        if not isinstance(message, Exception):
            note(message.method)

    async def handle_log(params):
        note(params.data)

    async with connect(server, message_handler=handle_message, logging_callback=handle_log) as session:
        await session.initialize()
        await session.subscribe_resource("archive://shelf-1")
        await session.set_logging_level("warning")
        await session.call_tool("whisper")
        await session.call_tool("file")
        with anyio.fail_after(5):
            await complete.wait()
        print(sorted(seen))


@snippet(on=("http",), streams="auto")
async def discover_instead_of_a_handshake(connect, server):
    async with connect(server) as session:
        found = await session.discover()
        print(session.protocol_version, session.discover_result == found, session.initialize_result)
        print((await session.call_tool("add", {"a": 1, "b": 1})).structured_content)


@snippet("archive", streams="legacy")
async def validate_a_result_by_hand(connect, server):
    async with connect(server) as session:
        await session.initialize()
        result = types.CallToolResult(content=[], structured_content={"pages": 12})
        print(await session.validate_tool_result("count", result))
        try:
            await session.validate_tool_result("count", types.CallToolResult(content=[]))
        except RuntimeError as exc:
            print(exc)
