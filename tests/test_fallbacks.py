"""What callers get when the server cannot answer: fallbacks, error results, stale copies; and argument validation."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool

from resilient_mcp import (
    CatalogChanged,
    Connected,
    ConnectionLost,
    InvalidArguments,
    Policy,
    ResilienceError,
    RestartPolicy,
    RetryPolicy,
    ServedStale,
    ServerFailed,
    ServerUnavailable,
    TimeoutPolicy,
    ToolPolicy,
)
from resilient_mcp._sdk.installed import MCPError
from resilient_mcp._sdk.results import is_error_result
from resilient_mcp.calls.catalog import Catalog
from resilient_mcp.calls.fallbacks import Copies
from resilient_mcp.events import State
from resilient_mcp.observability.hub import Hub
from resilient_mcp.testing import HttpReply, Reply, Request, ScriptedHttpServer
from resilient_mcp.verdicts.classifier import Classifier

from .changing import place
from .support import (
    QUICK,
    Faults,
    Recorder,
    ScriptedHttp,
    client_of,
    every_pair,
    is_repeatable,
    listed,
    measured,
    sdk_server,
    text_of,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]  # starts and kills servers, perhaps on a busy machine

SUSPENDING = QUICK.model_copy(update={"restart": RestartPolicy(intensity=1, suspend=60)})


async def down(client: Any) -> None:
    """Make a client's server unavailable from now on."""
    supervisor = client._supervisor
    supervisor._connector.open = _NoServer
    supervisor.restart()
    with anyio.fail_after(5):
        while supervisor.state is not State.SUSPENDED:
            await supervisor._changed.wait()


class _NoServer:
    def __init__(self, generation: int) -> None: ...

    async def __aenter__(self) -> Any:
        from resilient_mcp.evidence import Delivery, Evidence, FailureKind
        from resilient_mcp.verdicts.verdict import AttemptError

        raise AttemptError(None, Evidence(FailureKind.PROCESS, Delivery.NOT_SENT, "no server"))

    async def __aexit__(self, *exc_info: object) -> None: ...


# --- fallbacks and results ---


async def test_a_fallback_answers_while_the_server_is_unavailable():
    """It gets the arguments and answers with a text or a result; tools without a fallback raise."""
    seen: list[dict[str, Any]] = []

    async def echo(arguments: dict[str, Any]) -> str:
        seen.append(arguments)
        return "from memory"

    async def pid(arguments: dict[str, Any]) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="none")])

    async with client_of(sdk_server(), SUSPENDING, fallbacks={"echo": echo, "pid": pid}) as client:
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert seen == []
        await down(client)
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "from memory"
        assert text_of(await client.call_tool("pid")) == "none"
        assert seen == [{"text": "x"}]
        with pytest.raises(ServerUnavailable):
            await client.call_tool("sleep", {"seconds": 0})


async def test_a_fallback_that_fails_leaves_the_error():
    """The original error is raised, with a note about the fallback's failure."""

    async def echo(arguments: dict[str, Any]) -> str:
        raise LookupError("nothing remembered")

    async with client_of(sdk_server(), SUSPENDING, fallbacks={"echo": echo}) as client:
        await down(client)
        with pytest.raises(ServerUnavailable) as caught:
            await client.call_tool("echo", {"text": "x"})
        assert any("LookupError: nothing remembered" in note for note in caught.value.__notes__)


async def test_a_call_that_may_have_run_gets_no_fallback():
    """A call that may have run gets no fallback, unless its tool is repeatable."""
    asked: list[str] = []

    def remember(name: str) -> Any:
        async def fallback(arguments: dict[str, Any]) -> str:
            asked.append(name)
            return "instead"

        return fallback

    names = ("unsafe", "echo", "chosen")
    once = QUICK.retry.model_copy(update={"attempts": 1})
    policy = QUICK.model_copy(update={"tools": {"chosen": ToolPolicy(repeatable=True)}, "retry": once})
    async with ScriptedHttp().serve() as server:
        async with client_of(server.url, policy, fallbacks={name: remember(name) for name in names}) as client:
            await listed(client)
            server.faults = [Faults.close(), Faults.close(), Faults.close(), Faults.status(429)]
            with pytest.raises(ConnectionLost):
                await client.call_tool("unsafe", {})
            for name in ("echo", "chosen", "unsafe"):
                assert text_of(await client.call_tool(name, {})) == "instead"
    assert asked == ["echo", "chosen", "unsafe"]


