"""`as_transport()`: the host and the real server see what they would see without the client between them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp
import pytest
from mcp import ClientSession, StdioServerParameters, types

from resilient_mcp import Policy, ResilientClient, RetryPolicy, State
from resilient_mcp._sdk.installed import MAJOR, HighLevelServer
from resilient_mcp._sdk.messages import message_as_json, message_from_json
from resilient_mcp.bridge import Bridge
from resilient_mcp.transports.outbox import Outbox

from .npm import NODE, needs_npm, program
from .support import LEGACY, QUICK, _stdio, children, every_pair, nothing_left, raw_server, sdk_server, text_of
from .test_events import Records, records  # noqa: F401 - a fixture
from .test_everything import use

pytestmark = pytest.mark.anyio

HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"sampling": {"context": {}}, "elicitation": {"url": {}}, "experimental": {"x": {"y": None}}},
    "clientInfo": {"name": "a host", "version": "7"},
}
ONCE = Policy(retry=RetryPolicy(attempts=1), restart=QUICK.restart, timeout=QUICK.timeout)


class Host:
    """A host that speaks raw JSON-RPC."""

    def __init__(self, read: Any, write: Any) -> None:
        self._read = read
        self._write = write
        self._number = 0
        self.notifications: list[dict[str, Any]] = []
        self.questions: list[dict[str, Any]] = []

    async def send(self, **message: Any) -> None:
        await self._write.send(message_from_json({"jsonrpc": "2.0", **message}))

    async def receive(self) -> dict[str, Any]:
        with anyio.fail_after(10):
            return message_as_json(await self._read.receive())

    async def ask(self, method: str, params: Any = None, *, answers: list[dict[str, Any]] | None = None) -> Any:
        """Return the whole response; requests that the server makes meanwhile get `answers`."""
        self._number += 1
        number = self._number
        await self.send(id=number, method=method, **({} if params is None else {"params": params}))
        while True:
            message = await self.receive()
            if "method" not in message:
                assert message["id"] == number
                return message
            if "id" in message:
                self.questions.append(message)
                await self.send(id=message["id"], **(answers or []).pop(0))
            else:
                self.notifications.append(message)

    async def call(self, tool: str, **arguments: Any) -> Any:
        return await self.ask("tools/call", {"name": tool, "arguments": arguments})

    async def greet(self) -> dict[str, Any]:
        answer = await self.ask("initialize", HELLO)
        await self.send(method="notifications/initialized")
        return answer


@asynccontextmanager
async def host_of(server: Any, policy: Policy = QUICK) -> AsyncIterator[Host]:
    async with ResilientClient(server, policy=policy).as_transport() as (read, write):
        host = Host(read, write)
        await host.greet()
        yield host


async def test_initialize_returns_the_real_servers_result():
    """The host sees the server's info, capabilities and instructions at its own version; the server sees the host's."""
    async with nothing_left():
        client = ResilientClient(raw_server(), policy=QUICK)
        async with client.as_transport() as (read, write):
            host = Host(read, write)
            assert (await host.ask("server/discover"))["error"]["code"] == -32601
            result = (await host.greet())["result"]
            assert result["serverInfo"] == {"name": "raw", "version": "1"}
            assert result["instructions"] == "hi"
            assert result["protocolVersion"] == "2025-06-18"
            assert result["capabilities"]["resources"] == {"subscribe": True}
            seen = json.loads((await host.call("who"))["result"]["content"][0]["text"])
            assert seen["clientInfo"] == HELLO["clientInfo"]
            assert seen["capabilities"] == HELLO["capabilities"]
            assert (await host.ask("ping"))["result"] == {}
            assert client.state is State.READY
        assert client.state is State.CLOSED


async def test_results_and_errors_are_forwarded_unchanged():
    """Unknown fields, `_meta`, nulls, non-conforming content, and errors with their data reach the host unchanged."""
    results = [
        {"content": [{"type": "text", "text": "é", "x": None}], "_meta": {"a": {"b": None}}, "vendor": [1.0, None]},
        {"content": [], "structuredContent": {"n": None, "big": 2**53}, "isError": False},
        {"content": [{"type": "vendor"}], "isError": "perhaps"},
        {"content": [{"type": "text", "text": "no"}], "isError": True, "extra": 1},
    ]
    error = {"code": -32050, "message": "no \u2028 such", "data": {"x": [None]}}
    async with host_of(raw_server(), ONCE) as host:
        for result in results:
            assert (await host.call("result", result=result))["result"] == result
        assert (await host.call("result", error=error))["error"] == error
        assert (await host.ask("vendor/method", {"a": None}))["error"] == {
            "code": -32601,
            "message": "Method not found",
        }
        assert (await host.ask("completion/complete", {"vendor": 1}))["result"] == {"completion": {"values": ["done"]}}
        assert (await host.ask("resources/subscribe", {"uri": "raw://a"}))["result"] == {}
        assert (await host.ask("resources/unsubscribe", {"uri": "raw://a"}))["result"] == {}
        assert (await host.ask("logging/setLevel", {"level": "debug"}))["result"] == {}
        assert (await host.ask("logging/setLevel", {"level": "vendor"}))["result"] == {}


async def test_server_requests_and_the_hosts_answers_are_forwarded_unchanged():
    """Any server request, known or not, keeps its unknown fields; results and errors are returned as they are."""
    question = {"method": "vendor/ask", "params": {"x": None, "_meta": {"y": 1}}, "jsonrpc": "2.0"}
    async with host_of(raw_server()) as host:
        for answer in ({"result": {"z": [None]}}, {"error": {"code": 5, "message": "no", "data": None}}):
            reply = await host.ask(
                "tools/call",
                {"name": "send", "arguments": {"messages": [{**question, "id": "q"}]}},
                answers=[dict(answer)],
            )
            got = json.loads(reply["result"]["content"][0]["text"])
            assert {"jsonrpc": "2.0", "id": "q", **answer} == {**got, **answer}
        assert [{key: asked[key] for key in question} for asked in host.questions] == [question, question]


async def test_a_server_request_that_the_server_cancels():
    """The cancellation reaches the host, and an answer sent after it does no harm."""
    asked = {"jsonrpc": "2.0", "id": "q", "method": "sampling/createMessage", "params": {"messages": []}}
    taken_back = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "q"}}
    async with host_of(raw_server()) as host:
        await host.send(id="a", method="tools/call", params={"name": "send", "arguments": {"messages": [asked]}})
        question = await host.receive()
        assert question["method"] == "sampling/createMessage"
        await host.send(method="notifications/roots/list_changed")  # the line that the server waits for
        assert (await host.receive())["id"] == "a"
        await host.call("send", messages=[taken_back])
        while not host.notifications:
            host.notifications.append(await host.receive())
        (cancelled,) = host.notifications
        assert cancelled["method"] == "notifications/cancelled"
        assert cancelled["params"]["requestId"] == question["id"]
        await host.send(id=question["id"], result={})
        await host.send(id=12345, result={})
        assert (await host.call("echo", text="hi"))["result"]["content"][0]["text"] == "hi"


async def test_notifications_are_forwarded_both_ways():
    """The host gets the server's notifications only after it has sent `initialized`; the server gets the host's."""
    changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    log = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": {"a": 1}}}
    async with ResilientClient(raw_server(), policy=QUICK).as_transport() as (read, write):
        host = Host(read, write)
        await host.ask("initialize", HELLO)
        await host.call("send", messages=[changed])
        assert host.notifications == []
        await host.send(method="notifications/initialized")
        assert await host.receive() == changed
        await host.call("send", messages=[log])
        while not host.notifications:  # trio runs tasks in any order
            host.notifications.append(await host.receive())
        assert host.notifications == [log]
        await host.send(method="notifications/roots/list_changed")
        assert (await host.call("echo", text="hi"))["result"]["content"][0]["text"] == "hi"


def log(number: int) -> dict[str, Any]:
    """A server's log message."""
    params = {"level": "info", "data": number}
    return {"jsonrpc": "2.0", "method": "notifications/message", "params": params}


