"""`ResilientClient` as a `ClientSession`: its methods, its lifecycle, what it refuses, and the servers it accepts."""

from __future__ import annotations

import asyncio
import gc
import math
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta
from threading import Thread
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from mcp import ClientSession, StdioServerParameters, types
from mcp.client import session_group
from mcp.client.stdio import stdio_client
from pydantic import AnyUrl

import resilient_mcp
from resilient_mcp import (
    BreakerState,
    Connected,
    ConnectionLost,
    DeadlineExceeded,
    Policy,
    ResilienceError,
    ResilientClient,
    RestartPolicy,
    RetryPolicy,
    ServerFailed,
    ServerUnavailable,
    State,
    StateChanged,
    TimeoutPolicy,
    ToolPolicy,
)
from resilient_mcp._sdk.installed import MAJOR, REQUEST_TIMEOUT, MCPError, http
from resilient_mcp._sdk.results import is_error_result

from .support import LEGACY, QUICK, ROOT, Recorder, client_of, gone, nothing_left, raw_server, sdk_server, text_of


@pytest.mark.anyio
async def test_every_operation_works():
    """Every method works against a real server, and returns the installed SDK's result types."""
    async with client_of(raw_server()) as client:
        result = await client.initialize()
        assert isinstance(result, types.InitializeResult)
        assert (await client.initialize()) is result
        assert client.initialize_result is result
        assert client.protocol_version == "2025-11-25"
        assert client.server_info is not None
        assert client.server_info.name == "raw"
        assert client.instructions == "hi"
        assert client.get_server_capabilities() == client.server_capabilities
        assert isinstance(await client.send_ping(), types.EmptyResult)
        assert isinstance(await client.call_tool("echo", {"text": "x"}, timedelta(seconds=5)), types.CallToolResult)
        assert isinstance(await client.list_tools(), types.ListToolsResult)
        assert isinstance(await client.list_tools(None), types.ListToolsResult)
        assert isinstance(await client.list_tools("next"), types.ListToolsResult)
        page = types.PaginatedRequestParams(cursor="next")
        assert isinstance(await client.list_tools(params=page), types.ListToolsResult)
        with pytest.raises(ValueError, match="not both"):
            await client.list_tools("a", params=page)
        assert isinstance(await client.list_resources(), types.ListResourcesResult)
        assert isinstance(await client.list_resource_templates(), types.ListResourceTemplatesResult)
        for uri in ("raw://a", AnyUrl("raw://a")):
            assert isinstance(await client.read_resource(uri), types.ReadResourceResult)
            assert isinstance(await client.subscribe_resource(uri), types.EmptyResult)
            assert isinstance(await client.unsubscribe_resource(uri), types.EmptyResult)
        assert isinstance(await client.list_prompts(), types.ListPromptsResult)
        assert isinstance(await client.get_prompt("p", {"a": "b"}), types.GetPromptResult)
        prompt = types.PromptReference(type="ref/prompt", name="p")
        assert isinstance(await client.complete(prompt, {"name": "a", "value": "b"}), types.CompleteResult)
        assert isinstance(await client.set_logging_level("error"), types.EmptyResult)
        await client.send_progress_notification("token", 0.5, 1.0)
        await client.send_roots_list_changed()
        request: Any = types.CallToolRequest(
            method="tools/call", params=types.CallToolRequestParams(name="echo", arguments={"text": "raw"})
        )
        if MAJOR == 1:
            request = types.ClientRequest(request)
        assert text_of(await client.send_request(request, types.CallToolResult)) == "raw"
        notification: Any = types.RootsListChangedNotification(method="notifications/roots/list_changed")
        await client.send_notification(types.ClientNotification(notification) if MAJOR == 1 else notification)


@pytest.mark.anyio
async def test_code_written_for_client_session_runs_unchanged():
    """The same function sees the same with either session."""

    async def agent(session: Any) -> list[str]:
        await session.initialize()
        seen = [tool.name for tool in (await session.list_tools()).tools]
        seen.append(text_of(await session.call_tool("echo", {"text": "hello"})))
        return seen

    async with stdio_client(raw_server()) as (read, write), ClientSession(read, write) as plain:
        expected = await agent(plain)
    async with ResilientClient(raw_server(), policy=QUICK) as client:
        assert await agent(client) == expected


