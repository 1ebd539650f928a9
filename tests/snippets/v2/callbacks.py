"""What a server of the handshake era requests or reports, and log messages in both eras."""

from __future__ import annotations

from urllib.parse import urlparse

import anyio
from mcp import MCPError
from mcp.client import ClientRequestContext, IncomingMessage
from mcp.types import (
    INVALID_REQUEST,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitCompleteNotification,
    ElicitRequestParams,
    ElicitRequestURLParams,
    ElicitResult,
    ErrorData,
    ListRootsResult,
    LoggingMessageNotificationParams,
    Root,
    SamplingCapability,
    SamplingToolsCapability,
    TextContent,
)
from pydantic import FileUrl

from .. import snippet


@snippet(on=("memory", "http", "sse"))
async def receive_log_messages(connect, server):
    logs: list[LoggingMessageNotificationParams] = []
    complete = anyio.Event()

    async def on_log(params: LoggingMessageNotificationParams) -> None:
        logs.append(params)
        if params.level == "warning":
            complete.set()

    async with connect(server, mode="legacy", logging_callback=on_log) as client:
        print((await client.call_tool("gossip")).content)
        with anyio.fail_after(5):
            await complete.wait()
        print(sorted((log.level, log.data) for log in logs))


@snippet()
async def receive_log_messages_from_a_level_up(connect, server):
    logs = []

    async def on_log(params):
        logs.append((params.level, params.data))

    async with connect(server, logging_callback=on_log, log_level="info") as client:
        await client.call_tool("gossip")
        print(sorted(logs))


@snippet()
async def receive_no_log_messages(connect, server):
    logs = []

    async def on_log(params):
        logs.append((params.level, params.data))

    async with connect(server, logging_callback=on_log) as client:
        await client.call_tool("gossip")
        print(client.protocol_version, logs)


@snippet("archive")
async def set_the_log_level(connect, server):
    levels = []
    complete = anyio.Event()

    async def on_log(params):
        levels.append((params.level, params.logger, params.data))
        if len(levels) == 2:
            complete.set()

    async with connect(server, mode="legacy", logging_callback=on_log) as client:
        print(await client.set_logging_level("warning"))
        await client.call_tool("whisper")
        await client.set_logging_level("error")
        await client.call_tool("whisper")
        with anyio.fail_after(5):
            await complete.wait()
        print(sorted(levels))


@snippet(on=("memory", "http", "stdio", "sse"))
async def sample_from_a_model(connect, server):
    async def on_sample(context: ClientRequestContext, params: CreateMessageRequestParams) -> CreateMessageResult:
        print("asked:", params.messages[0].content, params.max_tokens)
        return CreateMessageResult(
            role="assistant", content=TextContent(text="Roses are red."), model="my-model", stop_reason="endTurn"
        )

    async with connect(server, mode="legacy", sampling_callback=on_sample) as client:
        print((await client.call_tool("poem", {"topic": "rose"})).content)


@snippet()
async def refuse_to_sample(connect, server):
    async def on_sample(context, params):
        return ErrorData(code=INVALID_REQUEST, message="the user said no")

    async with connect(server, mode="legacy", sampling_callback=on_sample) as client:
        try:
            print(await client.call_tool("poem", {"topic": "rose"}))
        except MCPError as exc:
            print(exc.code, exc.message)


@snippet()
async def declare_what_the_client_can(connect, server):
    async def handle(*_):
        raise NotImplementedError

    capabilities = SamplingCapability(tools=SamplingToolsCapability())
    for options in (
        {},
        {"elicitation_callback": handle},
        {"sampling_callback": handle, "sampling_capabilities": capabilities, "list_roots_callback": handle},
    ):
        async with connect(server, mode="legacy", **options) as client:
            print((await client.call_tool("visitor")).structured_content)


