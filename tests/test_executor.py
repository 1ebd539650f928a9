"""The executor: what a call costs, when it is sent again, and which outcome its caller gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient_mcp import (
    AttemptFailed,
    BudgetPolicy,
    CallFinished,
    ConnectionLost,
    Delivery,
    InvalidArguments,
    Policy,
    RateLimit,
    ResilienceError,
    ResilientClient,
    RestartPolicy,
    RetryPolicy,
    RetryScheduled,
    ServerUnavailable,
    TimeoutPolicy,
    ToolPolicy,
)
from resilient_mcp._sdk.installed import MCPError
from resilient_mcp.testing import HttpReply, Reply, ScriptedHttpServer, ScriptedStdioServer, StdioReply

from .support import LEGACY, QUICK, Recorder, client_of, is_repeatable, listed, measured, text_of

pytestmark = pytest.mark.anyio

UNREADABLE_LISTS = {
    "a tool without a schema": {"tools": [{"name": "order"}]},
    "not a list": {"nope": 1},
    "a reference that leads nowhere": {
        "tools": [
            {
                "name": "order",
                "inputSchema": {"type": "object"},
                "outputSchema": {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}},
            }
        ]
    },
    "a schema of an unknown type": {
        "tools": [{"name": "order", "inputSchema": {"type": "object"}, "outputSchema": {"type": "nonsense"}}]
    },
}
HALF = "cut \ud83d"


def tools(*, idempotent: bool = False, read_only: bool = False) -> dict[str, Any]:
    hints = {"idempotentHint": idempotent, "readOnlyHint": read_only}
    return {"tools": [{"name": "pay", "inputSchema": {"type": "object"}, "annotations": hints}]}


def script(calls: Callable[[], Any], lists: Callable[[], Any] = lambda: None) -> Any:
    """A script that answers `tools/call` and `tools/list` with a function each."""
    return lambda request: {"tools/call": calls, "tools/list": lists}.get(request.method, lambda: None)()


def calls_of(server: Any) -> int:
    return len(server.requests.of("tools/call"))


# --- if an attempt may have run, the call may have run ---


async def test_a_call_that_may_have_run_stays_that_way():
    """After a reset the server is unreachable: the last attempt was not sent, yet the call may have run."""
    async with ScriptedHttpServer([HttpReply.reset()]) as server:
        policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(ready=0.3), "breaker": None})
        async with client_of(server.url, policy) as client:
            await listed(client)
            http, sent = client._connector.server.client, 0
            send = http.send

            async def refuse(request: Any, **options: Any) -> Any:
                nonlocal sent
                if request.method == "POST" and b"tools/call" in request.content:
                    sent += 1
                    if sent > 1:
                        request.url = request.url.copy_with(port=9)
                return await send(request, **options)

            http.send = refuse
            with pytest.raises(ServerUnavailable) as caught:
                await client.call_tool("echo", {"text": "x"})
    assert sent > 1
    assert (caught.value.attempts, caught.value.may_have_run, caught.value.repeatable) == (1, True, True)
    assert caught.value.verdict.delivery is Delivery.UNKNOWN
    assert "may have run it; it is safe to repeat" in str(caught.value)
    assert "not run" not in caught.value.advice


@pytest.mark.parametrize("ticks", range(8))
async def test_closing_just_after_a_call_began_reports_the_truth(ticks: int):
    """At any moment of the close, an error that says that nothing was sent is right."""
    async with ScriptedHttpServer(script(lambda: Reply.ok("x").after(0.02))) as server:
        client = ResilientClient(server.url, policy=QUICK, **LEGACY)
        await client.start()
        await listed(client)
        async with anyio.create_task_group() as tg:

            async def call() -> None:
                with pytest.raises(ResilienceError) as caught:
                    await client.call_tool("order", {"text": "x"})
                errors.append(caught.value)

            errors: list[ResilienceError] = []
            tg.start_soon(call)
            for _ in range(ticks):
                await anyio.lowlevel.checkpoint()
            await client.aclose()
        (error,) = errors
        if calls_of(server):
            assert error.may_have_run
            assert error.attempts == 1
        if error.may_have_run:
            assert isinstance(error, ConnectionLost)
            assert "may have run" in str(error)
        else:
            assert "Nothing was sent" in str(error)


# --- annotations ---


async def test_a_new_session_decides_on_its_own_tools():
    """A tool that only the previous session's list called read-only is not repeated on the new session."""
    renewed = False

    def lists() -> Reply:
        return Reply.result(tools(read_only=not renewed)).after(0.5 if renewed else 0)

    async with ScriptedHttpServer(script(HttpReply.reset, lists)) as server, client_of(server.url) as client:
        await listed(client)
        assert is_repeatable(client, "pay")
        renewed = True
        server.forget_sessions()
        await client.send_ping()
        with pytest.raises(ConnectionLost) as caught:
            await client.call_tool("pay", {})
        assert (calls_of(server), caught.value.attempts, caught.value.repeatable) == (1, 1, False)