@pytest.mark.anyio
async def test_callbacks_work_after_a_restart():
    """A tool that asks for the roots gets them from the callback, also after a restart."""
    asked = 0

    async def roots(_context: Any) -> types.ListRootsResult:
        nonlocal asked
        asked += 1
        return types.ListRootsResult(roots=[])

    async with client_of(sdk_server(), list_roots_callback=roots) as client:
        assert text_of(await client.call_tool("count_roots")) == "0"
        await client.restart()
        assert text_of(await client.call_tool("count_roots")) == "0"
    assert asked == 2


@pytest.mark.anyio
async def test_meta_reaches_the_server():
    """A call with `meta=` is answered."""
    async with client_of(sdk_server()) as client:
        result = await client.call_tool("echo", {"text": "x"}, meta={"example.com/key": "value"})
        assert text_of(result) == "x"


@pytest.mark.anyio
@pytest.mark.skipif(MAJOR != 1, reason="what 2.x adds is an error on 1.x")
async def test_options_of_2_are_refused_by_name_on_1():
    """An option that needs mcp 2.x raises an error that names the option and the installed version."""
    async with client_of(raw_server()) as client:
        with pytest.raises(TypeError, match=r"cache_mode=, which needs mcp 2\.x, but mcp 1\..* is installed"):
            await client.list_tools(cache_mode="bypass")
        with pytest.raises(RuntimeError, match="needs mcp 2"):
            async with client.listen():
                raise AssertionError


@pytest.mark.anyio
@pytest.mark.skipif(MAJOR == 1, reason="needs mcp 2.x")
async def test_options_of_2_work():
    """`meta=` and `cache_mode=` work as on `mcp.Client`, and `allow_input_required=` as on `ClientSession`."""
    async with ResilientClient(sdk_server(), policy=QUICK) as client:
        assert (await client.list_tools(cache_mode="bypass", meta={"a.b/c": 1})).tools
        assert (await client.read_resource("test://greeting", cache_mode="refresh")).contents
        result = await client.call_tool("echo", {"text": "x"}, allow_input_required=True)
        assert text_of(result) == "x"
        assert (await client.get_prompt("ask", {"topic": "x"}, allow_input_required=True)).messages
        assert (await client.read_resource("test://greeting", allow_input_required=True)).contents
        assert isinstance(await client.initialize(), types.InitializeResult)
        assert client.protocol_version == "2026-07-28"
        async with client.listen(tools_list_changed=True) as subscription:
            assert subscription.honored.tools_list_changed


# --- servers ---


@pytest.mark.anyio
async def test_an_in_process_server():
    """An SDK server object in this process can be used as the server."""
    from .servers.sdk_server import build

    async with nothing_left():
        async with ResilientClient(build(), policy=QUICK) as client:
            assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
            with pytest.raises(MCPError):
                await client.get_prompt("no such prompt")
            short = client.call_tool("sleep", {"seconds": 30}, read_timeout_seconds=0.1)
            with pytest.raises(DeadlineExceeded, match="may have run|safe to repeat"):
                await short


@pytest.mark.anyio
async def test_a_transport_factory():
    """A function that returns an SDK transport is called again for each generation."""
    made = 0

    @asynccontextmanager
    async def transport() -> Any:
        nonlocal made
        made += 1
        async with stdio_client(raw_server()) as streams:
            yield streams

    async with client_of(transport) as client:
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        with pytest.raises(ConnectionLost, match="may have run"):
            await client.call_tool("unsafe", {"do": "die"})
        assert text_of(await client.call_tool("echo", {"text": "y"})) == "y"
    assert made == 2


# --- lifecycle ---


@pytest.mark.parametrize("closer", ["other task", "same task"])
def test_entering_in_one_task_and_closing_in_another(closer: str):
    """On asyncio, `start` and `aclose` may be called from different tasks."""

    async def main() -> None:
        async with nothing_left():
            client = ResilientClient(raw_server(), policy=QUICK, **LEGACY)
            await asyncio.create_task(client.start())
            assert text_of(await asyncio.create_task(client.call_tool("echo", {"text": "x"}))) == "x"
            if closer == "other task":
                await asyncio.create_task(client.aclose())
            else:
                await client.aclose()
            await client.aclose()

    asyncio.run(main())


