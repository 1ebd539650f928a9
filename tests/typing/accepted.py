"""Code that type checkers accept in strict mode, with the types they infer; `tests/test_typing.py` runs them on it."""

# pyright: strict

from datetime import timedelta
from typing import Any

import tenacity
from mcp import ClientSession, StdioServerParameters, types
from pydantic import AnyUrl
from typing_extensions import assert_type

from resilient_mcp import (
    BreakerChanged,
    BreakerPolicy,
    BreakerState,
    CallFinished,
    Change,
    Circuit,
    Classify,
    ConnectionLost,
    DeadlineExceeded,
    Delivery,
    Disconnected,
    Event,
    Evidence,
    Failure,
    Fallback,
    Health,
    InvalidArguments,
    Listener,
    NameHook,
    Outcome,
    Policy,
    RateLimit,
    ResilienceError,
    ResilientClient,
    ResilientClientGroup,
    RetryPolicy,
    RetryScheduled,
    ServerFailed,
    ServerUnavailable,
    Session,
    State,
    StateChanged,
    Stats,
    TimeoutPolicy,
    ToolPolicy,
    Verdict,
    explain,
)
from resilient_mcp._sdk.requests import CallTool, ListPage, ReadResource, Request, SdkRequest
from resilient_mcp.calls.operation import Operation

# --- the constructor ---


def classify(failure: Failure) -> Verdict | None:
    assert_type(failure.tool, str | None)
    return None


def on_event(event: Event) -> None:
    print(event.server)


async def cached(arguments: dict[str, Any]) -> str:
    return f"cached for {arguments}"


async def empty(arguments: dict[str, Any]) -> types.CallToolResult:
    return types.CallToolResult(content=[])


def short_name(name: str, server: types.Implementation) -> str:
    return f"{server.name}.{name}"


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    text = types.TextContent(type="text", text=f"{len(params.messages)} messages")
    return types.CreateMessageResult(role="assistant", model="m", content=text)


async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"message": params.message})


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


async def log(params: types.LoggingMessageNotificationParams) -> None:
    print(params.level, params.data)


async def handle(message: object) -> None:
    print(message)


classifier: Classify = classify
listener: Listener = on_event
fallbacks: dict[str, Fallback] = {"forecast": cached, "alerts": empty}
name_hook: NameHook = short_name

client = ResilientClient(
    StdioServerParameters(command="weather"),
    name="weather",
    policy=Policy(),
    classifier=classifier,
    on_event=listener,
    fallbacks=fallbacks,
    debug=True,
    errlog=None,
    sampling_callback=sample,
    elicitation_callback=elicit,
    list_roots_callback=roots,
    logging_callback=log,
    message_handler=handle,
    client_info=types.Implementation(name="host", version="1"),
    read_timeout_seconds=timedelta(seconds=30),
    sampling_capabilities=types.SamplingCapability(),
)
lambdas = ResilientClient(
    "https://example.com/mcp", classifier=lambda _: None, on_event=lambda event: print(event.server)
)

# --- policies ---

policy = Policy(
    retry=RetryPolicy(attempts=3, wait=tenacity.wait_fixed(1), stop=tenacity.stop_after_delay(60)),
    timeout=TimeoutPolicy(attempt=float("inf"), total=60),
    breaker=None,
    rate_limit=RateLimit(rate=5, burst=10),
    tools={"get_*": ToolPolicy(repeatable=True, http_statuses={503: "refused"})},
    error_codes={-32050: "transient"},
    on_unavailable="result",
)
assert_type(policy.tool("get_weather"), ToolPolicy)
assert_type(policy.tool("get_weather").repeatable, bool | None)
assert_type(policy.retry.attempts, int)
assert_type(policy.breaker, BreakerPolicy | None)
assert_type(Policy.model_validate({"retry": {"attempts": 3}}), Policy)

# --- calls and their results ---