async def test_a_tool_that_must_run_once_fails_immediately():
    """A tool that is not repeatable fails without waiting for the next process and its list."""
    replies = {"tools/call": [StdioReply.exit(1)], "initialize": [Reply(), *[Reply.hang()] * 9]}
    events = Recorder()
    async with ScriptedStdioServer(replies, tools=tools()["tools"]) as server:
        async with client_of(server.parameters, on_event=events) as client:
            await listed(client)
            with measured() as took, pytest.raises(ConnectionLost) as caught:
                await client.call_tool("pay", {})
            assert took[0] < 3
            assert not caught.value.repeatable
    assert not events.of(RetryScheduled)


async def test_a_changed_list_allows_nothing_until_it_is_fetched_again():
    """`list_changed` immediately revokes what the old list allowed."""
    changed = anyio.Event()

    def lists() -> Reply:
        return Reply.hang() if changed.is_set() else Reply.result(tools(read_only=True))

    async with ScriptedHttpServer(script(HttpReply.reset, lists)) as server, client_of(server.url) as client:
        await listed(client)
        changed.set()
        client._catalog.changed()
        assert is_repeatable(client, "pay") is None
        with pytest.raises(ConnectionLost):
            await client.call_tool("pay", {})
        assert calls_of(server) == 1


async def test_a_new_process_that_lists_nothing_allows_nothing():
    """The old process, which listed the tool as read-only, exits during the call, and the new one does not list."""
    only = ({"name": "pay", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},)
    replies = {"tools/call": [StdioReply.exit(1)], "tools/list": [Reply(), *[Reply.hang()] * 5]}
    events = Recorder()
    async with ScriptedStdioServer(replies, tools=only) as server:
        async with client_of(server.parameters, on_event=events) as client:
            await listed(client)
            with pytest.raises(ConnectionLost, match="may have run"):
                await client.call_tool("pay", {})
            assert client.generation == 2
            assert calls_of(server) == 1
    assert not events.of(RetryScheduled)  # no retry is announced that is not made


@pytest.mark.parametrize(
    ("hints", "trust", "sent"),
    [
        ({"idempotent": True}, True, 2),
        ({"idempotent": True}, "read_only", 1),
        ({"idempotent": True}, False, 1),
        ({"read_only": True}, "read_only", 2),
        ({"read_only": True}, False, 1),
        ({}, True, 1),
    ],
)
async def test_which_annotations_are_trusted(hints: dict[str, bool], trust: Any, sent: int):
    """`trust_annotations` accepts both hints, only `readOnlyHint`, or neither."""
    policy = QUICK.model_copy(update={"trust_annotations": trust})
    replies = iter([HttpReply.reset()])
    answers = script(lambda: next(replies, None), lambda: Reply.result(tools(**hints)))
    async with ScriptedHttpServer(answers) as server, client_of(server.url, policy) as client:
        await listed(client)
        if sent == 1:
            with pytest.raises(ConnectionLost):
                await client.call_tool("pay", {})
        else:
            await client.call_tool("pay", {})
        assert calls_of(server) == sent


# --- an answer that has arrived is delivered ---


async def test_an_answer_does_not_wait_for_the_list_of_tools():
    """A retryable `isError` result is delivered promptly when the list of tools never arrives."""
    answers = script(lambda: Reply.tool_error("rate limit exceeded"), Reply.hang)
    async with ScriptedHttpServer(answers) as server, client_of(server.url) as client:
        with measured() as took:
            assert text_of(await client.call_tool("order", {"text": "x"})) == "rate limit exceeded"
        assert took[0] < 1.5


@pytest.mark.parametrize("bad", UNREADABLE_LISTS)
async def test_an_answer_outlives_a_list_that_cannot_be_read(bad: str):
    """An unreadable list of tools, which would only validate the answer, neither replaces nor loses it."""
    result = {"content": [{"type": "text", "text": "ordered"}], "structuredContent": {"a": 1}}
    answers = script(lambda: Reply.result(result), lambda: Reply.result(UNREADABLE_LISTS[bad]))
    async with ScriptedHttpServer(answers) as server, client_of(server.url) as client:
        for _ in range(2):
            assert text_of(await client.call_tool("order", {"text": "x"})) == "ordered"