def test_cancelling_the_task_that_started_it_does_not_stop_the_client():
    """The supervisor does not run in the scope of the task that started the client."""

    async def main() -> None:
        client = ResilientClient(raw_server(), policy=QUICK, **LEGACY)

        started = asyncio.Event()

        async def start_and_linger() -> None:
            await client.start()
            started.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(start_and_linger())
        await started.wait()  # a start that is cancelled before it returns closes the client
        assert client.state is State.READY
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        await client.aclose()

    asyncio.run(main())


@pytest.mark.anyio
async def test_an_exception_in_the_body_is_raised_unchanged():
    """An exception in the body of `async with` is not wrapped in a group or turned into a cancellation."""
    async with nothing_left():
        with pytest.raises(ZeroDivisionError):
            async with ResilientClient(raw_server(), policy=QUICK):
                raise ZeroDivisionError


@pytest.mark.anyio
async def test_a_cancelled_body_closes_the_client():
    """Cancelling the body of `async with` stops the process and leaves nothing behind."""
    async with nothing_left():
        with anyio.CancelScope() as scope:
            async with client_of(raw_server()) as client:
                pid = int(text_of(await client.call_tool("pid")))
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        await gone(pid)


@pytest.mark.anyio
async def test_a_cancelled_start_leaves_nothing_behind():
    """Cancelling `start` halfway stops the process."""
    async with nothing_left():
        with anyio.move_on_after(0.2) as scope:
            await ResilientClient(raw_server("--mute"), policy=QUICK).start()
        assert scope.cancelled_caught


@pytest.mark.anyio
async def test_states_are_reported_in_order():
    """The states are idle, connecting, ready, reconnecting, ready, closed."""
    events = Recorder()
    client = ResilientClient(raw_server(), policy=QUICK, on_event=events)
    assert client.state is State.IDLE
    with pytest.raises(ServerUnavailable, match="was not started"):
        await client.call_tool("echo", {"text": "x"})
    assert client.server_info is None
    assert client.get_server_capabilities() is None
    await client.aclose()
    await client.start()
    await client.restart()
    assert client.generation == 2
    await client.aclose()
    assert [event.new for event in events.of(StateChanged)] == [
        State.CONNECTING,
        State.READY,
        State.RECONNECTING,
        State.READY,
        State.CLOSED,
    ]
    with pytest.raises(RuntimeError, match="already started"):
        await client.start()


@pytest.mark.anyio
async def test_a_listener_that_raises_does_no_harm():
    """An exception in an event listener does not affect the call."""

    def listener(event: resilient_mcp.Event) -> None:
        raise ZeroDivisionError(event)

    async with client_of(raw_server(), on_event=listener) as client:
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


@pytest.mark.anyio
async def test_concurrent_restarts_reconnect_once():
    """Ten concurrent `restart` calls open one new connection."""
    events = Recorder()
    async with client_of(raw_server(), on_event=events) as client:
        async with anyio.create_task_group() as tg:
            for _ in range(10):
                tg.start_soon(client.restart)
        assert len(events.of(Connected)) == 2


# --- threads, event loops and processes ---


