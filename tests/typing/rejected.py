"""Code that type checkers reject. Each comment names the error of its line: mypy's, then pyright's."""

from typing import Any

from mcp import types

import resilient_mcp
from resilient_mcp import (
    Change,
    Classify,
    Connected,
    Event,
    Failure,
    Fallback,
    Listener,
    NameHook,
    Policy,
    ResilienceError,
    ResilientClient,
    ResilientClientGroup,
    RetryPolicy,
    RetryScheduled,
    Session,
    ToolPolicy,
    Verdict,
    explain,
)
from resilient_mcp._sdk.requests import CallTool, ReadResource
from resilient_mcp.calls.operation import Operation

URL = "https://example.com/mcp"

# --- names ---

print(resilient_mcp.Client)  # error: attr-defined | reportAttributeAccessIssue

# --- the constructor: options and callbacks ---


def returns_text(failure: Failure) -> str:
    return failure.method


def takes_text(event: str) -> None:
    print(event)


def returns_nothing(arguments: dict[str, Any]) -> None:
    print(arguments)


def not_a_coroutine(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="decline")


async def answers_with_text(context: Any, params: types.CreateMessageRequestParams) -> str:
    return params.messages[0].role


async def takes_the_wrong_params(context: Any, params: types.CreateMessageRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="decline")


async def takes_nothing() -> None:
    print("no message")


def swapped(server: types.Implementation, name: str) -> str:
    return name


ResilientClient()  # error: call-arg | reportCallIssue
ResilientClient(URL, "weather")  # error: call-arg | reportCallIssue
ResilientClient(URL, policy={"retry": {"attempts": 3}})  # error: arg-type | reportArgumentType
ResilientClient(URL, policy=RetryPolicy())  # error: arg-type | reportArgumentType
ResilientClient(URL, name=5)  # error: arg-type | reportArgumentType
ResilientClient(URL, errlog="server.log")  # error: arg-type | reportArgumentType
ResilientClient(URL, classifier=returns_text)  # error: arg-type | reportArgumentType
ResilientClient(URL, on_event=takes_text)  # error: arg-type | reportArgumentType
ResilientClient(URL, fallbacks={"forecast": returns_nothing})  # error: dict-item | reportArgumentType
ResilientClient(URL, sampling_callback=answers_with_text)  # error: arg-type | reportArgumentType
ResilientClient(URL, elicitation_callback=not_a_coroutine)  # error: arg-type | reportArgumentType
ResilientClient(URL, elicitation_callback=takes_the_wrong_params)  # error: arg-type | reportArgumentType
ResilientClient(URL, list_roots_callback=answers_with_text)  # error: arg-type | reportArgumentType
ResilientClient(URL, logging_callback=takes_nothing)  # error: arg-type | reportArgumentType
ResilientClient(URL, message_handler=takes_nothing)  # error: arg-type | reportArgumentType
ResilientClient(URL, client_info={"name": "host", "version": "1"})  # error: arg-type | reportArgumentType
ResilientClient(URL, read_timeout_seconds="5 s")  # error: arg-type | reportArgumentType

classify: Classify = returns_text  # error: assignment | reportAssignmentType
listener: Listener = takes_text  # error: assignment | reportAssignmentType
fallback: Fallback = returns_nothing  # error: assignment | reportAssignmentType
name_hook: NameHook = swapped  # error: assignment | reportAssignmentType

# --- policies ---

Policy(retries=3)  # error: call-arg | reportCallIssue
Policy(retry=3)  # error: arg-type | reportArgumentType
Policy(retry=RetryPolicy(atempts=3))  # error: call-arg | reportCallIssue
RetryPolicy(attempts="three")  # error: arg-type | reportArgumentType
Policy(tools={"get_*": RetryPolicy()})  # error: dict-item | reportArgumentType
Policy(on_unavailable="ignore")  # error: arg-type | reportArgumentType
ToolPolicy(http_statuses={503: "ignored"})  # error: dict-item | reportArgumentType
Policy().on_unavailable = "raise"  # error: misc | reportAttributeAccessIssue
print(Policy().tool("x").attempts)  # error: attr-defined | reportAttributeAccessIssue

# --- calls and their results ---