async def test_errors_can_be_returned_as_results():
    """`on_unavailable="result"` returns text for a model; the server's own errors are still raised."""
    policy = SUSPENDING.model_copy(update={"on_unavailable": "result"})
    async with client_of(sdk_server(), policy) as client:
        await down(client)
        result = await client.call_tool("echo", {"text": "x"})
        assert is_error_result(result)
        assert "not available" in text_of(result)
        assert "Nothing was sent" in text_of(result)
        with pytest.raises(ServerUnavailable):
            await client.list_tools()
    async with ScriptedHttp().serve() as server:
        async with client_of(server.url, policy) as client:
            server.faults = [Faults.error(200, -32602, "no such thing")]
            with pytest.raises(MCPError, match="no such thing"):
                await client.call_tool("echo", {})


# --- stale copies ---


async def test_lists_and_resources_are_served_stale_while_the_server_is_down():
    """Results that were fetched before are served with their age and an event; all other requests raise."""
    events = Recorder()
    policy = SUSPENDING.model_copy(update={"serve_stale": True})
    async with client_of(sdk_server(), policy, on_event=events) as client:
        tools = await client.list_tools()
        resource = await client.read_resource("test://greeting")
        assert "resilient-mcp/stale-age" not in (tools.meta or {})
        await down(client)
        stale = await client.list_tools()
        assert [tool.name for tool in stale.tools] == [tool.name for tool in tools.tools]
        assert stale.meta["resilient-mcp/stale-age"] >= 0
        again = await client.read_resource("test://greeting")
        assert again.contents == resource.contents
        assert {event.operation for event in events.of(ServedStale)} == {"tools/list", "resources/read test://greeting"}
        with pytest.raises(ServerUnavailable):
            await client.list_prompts()
        with pytest.raises(ServerUnavailable):
            await client.list_tools("page 2")
    with pytest.raises(ServerUnavailable, match="closed"):
        await client.list_tools()


async def test_stale_copies_over_http():
    """Copies are served once the retries are used up, but never when the server refuses the credentials."""
    policy = QUICK.model_copy(
        update={
            "serve_stale": True,
            "breaker": None,
            "timeout": QUICK.timeout.model_copy(update={"ready": 0.2, "request": 1}),
        }
    )
    async with ScriptedHttp().serve() as server:
        async with client_of(server.url, policy) as client:
            await listed(client)
            await client.list_tools()
            server.listing_faults = [Faults.status(503)] * QUICK.retry.attempts
            assert "resilient-mcp/stale-age" in (await client.list_tools()).meta
            server.listing_faults = [Faults.status(401)]
            with pytest.raises(ServerUnavailable):
                await client.list_tools()
            assert "resilient-mcp/stale-age" not in ((await client.list_tools()).meta or {})


async def test_copies_belong_to_one_listing_and_one_caller():
    """Pages of different listings are not mixed, and nothing is served once the credentials were refused."""
    mode = "one"

    def script(request: Request) -> Any:
        if mode == "refused" and request.method.startswith("resources/"):
            return HttpReply.refusal(401)
        if mode == "down":
            return HttpReply.reset()
        if request.method == "resources/list":
            cursor = (request.params or {}).get("cursor")
            more = {} if cursor else {"nextCursor": "2"}
            return Reply.result({"resources": [{"uri": f"a://{mode}/{cursor or 1}", "name": "n"}], **more})
        if request.method == "resources/read":
            return Reply.result({"contents": [{"uri": "a://secret", "text": "salaries"}]})
        return None

    policy = Policy(serve_stale=True, retry=RetryPolicy(attempts=1), breaker=None)
    async with ScriptedHttpServer(script) as server, client_of(server.url, policy) as client:
        await client.list_resources()
        await client.list_resources(cursor="2")
        mode = "two"
        await client.list_resources()
        mode = "down"
        assert str((await client.list_resources()).resources[0].uri) == "a://two/1"
        with pytest.raises(ResilienceError):
            await client.list_resources(cursor="2")
        mode = "one"
        await client.read_resource("a://secret")
        mode = "refused"
        with pytest.raises(ServerFailed):
            await client.read_resource("a://secret")
        mode = "down"
        with pytest.raises(ResilienceError):
            await client.read_resource("a://secret")