async def call(client: ResilientClient) -> None:
    assert_type(await client.initialize(), types.InitializeResult)
    result = await client.call_tool("forecast", {"city": "Oslo"}, 5, meta={"trace": "1"})
    assert_type(result, types.CallToolResult)
    page = await client.list_tools()
    assert_type(page, types.ListToolsResult)
    assert_type(page.tools[0].name, str)
    assert_type(await client.list_tools("next"), types.ListToolsResult)
    assert_type(await client.list_tools(params=types.PaginatedRequestParams(cursor="next")), types.ListToolsResult)
    assert_type(await client.list_resources(cursor="next"), types.ListResourcesResult)
    assert_type(await client.list_resource_templates(), types.ListResourceTemplatesResult)
    assert_type(await client.list_prompts(), types.ListPromptsResult)
    assert_type(await client.read_resource("file:///notes"), types.ReadResourceResult)
    assert_type(await client.read_resource(AnyUrl("file:///notes")), types.ReadResourceResult)
    assert_type(await client.get_prompt("plan", {"city": "Oslo"}), types.GetPromptResult)
    assert_type(await client.send_ping(), types.EmptyResult)
    assert_type(await client.request("tools/list", {"cursor": "next"}), dict[str, Any])


async def send(client: ResilientClient, request: types.ClientRequest) -> None:
    assert_type(await client.send_request(request, types.ListToolsResult), types.ListToolsResult)
    assert_type(await client.send_request(request, types.EmptyResult, 5), types.EmptyResult)


async def report(progress: float, total: float | None, message: str | None) -> None:
    print(progress, total, message)


async def use(server: str) -> None:
    async with ResilientClient(server) as client:
        assert_type(client, ResilientClient)
        assert_type(client.state, State)
        assert_type(client.circuit, Circuit | None)
        assert_type(client.health(), Health)
        assert_type(client.stats(), Stats)
        assert_type(client.stats().outcomes[Outcome.RESULT], int)
        assert_type(client.error, ServerUnavailable | None)
        assert_type(client.server_capabilities, types.ServerCapabilities | None)
        await client.call_tool("forecast", progress_callback=report, read_timeout_seconds=timedelta(seconds=5))
        async with client.watch(["file:///notes"], tools=True) as changes:
            async for change in changes:
                assert_type(change, Change)
                assert_type(change.uri, str | None)
        async for event in client.events(buffer=10):
            assert_type(event, Event)


async def use_many() -> None:
    servers = {"a": "https://example.com/mcp", "b": client}
    async with ResilientClientGroup(servers, name_hook=name_hook, on_event=listener, policy=policy) as group:
        assert_type(group, ResilientClientGroup)
        assert_type(group["a"], ResilientClient)
        assert_type(await group.add("c", "https://example.com/mcp"), ResilientClient)
        assert_type(await group.list_tools(), types.ListToolsResult)
        assert_type(await group.list_resources(), types.ListResourcesResult)
        assert_type(await group.list_prompts(), types.ListPromptsResult)
        assert_type(await group.call_tool("a__x", {"n": 1}, 5, report), types.CallToolResult)
        assert_type(await group.get_prompt("a__p"), types.GetPromptResult)
        assert_type(group.health(), dict[str, Health])
    assert_type(ResilientClientGroup.from_config("mcp.json"), ResilientClientGroup)


# --- operations ---


def operations(request: types.ClientRequest) -> None:
    operation = Operation(CallTool("forecast", {"city": "Oslo"}), timeout=5.0)
    assert_type(operation, Operation[types.CallToolResult])
    assert_type(operation.request, Request[types.CallToolResult])
    assert_type(Operation(ListPage[types.ListToolsResult]("list_tools")), Operation[types.ListToolsResult])
    assert_type(Operation(ReadResource("file:///notes")), Operation[types.ReadResourceResult])
    assert_type(Operation(SdkRequest(request, types.EmptyResult)), Operation[types.EmptyResult])