async def call(client: ResilientClient, request: types.ClientRequest) -> None:
    await client.call_tool(5)  # error: arg-type | reportArgumentType
    await client.call_tool("forecast", ["Oslo"])  # error: arg-type | reportArgumentType
    await client.call_tool("forecast", {}, "5 s")  # error: arg-type | reportArgumentType
    await client.call_tool("forecast", progress_callback=print)  # error: arg-type | reportArgumentType
    print((await client.call_tool("forecast")).tools)  # error: attr-defined | reportAttributeAccessIssue
    print(client.call_tool("forecast").content)  # error: attr-defined | reportAttributeAccessIssue
    await client.list_tools(5)  # error: arg-type | reportArgumentType
    await client.get_prompt("plan", {"days": 3})  # error: dict-item | reportArgumentType
    await client.set_logging_level("loud")  # error: arg-type | reportArgumentType
    await client.send_request(request)  # error: call-arg | reportCallIssue
    answer: str = await client.send_request(request, types.EmptyResult)  # error: arg-type | reportAssignmentType
    text: str = await client.call_tool("forecast")  # error: assignment | reportAssignmentType
    print(answer, text, client.read_stream)  # error: attr-defined | reportAttributeAccessIssue
    print(client.health().is_up)  # error: attr-defined | reportAttributeAccessIssue
    client.watch(["file:///notes"], prompt=True)  # error: call-arg | reportCallIssue
    async with client.watch(["file:///notes"]) as changes:
        async for change in changes:
            print(change.key)  # error: attr-defined | reportAttributeAccessIssue


async def call_group(group: ResilientClientGroup) -> None:
    await group.call_tool("a__x", ["Oslo"])  # error: arg-type | reportArgumentType
    await group.call_tool("a__x", {}, progress_callback=print)  # error: arg-type | reportArgumentType
    tools: types.ListToolsResult = await group.call_tool("a__x")  # error: assignment | reportAssignmentType
    prompt: types.CallToolResult = await group.get_prompt("a__p")  # error: assignment | reportAssignmentType
    print(tools, prompt, group["a"].tools)  # error: attr-defined | reportAttributeAccessIssue
    ResilientClientGroup([URL])  # error: arg-type | reportArgumentType
    ResilientClientGroup({"a": URL}, name_hook=swapped)  # error: arg-type | reportArgumentType


# --- operations ---

listing: Operation[types.ListToolsResult] = Operation(CallTool("forecast"))  # error: arg-type | reportAssignmentType
reading: Operation[str] = Operation(ReadResource("file:///notes"))  # error: arg-type | reportAssignmentType
Operation("tools/call")  # error: arg-type | reportArgumentType
Operation(CallTool("forecast"), timeout="5 s")  # error: arg-type | reportArgumentType
CallTool("forecast", ["Oslo"])  # error: arg-type | reportArgumentType

# --- errors, verdicts, events ---


def judge(error: ResilienceError, event: Event, change: Change) -> None:
    print(error.verdict.category)  # error: union-attr | reportOptionalMemberAccess
    error.advice()  # error: operator | reportCallIssue
    Verdict("transient", True, "not sent", "text")  # error: arg-type | reportArgumentType
    explain(error, policy=RetryPolicy())  # error: arg-type | reportArgumentType
    event.server = "x"  # error: misc | reportAttributeAccessIssue
    print(event.delay)  # error: attr-defined | reportAttributeAccessIssue
    change.missed = False  # error: misc | reportAttributeAccessIssue
    Connected(server="weather", generation=1)  # error: call-arg | reportCallIssue


def describe(event: Event) -> str:
    match event:
        case RetryScheduled(operation=operation, delay=delay):
            print(operation + delay)  # error: operator | reportOperatorIssue
        case Connected(generation):  # error: misc | reportGeneralTypeIssues
            return str(generation)
        case _:
            print(event.name)  # error: attr-defined | reportAttributeAccessIssue
    return event.server


# --- `Session` ---


class Half:
    """Has `call_tool` only."""

    async def call_tool(self, name: str, arguments: dict[str, Any] | None = None) -> types.CallToolResult:
        return types.CallToolResult(content=[])


async def use(session: Session) -> None:
    await session.call_tool("x", ["Oslo"])  # error: arg-type | reportArgumentType
    await session.list_tools(cursor="next")  # error: call-overload | reportCallIssue
    tools: types.ListToolsResult = await session.list_prompts()  # error: assignment | reportAssignmentType
    print(tools, session.read_stream)  # error: attr-defined | reportAttributeAccessIssue


async def choose(group: ResilientClientGroup) -> None:
    await use(Half())  # error: arg-type | reportArgumentType
    await use(group)  # error: arg-type | reportArgumentType
