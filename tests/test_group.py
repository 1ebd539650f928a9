"""Many servers as one: working servers stay usable whatever the others do, and missing ones are named."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import StdioServerParameters

from resilient_mcp import (
    DeadlineExceeded,
    Policy,
    ResilienceError,
    ResilientClient,
    ResilientClientGroup,
    RetryPolicy,
    ServerFailed,
    ServerUnavailable,
    State,
    TimeoutPolicy,
)
from resilient_mcp._sdk.results import items_of

from .npm import NODE, needs_npm, program
from .support import (
    LEGACY,
    QUICK,
    ROOT,
    gone,
    http_server,
    in_turn,
    is_alive,
    nothing_left,
    raw_server,
    sdk_server,
    text_of,
)

pytestmark = pytest.mark.anyio

HANGS = Policy(timeout=TimeoutPolicy(connect=60, ready=60, shutdown=2))
MISSING = "resilient-mcp/missing"
SERVER = "resilient-mcp/server"


def group_of(servers: dict[str, Any], **options: Any) -> ResilientClientGroup:
    return ResilientClientGroup(servers, **{"policy": QUICK, "patience": 10, **LEGACY, **options})


def named(result: Any) -> list[str]:
    return [tool.name for tool in result.tools]


async def test_lists_and_calls():
    """Tools of all servers have names that do not clash, each call reaches its server, and closing leaves nothing."""
    async with nothing_left():
        async with group_of({"one": raw_server(), "two": sdk_server()}) as group:
            assert list(group) == ["one", "two"]
            assert len(group) == 2
            listed = await group.list_tools()
            assert {"one__echo", "one__pid", "two__echo", "two__pid"} <= set(named(listed))
            assert listed.meta is None
            assert {tool.meta[SERVER] for tool in listed.tools} == {"one", "two"}
            one, two = [text_of(await group.call_tool(f"{name}__pid")) for name in group]
            assert one != two
            assert text_of(await group.call_tool("two__echo", {"text": "hi"})) == "hi"
            resources = (await group.list_resources()).resources
            assert [resource.name for resource in resources] == ["one__a", "two__greeting"]
            resource = resources[1]
            assert str(resource.uri) == "test://greeting"
            read = await group[resource.meta[SERVER]].read_resource(resource.uri)
            assert read.contents[0].text == "hello"
            assert [prompt.name for prompt in (await group.list_prompts()).prompts] == ["one__p", "two__ask"]
            got = await group.get_prompt("two__ask", {"topic": "rain"})
            assert got.messages[0].content.text == "What is rain?"
            templates = await group.list_resource_templates()
            assert [item.name for item in items_of("list_resource_templates", templates)] == ["one__t"]
            assert {name: health.state for name, health in group.health().items()} == dict.fromkeys(group, State.READY)
            assert group.missing == {}


async def test_failing_servers_are_named_and_do_not_block_the_others():
    """A missing command, a dying and a hanging server do not delay entering, listing or calling the others."""
    servers = {
        "good": raw_server(),
        "absent": StdioServerParameters(command="no-such-command-here"),
        "dying": raw_server("--die-at-start", "3"),
        "mute": raw_server("--mute"),
    }
    async with group_of(servers, policy=HANGS, patience=1) as group:  # its limits exceed this test's
        listed = await group.list_tools()
        assert named(listed)
        assert {tool.meta[SERVER] for tool in listed.tools} == {"good"}
        missing = listed.meta[MISSING]
        assert set(missing) == {"absent", "dying", "mute"}
        assert "no-such-command-here" in missing["absent"]
        assert "exit status 3" in missing["dying"]
        assert group.missing.keys() == missing.keys()
        health = group.health()
        assert health["good"].last_error is None
        assert health["absent"].state is State.FAILED
        assert isinstance(group["absent"].error, ServerFailed)
        assert health["dying"].exit_status.code == 3
        assert health["mute"].state is State.CONNECTING
        assert text_of(await group.call_tool("good__echo", {"text": "hi"})) == "hi"
        with pytest.raises(ServerFailed):
            await group.call_tool("absent__echo")
        with pytest.raises(ResilienceError, match="absent, dying, mute"):
            await group.call_tool("echo")


async def test_servers_come_and_go():
    """Servers are added and removed at run time, and a name can be used only once."""
    async with nothing_left(), group_of({"one": raw_server()}) as group:
        client = await group.add("two", raw_server())
        assert client is group["two"]
        assert client.state is State.READY
        pid = int(text_of(await group.call_tool("two__pid")))
        with pytest.raises(ValueError, match="has a server 'two'"):
            await group.add("two", raw_server())
        assert (await group.add("bad", raw_server("--die-at-start", "1"))).error is not None
        await group.remove("two")
        await group.remove("bad")
        await gone(pid)
        assert list(group) == ["one"]
        with pytest.raises(KeyError, match="no server 'two'; it has 'one'"):
            await group.remove("two")
        with pytest.raises(KeyError, match="no server 'two'"):
            group["two"]
        assert {tool.meta[SERVER] for tool in (await group.list_tools()).tools} == {"one"}


async def test_a_killed_server_returns_without_affecting_the_others():
    """A server that dies during a call returns under its name."""
    async with group_of({"one": raw_server(), "two": raw_server()}) as group:
        one, two = [int(text_of(await group.call_tool(f"{name}__pid"))) for name in group]
        os.kill(one, signal.SIGKILL)
        assert int(text_of(await group.call_tool("two__pid"))) == two
        assert int(text_of(await group.call_tool("one__pid"))) not in (one, two)
        assert group.missing == {}


async def test_a_name_hook_chooses_the_names(caplog: pytest.LogCaptureFixture):
    """The hook is called as the SDK calls it; on a clash one tool is hidden, and the log says so."""

    def hook(name: str, server_info: Any) -> str:
        return name if name == "echo" else f"{server_info.name}.{name}"

    async with group_of({"one": raw_server(), "two": raw_server()}, name_hook=hook) as group:
        assert text_of(await group.call_tool("two.pid")).isdecimal()  # not listed yet
        with caplog.at_level(logging.WARNING, "resilient_mcp"):
            names = named(await group.list_tools())
        assert names.count("echo") == 1
        assert {"one.pid", "two.pid"} <= set(names)
        assert "the name 'echo' is taken in the group: the one from server 'two' is hidden" in caplog.text
        with pytest.raises(ResilienceError, match="No server in this group has 'three.pid'"):
            await group.call_tool("three.pid")


async def test_a_users_own_client_in_a_group():
    """A client that was already started is used and left open; one that was not is owned by the group."""
    async with ResilientClient(raw_server(), policy=QUICK, **LEGACY) as client:
        other = ResilientClient(raw_server(), policy=QUICK, **LEGACY)
        async with group_of({"yours": client, "given": other}) as group:
            assert text_of(await group.call_tool("yours__echo", {"text": "hi"})) == "hi"
            assert text_of(await group.call_tool("given__echo", {"text": "hi"})) == "hi"
        assert client.state is State.READY
        assert other.state is State.CLOSED


async def test_closing_is_bounded():
    """Frozen servers are closed concurrently: one after the other would exceed the time limit of a test."""
    async with nothing_left():
        group = group_of({name: raw_server() for name in "abcdefghijk"})
        await group.start()
        with pytest.raises(RuntimeError, match="already started"):
            await group.start()
        pids = [int(text_of(await group.call_tool(f"{name}__pid"))) for name in group]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        await group.aclose()
        assert not any(map(is_alive, pids))
        with pytest.raises(ServerUnavailable, match="the client is closed"):
            await group.call_tool("a__echo")
        with pytest.raises(RuntimeError, match="the group is closed"):
            await group.add("l", raw_server())


async def test_a_cancelled_start_leaves_nothing():
    """A start that is cancelled half-way stops the servers that it started."""
    async with nothing_left():
        with anyio.move_on_after(0.3):
            await group_of({"mute": raw_server("--mute")}).start()


async def test_a_cancelled_addition_leaves_nothing():
    """The server is removed and its process stops; the name is free again, also if it was removed meanwhile."""
    async with nothing_left(), group_of({}) as group:
        for remove in (False, True):
            async with anyio.create_task_group() as tg:
                tg.start_soon(group.add, "mute", raw_server("--mute"))
                await anyio.wait_all_tasks_blocked()
                client = group["mute"]
                if remove:
                    await group.remove("mute")
                else:
                    tg.cancel_scope.cancel()
            assert list(group) == []
            assert client.state is State.CLOSED


async def test_closing_before_the_start_has_no_effect():
    """As on a client, a group that was not started can still be; one that was closed cannot."""
    async with nothing_left():
        group = group_of({"one": raw_server()})
        await group.aclose()
        await group.add("two", raw_server())
        await group.start()
        assert len({text_of(await group.call_tool(f"{name}__pid")) for name in group}) == 2
        await group.aclose()
        with pytest.raises(RuntimeError, match="already started: create a new"):
            await group.start()


async def test_a_failed_listing_is_reported_not_raised():
    """A server that refuses to list is named as missing, and the others are listed."""
    async with group_of({"one": raw_server(), "bad": raw_server("--no-listing")}) as group:
        listed = await group.list_tools()
        assert {tool.meta[SERVER] for tool in listed.tools} == {"one"}
        assert "no listing today" in listed.meta[MISSING]["bad"]


async def test_from_a_file(tmp_path: Path):
    """`from_config` starts the servers in the file with their policies."""
    entry = {"command": sys.executable, "args": ["-m", "tests.servers.raw_server"], "cwd": str(ROOT)}
    document = {"mcpServers": {"a": entry, "b": {**entry, "resilience": {"timeout": {"total": 7}}}}}
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps(document))
    async with ResilientClientGroup.from_config(path, **LEGACY) as group:
        assert (group["a"].policy.timeout.total, group["b"].policy.timeout.total) == (3600, 7)
        assert text_of(await group.call_tool("b__echo", {"text": "hi"})) == "hi"
        assert group["b"].name == "b"
    with pytest.raises(TypeError, match='takes no policy: write it into the file, under the key "resilience"'):
        ResilientClientGroup.from_config(path, policy=Policy())


async def test_a_call_takes_a_time_limit_and_a_progress_callback():
    """In the same order as on the SDK's `ClientSessionGroup` and on `ResilientClient`."""
    reported, both = [], anyio.Event()

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reported.append((progress, total))
        if len(reported) > 1:
            both.set()

    once = QUICK.model_copy(update={"retry": RetryPolicy(attempts=1)})
    async with group_of({"a": sdk_server()}, policy=once) as group:
        assert text_of(await group.call_tool("a__steps", {"count": 2, "pause": 0}, 10, report)) == "done"
        await both.wait()  # mcp 2.x runs the callbacks in tasks, which the result may overtake
        assert reported == [(1, 2), (2, 2)]
        with pytest.raises(DeadlineExceeded):
            await group.call_tool("a__sleep", {"seconds": 60}, 0.1)