# --- errors ---


async def fail(client: ResilientClient) -> types.CallToolResult:
    try:
        return await client.call_tool("forecast")
    except DeadlineExceeded as error:
        assert_type(error.elapsed, float)
        late: TimeoutError = error
        raise late from None
    except InvalidArguments as error:
        assert_type(error.problems, list[tuple[str, str]])
    except ServerFailed as error:
        assert_type(error.exit_status, int | None)
    except ConnectionLost as error:
        assert_type(error.may_have_run, bool)
        assert_type(explain(error), Verdict)
    except ResilienceError as error:
        assert_type(error.verdict, Verdict | None)
        assert_type(error.retry_in, float | None)
        assert_type(error.code, int)
        return error.to_tool_result()
    return types.CallToolResult(content=[])


# --- events ---


def describe(event: Event) -> str:
    match event:
        case RetryScheduled(operation=operation, delay=delay):
            assert_type(operation, str)
            assert_type(delay, float)
            return f"{operation} again in {delay} s"
        case StateChanged(new=State.READY):
            assert_type(event, StateChanged)
            return "ready"
        case Disconnected(evidence=Evidence(delivery=Delivery.NOT_SENT, http_status=status)):
            assert_type(status, int | None)
            return f"not sent, {status}"
        case BreakerChanged(new=BreakerState.OPEN, retry_in=retry_in):
            assert_type(retry_in, float | None)
            return f"open for {retry_in} s"
        case CallFinished(outcome=Outcome.ERROR, error=error):
            assert_type(error, str | None)
            return f"failed: {error}"
        case _:
            return event.server


# --- `Session`: either client ---


async def count_tools(session: Session) -> int:
    found, cursor = 0, None
    while True:
        page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
        assert_type(page, types.ListToolsResult)
        found += len(page.tools)
        if (cursor := page.model_dump(by_alias=True).get("nextCursor")) is None:
            return found


async def use_session(session: Session, request: types.ClientRequest, notification: types.ClientNotification) -> None:
    assert_type(await session.initialize(), types.InitializeResult)
    assert_type(await session.call_tool("x", {"n": 1}, progress_callback=report, meta={}), types.CallToolResult)
    assert_type(await session.list_tools(), types.ListToolsResult)
    assert_type(await session.list_resources(), types.ListResourcesResult)
    assert_type(await session.list_resources(params=None), types.ListResourcesResult)
    assert_type(await session.list_resource_templates(), types.ListResourceTemplatesResult)
    assert_type(await session.list_resource_templates(params=None), types.ListResourceTemplatesResult)
    assert_type(await session.list_prompts(), types.ListPromptsResult)
    assert_type(await session.list_prompts(params=None), types.ListPromptsResult)
    assert_type(await session.read_resource(AnyUrl("file:///notes")), types.ReadResourceResult)
    assert_type(await session.subscribe_resource("file:///notes"), types.EmptyResult)
    assert_type(await session.unsubscribe_resource("file:///notes"), types.EmptyResult)
    assert_type(await session.get_prompt("plan", {"city": "Oslo"}), types.GetPromptResult)
    prompt = types.PromptReference(type="ref/prompt", name="plan")
    assert_type(await session.complete(prompt, {"name": "city", "value": "O"}, {"a": "b"}), types.CompleteResult)
    assert_type(await session.send_ping(), types.EmptyResult)
    assert_type(await session.set_logging_level("debug"), types.EmptyResult)
    await session.send_progress_notification("token", 1.0, 2.0, "half")
    await session.send_roots_list_changed()
    assert_type(await session.send_request(request, types.EmptyResult), types.EmptyResult)
    await session.send_notification(notification)


async def either(plain: ClientSession, resilient: ResilientClient) -> int:
    sessions: list[Session] = [plain, resilient]
    return await count_tools(plain) + await count_tools(resilient) + len(sessions)