async def test_notifications_held_back_are_not_overtaken():
    """The host gets those that came before and after its `initialized` in the order in which the server sent them."""
    async with ResilientClient(raw_server(), policy=QUICK, **LEGACY) as client:
        async with client.as_transport() as (read, write):
            host = Host(read, write)
            await host.ask("initialize", HELLO)
            await client.call_tool("send", {"messages": [log(n) for n in range(100)]})
            await host.send(method="notifications/initialized")
            await client.call_tool("send", {"messages": [log(n) for n in range(100, 200)]})
            assert [(await host.receive())["params"]["data"] for _ in range(200)] == list(range(200))


async def test_a_host_that_does_not_read_delays_only_itself(records: Records):  # noqa: F811
    """Other users of the client go on; log messages are dropped and changes kept; the host can go on later."""
    changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    async with ResilientClient(raw_server(), name="notes", policy=QUICK, **LEGACY) as client:
        async with client.as_transport() as (read, write):
            host = Host(read, write)
            await host.greet()
            await client.call_tool("send", {"messages": [*map(log, range(1000)), changed, changed]})
            assert text_of(await client.call_tool("echo", {"text": "others"})) == "others"
            assert "notes: the host does not read: notifications for it are dropped" in records.lines
            await host.send(id="late", method="ping")
            await anyio.wait_all_tasks_blocked()
            got = []
            while not got or got[-1].get("id") != "late":
                got.append(await host.receive())
            *logs, change, _ = got
            assert change == changed
            assert [message["params"]["data"] for message in logs] == list(range(len(logs)))
            assert 256 <= len(logs) < 400
            missed = 1000 - len(logs) + 1
            assert f"notes: the host reads again; it missed {missed} notifications" in records.lines