@needs_npm
@pytest.mark.timeout(60)
@in_turn
async def test_six_servers_of_every_kind(everything: Path, tmp_path: Path):
    """Three servers work while one does not exist, one dies, and one hangs for longer than this test may take."""
    command = [NODE, "--require", str(everything / "loopback.cjs"), program(everything), "streamableHttp"]
    server = {"command": sys.executable, "cwd": str(ROOT)}
    async with http_server(command=command) as http:
        servers = {
            "everything": {"command": NODE, "args": [program(everything), "stdio"]},
            "everything-http": {"url": http.url},
            "sdk": {**server, "args": ["-m", "tests.servers.sdk_server", "stdio"]},
            "absent": {"command": "no-such-command-here"},
            "dying": {**server, "args": ["-m", "tests.servers.raw_server", "--die-at-start", "3"]},
            "mute": {**server, "args": ["-m", "tests.servers.raw_server", "--mute"]},
        }
        path = tmp_path / "mcp.json"
        limits = {"timeout": {"connect": 120, "ready": 120, "shutdown": 2}}
        path.write_text(json.dumps({"resilience": limits, "mcpServers": servers}))
        async with ResilientClientGroup.from_config(path, patience=8, **LEGACY) as group:
            listed = await group.list_tools()
            assert {tool.meta[SERVER] for tool in listed.tools} == {"everything", "everything-http", "sdk"}
            assert set(listed.meta[MISSING]) == {"absent", "dying", "mute"}
            for name in ("everything", "everything-http"):
                assert text_of(await group.call_tool(f"{name}__echo", {"message": "hi"})) == "Echo: hi"
            assert text_of(await group.call_tool("sdk__echo", {"text": "hi"})) == "hi"
            assert len((await group.list_prompts()).prompts) > 2