async def test_validation_keeps_the_deadline():
    """Waiting for a list of tools that never arrives ends at the call's deadline."""
    policy = Policy(
        timeout=TimeoutPolicy(total=0.5, request=1), tools={"*": ToolPolicy(validate_arguments=True)}, breaker=None
    )
    async with ScriptedHttpServer({"tools/list": [Reply.hang()] * 9}) as server:
        async with client_of(server.url, policy) as client:
            with measured() as took, suppress(ResilienceError):
                await client.call_tool("echo", {"text": "x"})
            assert took[0] < 3


def page(*names: str) -> ListToolsResult:
    return ListToolsResult(tools=[Tool.model_validate({"name": name, "inputSchema": {}}) for name in names])


def test_copies_are_bounded():
    """Copies are bounded in number and bytes: the newest stay, and one that is too large is not kept."""
    copies = Copies(count=2, size=400)
    for n, key in enumerate("abc"):
        copies.keep(key, page(key), float(n))
    assert copies.get("a", 9.0) is None
    result, age = copies.get("b", 9.0) or (None, 0)
    assert [tool.name for tool in result.tools] == ["b"]
    assert age == 8.0
    copies.keep("d", page("x" * 300), 3.0)
    assert copies.get("d", 9.0) is not None
    copies.keep("e", page("x" * 500), 4.0)
    assert copies.get("e", 9.0) is None
    assert copies._bytes == sum(len(copy.body) for copy in copies._copies.values())


# --- argument validation ---


async def test_arguments_are_checked_before_anything_is_sent():
    """Each problem is reported with its path, for a model to correct; as a result where the policy says so."""
    policy = QUICK.model_copy(update={"tools": {"s*": ToolPolicy(validate_arguments=True)}})
    async with client_of(sdk_server(), policy) as client:
        assert text_of(await client.call_tool("steps", {"count": 1, "pause": 0})) == "done"
        with pytest.raises(InvalidArguments, match="nothing was sent") as caught:
            await client.call_tool("steps", {"count": "many"})
        assert caught.value.error.code == -32602
        assert sorted(path for path, _ in caught.value.problems) == ["$", "$.count"]
        assert any("'pause' is a required property" in reason for _, reason in caught.value.problems)
        assert "Correct them" in caught.value.advice
        assert is_error_result(await client.call_tool("append_once", {}))  # not validated
    async with client_of(sdk_server(), policy.model_copy(update={"on_unavailable": "result"})) as client:
        assert "$.seconds" in text_of(await client.call_tool("sleep", {"seconds": "x"}))


HERE: Any = SimpleNamespace(generation=1)
ELSEWHERE: Any = SimpleNamespace(generation=2)


def catalog_with(schema: dict[str, Any]) -> Catalog:
    catalog = Catalog(Classifier(Policy()), Hub("test"))
    catalog._replace({"tool": Tool.model_validate({"name": "tool", "inputSchema": schema})})
    catalog._current = HERE.generation
    return catalog


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"properties": {"a": {"$ref": "http://127.0.0.1:1/elsewhere.json"}}},
        {"properties": {"a": {"$ref": "#/nowhere"}}},
        {"properties": {"a": {"pattern": "("}}},
        {"$ref": "#"},
        {"$schema": "http://127.0.0.1:1/meta.json", "type": "object"},
    ],
)
def test_a_broken_schema_does_not_block_calls(schema: dict[str, Any]):
    """Remote references are not fetched, and what cannot be checked is left to the server."""
    assert catalog_with(schema).problems("tool", {"a": "x"}, HERE) == []