class Deaf:
    """A host that takes nothing."""

    def encode(self, message: dict[str, Any]) -> bytes:
        return json.dumps(message).encode()

    def send_nowait(self, item: bytes) -> bool:
        return False

    async def send(self, item: bytes) -> None:
        await anyio.sleep_forever()


async def test_a_host_that_asks_but_never_reads_is_cut_off(records: Records):  # noqa: F811
    """Its requests wait in bounded number, then the bridge ends, and says so."""
    asked = 0

    async def messages() -> AsyncGenerator[dict[str, Any], None]:
        nonlocal asked
        while True:
            asked += 1
            yield {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            await anyio.lowlevel.checkpoint()

    client = ResilientClient(raw_server(), name="notes")
    with anyio.fail_after(10):
        await Bridge(client, Deaf()).serve(messages())
    assert asked < 2000
    assert records.lines == ["notes: the host sends requests but does not read; it is cut off"]


async def test_an_answer_that_cannot_be_encoded_is_an_error():
    """The host learns why, and a notification of that kind is left out."""
    sent = []

    class Listening(Deaf):
        def send_nowait(self, item: bytes) -> bool:
            sent.append(json.loads(item))
            return True

    deep: Any = []
    for _ in range(200_000):
        deep = [deep]
    outbox = Outbox("notes", Listening())
    outbox.offer({"method": "notifications/x", "params": {"a": deep}})
    outbox.put({"id": 7, "result": {"a": deep}})
    assert [(message["id"], message["error"]["code"]) for message in sent] == [(7, -32603)]


async def test_progress_is_reported_with_the_hosts_own_token():
    """Each progress notification of the server reaches the host with the token that the host chose."""
    async with host_of(sdk_server()) as host:
        params = {"name": "steps", "arguments": {"count": 3, "pause": 0}, "_meta": {"progressToken": "mine"}}
        assert "result" in await host.ask("tools/call", params)
        with anyio.fail_after(10):
            while len(host.notifications) < 3:  # the SDK's tasks may bring the last ones after the answer
                await anyio.sleep(0.01)
        reported = [message["params"] for message in host.notifications]
        assert [params["progressToken"] for params in reported] == ["mine"] * 3
        assert sorted(params["progress"] for params in reported) == [1, 2, 3]


async def test_a_cancelled_call(tmp_path: Path):
    """The cancellation reaches the server, no response is sent, and the next call works."""
    journal = tmp_path / "journal"
    async with host_of(raw_server("--journal", str(journal))) as host:
        await host.send(id="a", method="tools/call", params={"name": "no_answer"})
        await host.call("echo", text="hi")
        await host.send(method="notifications/cancelled", params={"requestId": "a"})
        await host.send(method="notifications/cancelled", params={"requestId": "unknown"})
        with anyio.fail_after(5):
            while not journal.exists():
                assert (await host.call("echo", text="hi"))["result"]["content"][0]["text"] == "hi"
        assert json.loads(journal.read_text().splitlines()[0])["params"]["requestId"] is not None


async def test_the_real_server_is_killed():
    """The next call waits for the new process; a call that may have run returns advice for the model."""
    async with nothing_left(), host_of(raw_server()) as host:
        first = int((await host.call("pid"))["result"]["content"][0]["text"])
        os.kill(first, signal.SIGKILL)
        assert int((await host.call("pid"))["result"]["content"][0]["text"]) != first
        lost = (await host.call("unsafe", do="die"))["result"]
        assert lost["isError"] is True
        assert "may have run it" in lost["content"][0]["text"]
        assert (await host.ask("tools/list"))["result"]["tools"]


async def test_subscriptions_and_log_level_are_restored_after_a_crash():
    """After a kill the host gets an update for what it may have missed, then the next real one, at its log level."""
    server = _stdio("tests.servers.changing_server", ("stdio",), None)
    async with nothing_left(), host_of(server) as host:
        await host.ask("resources/subscribe", {"uri": "test://a"})
        await host.ask("logging/setLevel", {"level": "error"})
        os.kill(int((await host.call("pid"))["result"]["content"][0]["text"]), signal.SIGKILL)
        updated = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "test://a"}}
        while updated not in host.notifications:
            await host.call("pid")
        with anyio.fail_after(10):
            while (await host.call("level"))["result"]["content"][0]["text"] != "error":
                await anyio.sleep(0.01)
        host.notifications.clear()
        await host.call("touch", uri="test://a")
        while updated not in host.notifications:
            await host.call("pid")