async def in_thread(function: Any) -> Any:
    """What `function` returns in a thread that knows of no event loop."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        while not future.done():
            await anyio.sleep(0.01)
        return future.result()


def looks_of(client: ResilientClient) -> tuple[Any, ...]:
    assert client.circuit is not None
    return client.health(), client.error, client.stats(), client.state, client.circuit.state


@pytest.mark.timeout(60)  # four processes are started one after the other
@pytest.mark.anyio
async def test_any_thread_can_look_at_a_client():
    """A thread without an event loop sees how long a server has been starting and when the next attempt is due."""
    client = ResilientClient(raw_server("--mute"), policy=QUICK, **LEGACY)
    assert (await in_thread(lambda: looks_of(client)))[0].starting_for is None
    await client.start(wait=False)
    while client.health().starting_for is None:
        await anyio.sleep(0.01)
    health, error, stats, state, circuit = await in_thread(lambda: looks_of(client))
    assert 0 <= health.starting_for < 10
    assert "has been starting for" in str(error)
    assert (stats.calls, state, circuit) == (0, State.CONNECTING, BreakerState.CLOSED)
    await client.aclose()
    slow = QUICK.model_copy(update={"restart": RestartPolicy(base=1000, max_delay=1000)})
    client = ResilientClient(raw_server("--die-at-start", "3"), policy=slow, **LEGACY)
    await client.start(wait=False)
    while client.health().retry_in is None:
        await anyio.sleep(0.01)
    health, error, *_ = await in_thread(lambda: looks_of(client))
    assert 0 < health.retry_in <= 1000
    assert "The next attempt is in" in str(error)
    await client.aclose()


@pytest.mark.anyio
async def test_any_thread_can_operate_the_circuit():
    """`isolate` and `reset` take effect before they return, and wake the calls that wait for the circuit."""
    client = ResilientClient("http://127.0.0.1:9/mcp")
    circuit = client.circuit
    assert circuit is not None
    assert await in_thread(lambda: circuit.isolate() or circuit.state) is BreakerState.ISOLATED
    await client.start(wait=False)
    async with anyio.create_task_group() as tg:
        tg.start_soon(client._gate._moved.wait)
        await anyio.wait_all_tasks_blocked()
        assert await in_thread(lambda: circuit.reset() or circuit.state) is BreakerState.CLOSED
    await client.aclose()
    assert await in_thread(lambda: circuit.isolate() or circuit.state) is BreakerState.ISOLATED


@pytest.mark.anyio
async def test_another_event_loop_is_refused():
    """Every coroutine raises an error that names the remedy, and the client is as usable as before."""

    async def elsewhere(client: ResilientClient) -> None:
        for call in (
            lambda: client.call_tool("echo", {"text": "x"}),
            client.list_tools,
            client.send_ping,
            client.initialize,
            client.wait_ready,
            client.restart,
            client.aclose,
            lambda: client.subscribe_resource("raw://a"),
            client.watch(tools=True).__aenter__,
        ):
            with pytest.raises(RuntimeError, match=r"started in another event loop: call it there, by asyncio\.run_"):
                await call()

    async with client_of(raw_server()) as client:
        for backend in ("asyncio", "trio"):
            await in_thread(lambda backend=backend: anyio.run(elsewhere, client, backend=backend))
        assert client.state is State.READY
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_event_loop_that_has_ended(backend: str):
    """A client that was left open when its loop ended says so, and warns when it is collected."""
    policy = QUICK.model_copy(update={"restart": RestartPolicy(base=1000, max_delay=1000)})
    clients = [ResilientClient("http://127.0.0.1:9/mcp", name="left open", policy=policy)]

    async def leave_open() -> None:
        await clients[0].start(wait=False)
        while clients[0].health().retry_in is None:
            await anyio.sleep(0.01)

    async def call() -> None:
        with pytest.raises(ServerUnavailable, match="the event loop that it was started in has ended"):
            await clients[0].call_tool("echo")

    anyio.run(leave_open, backend=backend)
    anyio.run(call, backend=backend)
    assert clients[0].state is State.CLOSED
    with pytest.warns(ResourceWarning, match="the client of 'left open' was not closed: enter it with `async with`"):
        clients.clear()
        gc.collect()  # the traceback of the error above holds it


def test_trio_as_a_guest_of_asyncio():
    """A client of trio's works where both libraries run in one thread."""

    async def guest() -> str:
        async with client_of(raw_server()) as client:
            assert client.health().starting_for is None
            return text_of(await client.call_tool("echo", {"text": "x"}))

    async def host() -> Any:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
        )
        return (await done).unwrap()

    assert asyncio.run(host()) == "x"


@pytest.mark.anyio
async def test_a_dropped_client_warns_and_stops_its_server():
    """Nothing in the background keeps a client that the program has dropped, whichever thread collects it."""
    async with nothing_left():
        for collect in (lambda last: last.pop(), lambda last: Thread(target=last.pop).start()):
            client = ResilientClient(raw_server(), name="dropped", policy=QUICK, **LEGACY)
            await client.start()
            pid = int(text_of(await client.call_tool("pid")))
            last = [client]
            del client
            with pytest.warns(ResourceWarning, match="the client of 'dropped' was not closed"):
                collect(last)
                await gone(pid)
    never_started = ResilientClient(raw_server())
    del never_started