def test_problems_are_bounded_and_printable():
    """At most ten problems are reported, each one printable line; unknown tools are not checked."""
    catalog = catalog_with({"additionalProperties": {"type": "integer"}})
    problems = catalog.problems("tool", {f"a{n}": "\x1b[31m" + "x" * 5000 for n in range(100)}, HERE)
    assert len(problems) == 10
    assert all(len(reason) <= 300 and "\x1b" not in reason for _, reason in problems)
    assert catalog.problems("other", {}, HERE) == []
    assert catalog.problems("tool", {"a": "x"}, ELSEWHERE) == []
    assert catalog_with({"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}).problems(
        "tool", {"a": "x"}, HERE
    )


# --- capabilities and catalog ---


async def test_a_missing_capability_is_named():
    """A -32601 for an undeclared capability has a note that names the capability."""
    async with ScriptedHttp().serve() as server:
        async with client_of(server.url) as client:
            with pytest.raises(MCPError) as caught:
                await client.list_prompts()
            assert "does not declare the capability prompts" in caught.value.__notes__[-1]
            with pytest.raises(MCPError) as caught:
                await client.subscribe_resource("test://a")
            assert "does not declare the capability resources.subscribe" in caught.value.__notes__[-1]


@every_pair("where", ["stdio legacy", "http legacy"])
async def test_a_server_that_comes_back_with_other_tools(where: str, tmp_path: Path):
    """`CatalogChanged` has the difference, calls of removed tools get the server's answer, new annotations apply."""
    tools = tmp_path / "tools"
    tools.write_text("kept\nremoved\nturned idempotentHint\n")
    async with place(where, tools=tools) as at:
        await listed(at.client)
        assert is_repeatable(at.client, "turned") is True
        tools.write_text("kept\nturned\nadded readOnlyHint\n")
        await at.kill()
        await at.ask("kept")
        change = await at.events.wait_for(CatalogChanged)
        assert (change.added, change.removed, change.changed) == (("added",), ("removed",), ("turned",))
        assert is_repeatable(at.client, "turned") is False
        assert is_repeatable(at.client, "added") is True
        assert "removed" in text_of(await at.client.call_tool("removed", {}))
        assert len(at.events.of(Connected)) == 2


async def test_a_call_is_not_repeated_on_a_server_that_no_longer_allows_it(tmp_path: Path):
    """The tool was idempotent when the call was sent, but the new process lists it without the hint."""
    tools = tmp_path / "tools"
    tools.write_text("turned idempotentHint\n")
    async with place("stdio legacy", tools=tools) as at:
        await listed(at.client)
        pid = int(await at.ask("pid"))
        os.kill(pid, signal.SIGSTOP)
        tools.write_text("turned\n")
        async with anyio.create_task_group() as tg:

            async def call() -> None:
                with pytest.raises(ConnectionLost, match="may have run it") as caught:
                    await at.client.call_tool("turned", {})
                assert caught.value.attempts == 1

            tg.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            os.kill(pid, signal.SIGKILL)
        assert at.client.generation == 2


async def test_concurrent_changes_share_listings():
    """The list is fetched after the last change, not once per change; `list_changed` during a listing is not lost."""
    async with place("stdio legacy") as at:
        await listed(at.client)
        async with anyio.create_task_group() as tg:
            for n in range(20):
                tg.start_soon(lambda n=n: at.client.call_tool("grow", {"name": f"new-{n}"}))
        added: set[str] = set()
        with anyio.fail_after(10):
            while len(added) < 20:
                added = {name for event in at.events.of(CatalogChanged) for name in event.added}
                await anyio.sleep(0.01)
        assert len(at.events.of(CatalogChanged)) <= 20


async def test_undeclared_capabilities_are_not_listed():
    """A server that declares only tools is not asked for resources or prompts."""
    async with ScriptedHttp().serve() as server:
        async with client_of(server.url) as client:
            await listed(client)
            await client.send_ping()
            await anyio.wait_all_tasks_blocked()
            assert server.requests["tools/list"] == 1
            assert server.requests["resources/list"] == server.requests["prompts/list"] == 0