async def test_a_server_that_cannot_be_started():
    """`initialize` fails with the reason, and a call returns advice for the model."""
    server = StdioServerParameters(command="no-such-command-here")
    async with ResilientClient(server, policy=QUICK).as_transport() as (read, write):
        host = Host(read, write)
        error = (await host.ask("initialize", HELLO))["error"]
        assert "cannot start: No such file or directory: no-such-command-here" in error["message"]
        error = (await host.ask("tools/list"))["error"]
        assert "cannot be used and will not come back by itself" in error["message"]
        result = (await host.call("echo"))["result"]
        assert result["isError"]
        assert "cannot be used" in result["content"][0]["text"]


async def test_a_client_with_callbacks_of_its_own():
    """The client's own callbacks answer server requests, which never reach the host."""

    async def list_roots(_: Any) -> Any:
        return types.ListRootsResult.model_validate({"roots": [{"uri": "file:///a"}, {"uri": "file:///b"}]})

    client = ResilientClient(sdk_server(), policy=QUICK, list_roots_callback=list_roots)
    async with client.as_transport() as (read, write):
        host = Host(read, write)
        await host.greet()
        assert (await host.call("count_roots"))["result"]["content"][0]["text"] == "2"
        assert host.questions == []


async def test_an_in_process_server_is_served():
    """An SDK server object is served like any other server."""
    server = HighLevelServer("inner")

    @server.tool()
    def echo(text: str) -> str:
        return text

    async with host_of(server) as host:
        assert (await host.call("echo", text="hi"))["result"]["content"][0]["text"] == "hi"