LEFT_OPEN = """
import asyncio, os, sys
import anyio
from mcp import StdioServerParameters
from resilient_mcp import ResilientClient

server = StdioServerParameters(command=sys.executable, args=["-m", "tests.servers.raw_server"])
client = ResilientClient(server, name="left open", errlog=None)

async def use():
    await client.start()
    print((await client.call_tool("pid")).content[0].text, flush=True)

def call_in_a_fork():
    try:
        asyncio.run(client.call_tool("echo", {"text": "x"}))
    except RuntimeError as exc:
        return "create a new ResilientClient in each process" in str(exc)

async def use_and_fork():
    await use()
    if not (child := os.fork()):
        os._exit(7 if call_in_a_fork() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    await client.call_tool("echo", {"text": "x"})

if sys.argv[1] == "trio":
    anyio.run(use, backend="trio")
elif sys.argv[1] == "asyncio":
    asyncio.run(use_and_fork())
else:
    asyncio.new_event_loop().run_until_complete(use())
"""


@pytest.mark.timeout(60)  # imports take seconds on a busy machine
@pytest.mark.parametrize("loop", ["asyncio", "trio", "stopped"])
def test_a_program_that_leaves_its_client_open_ends(loop: str):
    """It exits normally and prints nothing, and its server ends. A fork of it is refused the client."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, loop], capture_output=True, text=True, timeout=50, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    anyio.run(gone, int(done.stdout))


# --- errors ---


@pytest.mark.anyio
async def test_every_error_is_an_mcp_error_with_advice():
    """`except MCPError` keeps working; the advice makes a tool result that a model can read."""
    async with client_of(raw_server(), QUICK.model_copy(update={"retry": RetryPolicy(attempts=1)})) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("no_answer", read_timeout_seconds=0.1)
    error = caught.value
    assert isinstance(error, ResilienceError)
    assert isinstance(error, TimeoutError)
    assert error.error.code == REQUEST_TIMEOUT == error.code
    assert error.message == str(error)
    assert error.data is None
    assert error.operation == "tools/call no_answer"
    assert error.attempts == 1
    assert error.verdict is not None
    result = error.to_tool_result()
    assert is_error_result(result)
    assert text_of(result) == error.advice != ""


@pytest.mark.anyio
async def test_an_is_error_result_is_an_answer():
    """An `isError` result is returned as it came."""
    async with client_of(sdk_server()) as client:
        result = await client.call_tool("fail", {"text": "no such city"})
        assert is_error_result(result)
        assert "Error executing tool fail" in text_of(result)


BAD_SERVERS = [
    ("ftp://example.com/mcp", ValueError, "'ftp://example.com/mcp' is not a server's URL: write one such as"),
    ("example.com", ValueError, "'example.com' is not a server's URL"),
    ("", ValueError, "is not a server's URL"),
    ("https://", ValueError, "is not a server's URL"),
    ("http://[::1", ValueError, "is not a URL"),
    (StdioServerParameters(command="x", encoding="latin-1"), ValueError, "leave it at 'utf-8', which MCP prescribes"),
    (StdioServerParameters(command=" "), ValueError, "command is ' ': write the program to start"),
    (session_group.SseServerParameters(url="nope"), ValueError, "is not a server's URL"),
    (42, TypeError, "server is int: pass a URL"),
    (None, TypeError, "server is NoneType: pass a URL"),
]


@pytest.mark.parametrize(("server", "kind", "message"), BAD_SERVERS, ids=[str(case[0])[:30] for case in BAD_SERVERS])
def test_an_invalid_server_is_refused_immediately(server: Any, kind: type[Exception], message: str):
    """The constructor raises with the value and what to write instead."""
    with pytest.raises(kind, match=".*") as caught:
        ResilientClient(server)
    assert message in str(caught.value)


def test_a_url_with_secrets_is_not_repeated():
    """Neither the default name nor an error shows a URL's userinfo or query."""
    client = ResilientClient("https://user:s3cr3t@example.com/mcp?token=s3cr3t")
    assert client.name == "https://example.com/mcp"
    with pytest.raises(ValueError, match="is not a server's URL") as caught:
        ResilientClient("ftp://user:s3cr3t@example.com/?token=s3cr3t")
    assert "s3cr3t" not in str(caught.value)