async def test_a_hanging_list_delays_only_the_first_answer():
    """The first answer on a connection waits a second for the list, and later ones do not."""
    answers = script(lambda: None, Reply.hang)
    async with ScriptedHttpServer(answers) as server, client_of(server.url) as client:
        with measured() as first:
            await client.call_tool("echo", {"text": "x"})
        with measured() as second:
            await client.call_tool("unsafe", {"text": "x"})
        assert first[0] < 3
        assert second[0] < 0.9


async def test_content_that_violates_its_schema_raises_the_sdks_error():
    """The error is raised as by the plain SDK, with its cause."""
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    one = {"tools": [{"name": "t", "inputSchema": {"type": "object"}, "outputSchema": schema}]}
    result = {"content": [], "structuredContent": {"x": "no"}}
    answers = script(lambda: Reply.result(result), lambda: Reply.result(one))
    async with ScriptedHttpServer(answers) as server, client_of(server.url) as client:
        with pytest.raises(RuntimeError, match="is not of type 'integer'") as caught:
            await client.call_tool("t", {})
        error = caught.value
        assert type(error.__cause__ or error.__context__).__name__ == "ValidationError"


async def test_an_error_result_with_an_absurd_delay_is_delivered():
    """A result with a `retryAfter` of four hundred digits is delivered like any other."""
    text = '{"error": {"message": "x"}, "retryAfter": 1' + "0" * 400 + "}"
    answers = script(lambda: Reply.tool_error(text))
    async with ScriptedHttpServer(answers) as server, client_of(server.url) as client:
        await listed(client)
        assert text_of(await client.call_tool("echo", {"text": "x"})) == text


async def test_an_answer_that_is_not_json_rpc_is_not_a_refusal():
    """The call may have run if its response lacks `"jsonrpc": "2.0"`, which the SDK would call a parse error."""
    reply = HttpReply.raw(b'{"id": 99, "result": {"content": []}}')
    async with ScriptedHttpServer([reply]) as server, client_of(server.url) as client:
        with pytest.raises(ConnectionLost, match="not the JSON-RPC response"):
            await client.call_tool("order", {"text": "x"})


# --- messages that cannot be encoded ---


@pytest.mark.parametrize("where", ["http", "stdio"])
async def test_a_message_that_cannot_be_encoded_fails_alone(where: str):
    """Half a surrogate pair in the arguments fails that call with its path, and no other."""
    async with ScriptedHttpServer() as web, ScriptedStdioServer() as process:
        server: Any = web if where == "http" else process
        target = web.url if where == "http" else process.parameters
        server.then(Reply.ok("slow").after(0.3))
        events = Recorder()
        async with client_of(target, on_event=events) as client, anyio.create_task_group() as tg:

            async def bystander() -> None:
                assert text_of(await client.call_tool("echo", {"text": "slow"})) == "slow"

            tg.start_soon(bystander)
            await server.received()
            with pytest.raises(InvalidArguments, match="half of a surrogate pair") as caught:
                await client.call_tool("echo", {"list": [{"text": HALF}]})
            assert caught.value.problems[0][0] == "$.list[0].text"
            assert "Nothing was sent" in caught.value.advice
            assert caught.value.attempts == 0
            assert text_of(await client.call_tool("echo", {"text": "next"})) == "next"
        assert client.generation == 1
        assert [event.delivery for event in events.of(AttemptFailed)] == [Delivery.NOT_SENT]
        assert {event.attempts for event in events.of(CallFinished) if event.error == "InvalidArguments"} == {0}


# --- what a retry costs ---


async def test_a_retry_is_paid_for_when_it_is_sent():
    """Calls that are cancelled during their back-off leave the budget full, and no retry is counted."""
    policy = Policy(retry=RetryPolicy(base=3000, max_delay=3000), budget=BudgetPolicy(tokens=10), breaker=None)
    async with ScriptedHttpServer(script(lambda: HttpReply.refusal(500))) as server:
        events = Recorder()
        async with client_of(server.url, policy, on_event=events) as client:
            await listed(client)
            async with anyio.create_task_group() as tg:
                for n in range(10):
                    tg.start_soon(client.call_tool, "echo", {"text": str(n)})
                await events.wait_for(RetryScheduled, 10)
                tg.cancel_scope.cancel()
            assert client._gate._budget is not None
            assert client._gate._budget.tokens == 10
            assert client.stats().retries == 0
        assert calls_of(server) == 10