@pytest.mark.skipif(MAJOR == 1, reason="2026-07-28 is spoken by mcp 2.x")
async def test_a_server_that_requires_input():
    """At 2026-07-28 the client's callbacks answer the input requests in a result, round by round."""
    server = HighLevelServer("inner")
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    wanted = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": schema}}

    async def greet(ctx):
        given = (ctx.input_responses or {}).get("name")
        if given is not None:
            return f"hello {given.content['name']}"
        result = {"inputRequests": {"name": wanted}} if ctx.request_state else {"requestState": "once more"}
        return types.InputRequiredResult.model_validate(result)

    from mcp.server.mcpserver import Context

    greet.__annotations__ = {"ctx": Context, "return": types.InputRequiredResult | str}
    server.tool(structured_output=False)(greet)
    actions = ["decline", "accept"]

    async def elicit(_: Any, params: Any) -> Any:
        action = actions.pop()
        if action == "decline":
            return types.ErrorData(code=-32042, message="nobody is here")
        return types.ElicitResult(action=action, content={"name": "Ada"})

    async with ResilientClient(server, policy=QUICK, elicitation_callback=elicit) as client:
        assert client.protocol_version == "2026-07-28"
        async with client.as_transport() as (read, write):
            host = Host(read, write)
            assert (await host.greet())["result"]["protocolVersion"] == "2025-06-18"
            assert (await host.call("greet"))["result"]["content"][0]["text"] == "hello Ada"
            assert (await host.call("greet"))["error"]["message"] == "nobody is here"


async def test_a_client_that_is_already_running():
    """It serves several hosts at the same time and stays open, and its server sees the client, not the hosts."""
    async with ResilientClient(raw_server(), policy=QUICK, **LEGACY) as client:
        async with client.as_transport() as one, client.as_transport() as two:
            for read, write in (one, two):
                host = Host(read, write)
                await host.greet()
                seen = json.loads((await host.call("who"))["result"]["content"][0]["text"])
                assert seen["clientInfo"]["name"] == "mcp"
        assert client.state is State.READY
        transport = client.as_transport()
        async with transport:
            pass
        with pytest.raises(RuntimeError, match="already used"):
            await transport.__aenter__()


@pytest.mark.timeout(60)  # starts and kills SDK servers, perhaps on a busy machine
@every_pair("started", [False, True])
async def test_under_the_sdks_own_session(started: bool):
    """`ClientSession` and, on mcp 2.x, `mcp.Client` see a crash of the server as nothing but a pause."""
    for connect in [session_of] if MAJOR == 1 else [session_of, mcp.Client]:
        async with nothing_left():
            client = ResilientClient(sdk_server(), policy=QUICK)
            if started:
                await client.start()
            async with connect(client.as_transport()) as session:
                tools = [tool.name for tool in (await session.list_tools()).tools]
                assert "echo" in tools
                pid = int(text_of(await session.call_tool("pid")))
                os.kill(pid, signal.SIGKILL)
                assert int(text_of(await session.call_tool("pid"))) != pid
                read = await session.read_resource(_sdk_uri("test://greeting"))
                assert read.contents[0].text == "hello"
            await client.aclose()


def _sdk_uri(uri: str) -> Any:
    from pydantic import AnyUrl

    return AnyUrl(uri) if MAJOR == 1 else uri


@asynccontextmanager
async def session_of(transport: Any) -> AsyncIterator[Any]:
    async with transport as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


@needs_npm
async def test_server_everything_behind_two_clients(everything: Path):
    """Every operation works through the bridge, and again after the server was killed."""
    before = set(children())
    server = ResilientClient(StdioServerParameters(command=NODE, args=[program(everything), "stdio"]), policy=QUICK)
    async with ResilientClient(server.as_transport, policy=QUICK, **LEGACY) as host:
        await use(host)
        for pid in set(children()) - before:
            os.kill(pid, signal.SIGKILL)
        await use(host)
        assert host.generation == 1