BAD_POLICIES: list[tuple[Any, str]] = [
    (lambda: TimeoutPolicy(attempt=-1), "attempt"),
    (lambda: TimeoutPolicy(total=0), "greater than 0"),
    (lambda: TimeoutPolicy(total=math.nan), "greater than 0"),
    (lambda: RetryPolicy(attempts=0), "attempts"),
    (
        lambda: Policy.model_validate({"retry": {"atempts": 3}}),
        "RetryPolicy has no key 'atempts' (value 3): did you mean",
    ),
    (lambda: Policy.model_validate({"zzz": 3}), "its keys are retry, timeout, restart"),
    (lambda: Policy.model_validate_json('{"timeout": {"connect": "soon"}}'), "timeout.connect"),
    (lambda: Policy(max_message_bytes=1), "max_message_bytes"),
]


@pytest.mark.parametrize(("make", "message"), BAD_POLICIES, ids=[case[1][:30] for case in BAD_POLICIES])
def test_an_invalid_policy_is_refused_immediately(make: Any, message: str):
    """The error names the key, the value and what to write instead."""
    with pytest.raises(ValueError, match=".*") as caught:
        make()
    assert message in str(caught.value)


def test_arguments_of_the_wrong_kind():
    """Unknown options, a policy or HTTP client of the wrong type, and a negative time limit are refused."""
    with pytest.raises(TypeError, match=r"does not take 'nonsense': with mcp .* it takes .*client_info"):
        ResilientClient("http://x/mcp", nonsense="debug")
    with pytest.raises(TypeError, match=r"write Policy\.model_validate"):
        ResilientClient("http://x/mcp", policy={"retry": {}})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="AsyncClient"):
        ResilientClient("http://x/mcp", http_client=object())
    with pytest.raises(TypeError, match="is for Streamable HTTP servers"):
        ResilientClient(StdioServerParameters(command="x"), http_client=http.AsyncClient())
    for bad in (-1, math.nan, timedelta(seconds=-1)):
        with pytest.raises(ValueError, match="read_timeout_seconds is .*: pass a number of seconds, at least 0"):
            ResilientClient("http://x/mcp", read_timeout_seconds=bad)


def test_the_first_pattern_that_matches_decides():
    """Tool policies are matched by glob, case-sensitively, in order."""
    policy = Policy(tools={"get_*": ToolPolicy(repeatable=True), "*": ToolPolicy(repeatable=False)})
    assert policy.tool("get_x").repeatable is True
    assert policy.tool("Get_x").repeatable is False
    assert Policy().tool("x").repeatable is None


@pytest.mark.anyio
async def test_wait_ready_has_its_own_limit():
    """`wait_ready(timeout)` raises after that time, with the reason."""
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(connect=5, ready=5, shutdown=0.5)})
    client = ResilientClient(raw_server("--mute"), policy=policy)
    async with anyio.create_task_group() as tg:

        async def start() -> None:
            with pytest.raises(ServerUnavailable):
                await client.start()

        tg.start_soon(start)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ServerUnavailable, match=r"for 0 s\. A connection attempt .*Policy\.timeout\.ready"):
            await client.wait_ready(0.1)
        await client.aclose()


@pytest.mark.anyio
async def test_a_failed_client_says_what_to_change():
    """A start that cannot succeed raises an error that names the remedy."""
    client = ResilientClient(StdioServerParameters(command="no-such-program"), policy=QUICK)
    with pytest.raises(ServerFailed) as caught:
        await client.start()
    assert "Is it installed and on PATH?" in str(caught.value)
    assert "will not come back by itself" in caught.value.advice


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_does_not_keep_what_its_starter_had_in_context_variables():
    """A client started by a web request lives longer than it; in an `async with` block, callbacks see the variables."""

    class Held:
        pass

    async def request() -> weakref.ref[Held]:
        held = Held()
        variable.set(held)
        await client.start(wait=False)
        return weakref.ref(held)

    seen = []
    variable: ContextVar[Any] = ContextVar("request")
    client = ResilientClient(raw_server("--mute"), policy=QUICK)
    reference = await asyncio.create_task(request())
    await anyio.lowlevel.checkpoint()
    gc.collect()
    assert reference() is None
    await client.aclose()
    variable.set("seen")

    async def note(message: Any) -> None:
        seen.append(variable.get("unseen"))

    async with ResilientClient(raw_server(), policy=QUICK, message_handler=note, **LEGACY) as client:
        await client.call_tool("garbage")
        await client.call_tool("echo")
    assert set(seen) == {"seen"}