async def test_a_retry_that_was_not_sent_costs_nothing():
    """A retry that finds no server gives its budget token back."""
    policy = QUICK.model_copy(
        update={"budget": BudgetPolicy(tokens=10, refund=0), "timeout": TimeoutPolicy(ready=0.3), "breaker": None}
    )
    async with ScriptedHttpServer([HttpReply.refusal(500)]) as server:
        async with client_of(server.url, policy) as client:
            await listed(client)
            client.policy.tool("echo")
            server.then(HttpReply.refusal(500))
            http = client._connector.server.client
            send = http.send

            async def vanish(request: Any, **options: Any) -> Any:
                if request.method == "POST" and b"tools/call" in request.content and calls_of(server):
                    request.url = request.url.copy_with(port=9)
                return await send(request, **options)

            http.send = vanish
            with pytest.raises(ServerUnavailable):
                await client.call_tool("echo", {"text": "x"})
            assert client._gate._budget is not None
            assert client._gate._budget.tokens == 10


async def test_every_request_takes_a_token():
    """A request that is sent again because its session was lost takes a token, too."""
    lost = iter([HttpReply.refusal(404)] * 2)
    policy = QUICK.model_copy(update={"rate_limit": RateLimit(rate=4, burst=1)})
    async with ScriptedHttpServer(script(lambda: next(lost, None))) as server:
        async with client_of(server.url, policy) as client:
            began = time.perf_counter()
            assert text_of(await client.call_tool("order", {"text": "x"})) == "x"
            took = time.perf_counter() - began
        assert calls_of(server) == 3
        assert took >= 0.49  # two intervals of a quarter of a second: the limit itself


async def test_only_the_first_lost_connection_is_retried_for_free():
    """A call that may itself end connections uses up attempts, and cannot end connections without limit."""
    policy = QUICK.model_copy(
        update={
            "retry": RetryPolicy(attempts=3, base=0.01),
            "restart": RestartPolicy(base=0.01, intensity=100),
            "timeout": TimeoutPolicy(ready=10, connect=10, total=20, shutdown=1),
            "breaker": None,
        }
    )
    events = Recorder()
    async with ScriptedHttpServer(script(lambda: HttpReply.refusal(404))) as server:
        async with client_of(server.url, policy, on_event=events) as client:
            with pytest.raises(ServerUnavailable) as caught:
                await client.call_tool("order", {"text": "x"})
            assert not caught.value.may_have_run
            assert caught.value.attempts == calls_of(server) == 4  # one free, and three attempts
            assert [event.transparent for event in events.of(RetryScheduled)] == [True, False, False]


async def test_a_call_with_one_attempt_fails_immediately():
    """With one attempt, a crash is reported without waiting for the next connection and its list."""
    once = QUICK.model_copy(update={"retry": RetryPolicy(attempts=1)})
    replies = {"tools/call": [StdioReply.exit(1)], "initialize": [Reply(), *[Reply.hang()] * 9]}
    async with ScriptedStdioServer(replies) as server, client_of(server.parameters, once) as client:
        with measured() as took, pytest.raises(ConnectionLost):
            await client.call_tool("order", {"text": "x"})
        assert took[0] < 3


async def test_a_repeatable_tool_in_the_policy_needs_no_list():
    """With `ToolPolicy(repeatable=True)` a call is retried although the list never arrives."""
    policy = QUICK.model_copy(update={"tools": {"pay": ToolPolicy(repeatable=True)}})
    replies = iter([HttpReply.refusal(502)])
    async with ScriptedHttpServer(script(lambda: next(replies, None), Reply.hang)) as server:
        async with client_of(server.url, policy) as client:
            with measured() as took:
                await client.call_tool("pay", {})
        assert calls_of(server) == 2
        assert took[0] < 1.9


async def test_a_servers_own_error_keeps_its_type():
    """A server's error is raised as by the SDK, without an artificial cause."""
    answers = script(lambda: Reply.error(-32602, "no such thing"))
    async with ScriptedHttpServer(answers) as server, client_of(server.url) as client:
        with pytest.raises(MCPError, match="no such thing") as caught:
            await client.call_tool("echo", {})
        assert not isinstance(caught.value, ResilienceError)
        assert caught.value.__cause__ is None
