"""What a server requests or reports: sampling, elicitation, roots, log messages and all other messages."""

from __future__ import annotations

from urllib.parse import urlparse

import anyio
from mcp import ClientSession, McpError, types
from mcp.shared.context import RequestContext
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp.types import URL_ELICITATION_REQUIRED

from .. import snippet


@snippet(on=("memory", "http", "sse"))
async def receive_log_messages(connect, server):
    async def handle_log(params: types.LoggingMessageNotificationParams) -> None:
        print(f"[{params.level}] {params.data}")

    async with connect(server, logging_callback=handle_log) as session:
        await session.initialize()
        result = await session.call_tool("gossip")
        print(result.content)


@snippet(on=("memory",))
async def receive_log_messages_and_take_time(connect, server):
    lines = []

    async def handle_log(params):
        await anyio.sleep(0.1)
        lines.append(params.data)

    async with connect(server, logging_callback=handle_log) as session:
        await session.initialize()
        await session.call_tool("gossip")
        print("after the call:", lines)


@snippet("archive")
async def set_the_log_level(connect, server):
    async def handle_log(params):
        print(params.level, params.logger, params.data)

    async with connect(server, logging_callback=handle_log) as session:
        await session.initialize()
        print(await session.set_logging_level("warning"))
        await session.call_tool("whisper")
        await session.set_logging_level("error")
        await session.call_tool("whisper")


@snippet(on=("memory", "http", "stdio", "sse"))
async def sample_from_a_model(connect, server):
    async def handle_sampling(
        context: RequestContext[ClientSession, None], params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult:
        print("asked:", params.messages[0].content, params.maxTokens)
        return types.CreateMessageResult(
            role="assistant",
            content=types.TextContent(type="text", text="Roses are red."),
            model="my-model",
            stopReason="endTurn",
        )

    async with connect(server, sampling_callback=handle_sampling) as session:
        await session.initialize()
        print((await session.call_tool("poem", {"topic": "rose"})).content)


@snippet(on=("memory",))
async def refuse_to_sample(connect, server):
    async def handle_sampling(context, params):
        return types.ErrorData(code=types.INVALID_REQUEST, message="the user said no")

    async with connect(server, sampling_callback=handle_sampling) as session:
        await session.initialize()
        print(await session.call_tool("poem", {"topic": "rose"}))


@snippet(on=("memory",))
async def declare_what_sampling_can(connect, server):
    async def handle_sampling(context, params):
        raise NotImplementedError

    capabilities = types.SamplingCapability(tools=types.SamplingToolsCapability())
    async with connect(server, sampling_callback=handle_sampling, sampling_capabilities=capabilities) as session:
        await session.initialize()
        print((await session.call_tool("visitor")).structuredContent)


@snippet()
async def answer_an_elicitation(connect, server):
    async def handle_elicitation(context, params: types.ElicitRequestParams) -> types.ElicitResult:
        print(params.mode, params.message, sorted(params.requestedSchema["properties"]))
        return types.ElicitResult(action="accept", content={"name": "Robin", "beds": 4})

    async with connect(server, elicitation_callback=handle_elicitation) as session:
        await session.initialize()
        print((await session.call_tool("hire")).content)


@snippet()
async def decline_or_cancel_an_elicitation(connect, server):
    actions = ["decline", "cancel"]

    async def handle_elicitation(context, params):
        return types.ElicitResult(action=actions.pop(0))

    async with connect(server, elicitation_callback=handle_elicitation) as session:
        await session.initialize()
        print((await session.call_tool("hire")).content[0].text)
        print((await session.call_tool("hire")).content[0].text)


@snippet()
async def support_pages_only(connect, server):
    async def handle_elicitation(context, params):
        if params.mode != "url":
            return types.ErrorData(code=types.INVALID_REQUEST, message=f"no elicitation in mode {params.mode}")
        page = urlparse(str(params.url))
        print("open", page.netloc, params.elicitationId, params.message)
        return types.ElicitResult(action="accept" if page.scheme == "https" else "decline")

    finished = anyio.Event()

    async def handle_message(message):
        if isinstance(message, types.ServerNotification) and isinstance(message.root, types.ElicitCompleteNotification):
            print("finished", message.root.params.elicitationId)
            finished.set()

    async with connect(server, elicitation_callback=handle_elicitation, message_handler=handle_message) as session:
        await session.initialize()
        answer = await session.call_tool("donate")
        with anyio.fail_after(5):
            await finished.wait()
        print(answer.content)
        print(await session.call_tool("hire"))


@snippet()
async def visit_a_page_before_the_call(connect, server):
    async with connect(server) as session:
        await session.initialize()
        try:
            await session.call_tool("enter")
        except McpError as exc:
            if exc.error.code != URL_ELICITATION_REQUIRED:
                raise
            for page in UrlElicitationRequiredError.from_error(exc.error).elicitations:
                print(page.elicitationId, page.url, page.message)


@snippet()
async def answer_nothing(connect, server):
    async with connect(server) as session:
        await session.initialize()
        print((await session.call_tool("visitor")).structuredContent)
        for tool, arguments in (("hire", {}), ("poem", {"topic": "fern"}), ("folders", {})):
            print(tool, await session.call_tool(tool, arguments))


@snippet()
async def share_the_roots(connect, server):
    roots = [types.Root(uri="file:///home/user/plans", name="Plans")]

    async def handle_list_roots(context: RequestContext[ClientSession, None]) -> types.ListRootsResult:
        return types.ListRootsResult(roots=list(roots))

    async with connect(server, list_roots_callback=handle_list_roots) as session:
        await session.initialize()
        print((await session.call_tool("folders")).structuredContent)
        roots.append(types.Root(uri="file:///home/user/seeds", name="Seeds"))
        await session.send_roots_list_changed()
        print((await session.call_tool("folders")).structuredContent)
        print((await session.call_tool("visitor")).structuredContent)


@snippet(on=("memory",))
async def use_the_context_of_a_callback(connect, server):
    async def handle_list_roots(context):
        print(isinstance(context.session, ClientSession), type(context.request_id).__name__)
        return types.ListRootsResult(roots=[])

    async with connect(server, list_roots_callback=handle_list_roots) as session:
        await session.initialize()
        print(await session.call_tool("folders"))


@snippet(on=("memory",))
async def raise_in_a_callback(connect, server):
    async def handle_list_roots(context):
        raise LookupError("no folders here")

    async with connect(server, list_roots_callback=handle_list_roots) as session:
        await session.initialize()
        print(await session.call_tool("folders"))
        print((await session.call_tool("add", {"a": 1, "b": 1})).structuredContent)


@snippet(on=("banner",))
async def hear_of_broken_messages(connect, server):
    async def handle_message(message):
        if isinstance(message, Exception):
            print("cannot be read:", type(message).__name__)

    async with connect(server, message_handler=handle_message) as session:
        await session.initialize()
        print((await session.call_tool("add", {"a": 1, "b": 1})).structuredContent)


@snippet()
async def hear_of_every_message(connect, server):
    async def handle_message(message):
        if isinstance(message, types.ServerNotification):
            print("message:", message.root.method)

    async def handle_log(params):
        print("log:", params.data)

    async with connect(server, message_handler=handle_message, logging_callback=handle_log) as session:
        await session.initialize()
        await session.call_tool("gossip")
        await session.call_tool("water", {"beds": 1})