@snippet(on=("memory", "http", "sse"))
async def answer_an_elicitation(connect, server):
    async def on_elicit(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        print(params.mode, params.message, sorted(params.requested_schema["properties"]))
        return ElicitResult(action="accept", content={"name": "Robin", "beds": 4})

    async with connect(server, mode="legacy", elicitation_callback=on_elicit) as client:
        print((await client.call_tool("hire")).content)


@snippet()
async def decline_or_cancel_an_elicitation(connect, server):
    answer = "decline"

    async def on_elicit(context, params):
        return ElicitResult(action=answer)

    async with connect(server, mode="legacy", elicitation_callback=on_elicit) as client:
        print((await client.call_tool("hire")).content)
        answer = "cancel"
        print((await client.call_tool("hire")).content)


@snippet()
async def visit_a_page(connect, server):
    async def on_elicit(context, params):
        if isinstance(params, ElicitRequestURLParams):
            print("open", urlparse(params.url).netloc, params.elicitation_id)
            return ElicitResult(action="accept")
        return ErrorData(code=INVALID_REQUEST, message="pages only")

    finished = anyio.Event()

    async def on_message(message: IncomingMessage) -> None:
        if isinstance(message, ElicitCompleteNotification):
            print("finished", message.params.elicitation_id)
            finished.set()

    async with connect(server, mode="legacy", elicitation_callback=on_elicit, message_handler=on_message) as client:
        answer = await client.call_tool("donate")
        with anyio.fail_after(5):
            await finished.wait()
        print(answer.content)
        try:
            print(await client.call_tool("hire"))
        except MCPError as exc:
            print(exc.code, exc.message)


@snippet()
async def answer_nothing(connect, server):
    async with connect(server, mode="legacy") as client:
        for tool, arguments in (("hire", {}), ("poem", {"topic": "fern"}), ("folders", {})):
            try:
                print(tool, await client.call_tool(tool, arguments))
            except MCPError as exc:
                print(tool, exc.code, exc.message)


@snippet()
async def be_asked_where_the_protocol_has_no_way(connect, server):
    async def on_elicit(context, params):
        raise AssertionError

    async with connect(server, elicitation_callback=on_elicit) as client:
        try:
            print(await client.call_tool("hire"))
        except MCPError as exc:
            print(exc.code, exc.message)


@snippet(on=("memory", "http", "sse"))
async def share_the_roots(connect, server):
    roots = [Root(uri=FileUrl("file:///home/user/plans"), name="plans")]

    async def on_list_roots(context: ClientRequestContext) -> ListRootsResult:
        return ListRootsResult(roots=list(roots))

    async with connect(server, mode="legacy", list_roots_callback=on_list_roots) as client:
        print((await client.call_tool("folders")).structured_content)
        roots.append(Root(uri=FileUrl("file:///home/user/seeds")))
        await client.send_roots_list_changed()
        print((await client.call_tool("folders")).structured_content)


@snippet()
async def use_the_context_of_a_callback(connect, server):
    async def on_list_roots(context):
        listed = await context.session.list_prompts()
        print(len(listed.prompts), context.request_id is not None)
        return ListRootsResult(roots=[])

    async with connect(server, mode="legacy", list_roots_callback=on_list_roots) as client:
        print(await client.call_tool("folders"))


@snippet()
async def raise_in_a_callback(connect, server):
    async def on_list_roots(context):
        raise LookupError("no folders here")

    async with connect(server, mode="legacy", list_roots_callback=on_list_roots) as client:
        try:
            print(await client.call_tool("folders"))
        except MCPError as exc:
            print(exc.code, exc.message)
        print((await client.call_tool("add", {"a": 1, "b": 1})).structured_content)


@snippet(on=("banner",))
async def hear_of_broken_messages(connect, server):
    async def on_message(message: IncomingMessage) -> None:
        if isinstance(message, Exception):
            print("cannot be read:", type(message).__name__)

    async with connect(server, message_handler=on_message) as client:
        print((await client.call_tool("add", {"a": 1, "b": 1})).structured_content)


@snippet()
async def hear_of_every_message(connect, server):
    methods = []

    async def on_message(message):
        methods.append(message.method)

    async with connect(server, log_level="debug", message_handler=on_message) as client:
        await client.call_tool("gossip")
        print(sorted(methods))
