"""Subscriptions, listen streams and the log level are restored after a reconnect.

Readers learn what they may have missed: over stdio and Streamable HTTP, up to 2025-11-25 and at 2026-07-28.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from resilient_mcp import (
    Change,
    Connected,
    Disconnected,
    ResilienceError,
    ResilientClient,
    Restored,
    ServerUnavailable,
    StateChanged,
)
from resilient_mcp._sdk.installed import MAJOR, MCPError
from resilient_mcp._sdk.results import change_in
from resilient_mcp.events import State
from resilient_mcp.subscriptions.watcher import Watcher
from resilient_mcp.testing import ScriptedStdioServer, StdioReply, instant_waits
from resilient_mcp.verdicts.verdict import AttemptError

from .changing import PLACES, next_of, place
from .support import LEGACY, QUICK, Recorder, every_pair, nothing_left, raw_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]  # servers are started and killed, on a busy machine

A, B = "test://a", "test://b"
LEGACY_PLACES = [where for where in PLACES if "legacy" in where]
MODERN_PLACES = [where for where in PLACES if "modern" in where]


@every_pair("where", PLACES)
async def test_a_watcher_survives_a_crash(where: str):
    """An update, a kill: then `missed` for each thing, one `Restored`, and the next real update."""
    async with place(where) as at, at.client.watch([A], tools=True) as changes:
        await at.ask("touch", uri=A)
        assert await next_of(changes) == Change("resource", A)
        await at.ask("grow", name="new")
        assert await next_of(changes) == Change("tools")
        await at.kill()
        missed = {await next_of(changes), await next_of(changes)}
        assert missed == {Change("resource", A, missed=True), Change("tools", None, missed=True)}
        restored = await at.events.wait_for(Restored)
        assert len(restored.restored) == 1
        assert A in restored.restored[0]
        assert restored.failed == ()
        await at.ask("touch", uri=A)
        assert await next_of(changes) == Change("resource", A)
        await at.subscribed(A)
        assert len(at.events.of(Restored)) == 1


@every_pair("where", PLACES)
async def test_several_watchers_share_one_subscription(where: str):
    """The server gets one subscription, and an unsubscribe when the last watcher leaves."""
    async with place(where) as at:
        async with at.client.watch([A]) as one:
            async with at.client.watch([A]) as two:
                await at.ask("touch", uri=A)
                assert await next_of(one) == await next_of(two) == Change("resource", A)
                assert await at.ask("requests", uri=A) == "1"
            await at.ask("touch", uri=A)
            assert await next_of(one) == Change("resource", A)
        await at.subscribed()


@every_pair("where", PLACES)
async def test_a_watcher_ends_with_its_client_and_not_before(where: str):
    """It waits through a crash; when the client is closed the loop ends, in another task too."""
    async with nothing_left():
        seen: list[Change] = []
        ended = anyio.Event()
        async with place(where) as at, AsyncExitStack() as stack:
            tg = await stack.enter_async_context(anyio.create_task_group())
            entered = anyio.Event()

            async def reader() -> None:
                async with at.client.watch([A]) as changes:
                    entered.set()
                    async for change in changes:
                        seen.append(change)
                ended.set()

            tg.start_soon(reader)
            await entered.wait()
            await at.kill()
            await at.events.wait_for(Restored)
            await at.client.aclose()
            with anyio.fail_after(5):
                await ended.wait()
        assert Change("resource", A, missed=True) in seen
        with pytest.raises(ServerUnavailable, match="closed"):
            async with at.client.watch([A]):
                raise AssertionError


@every_pair("where", PLACES)
async def test_a_refusal_affects_only_its_watcher(where: str):
    """A resource that the server refuses is an error on entering, and does not disturb other watchers."""
    async with place(where) as at, at.client.watch([A]) as changes:
        with pytest.raises(MCPError, match="cannot be subscribed"):
            async with at.client.watch(["test://refused", B]):
                raise AssertionError
        await at.subscribed(A)
        await at.ask("touch", uri=A)
        assert await next_of(changes) == Change("resource", A)
        assert not at.client._subscriptions._state.failures  # nobody waits for it any more


@every_pair("where", PLACES)
async def test_a_part_that_fails_is_retried_and_reported(where: str):
    """When the server first refuses it, `Restored` reports that, and again when it is back."""
    async with place(where) as at:
        await at.ask("touch", uri="test://flaky")
        async with AsyncExitStack() as stack:
            with pytest.raises(MCPError):
                async with at.client.watch(["test://flaky"]):
                    raise AssertionError
            flaky = await stack.enter_async_context(at.client.watch(["test://flaky"]))
            steady = await stack.enter_async_context(at.client.watch([A]))
            await at.kill()
            first = await at.events.wait_for(Restored)
            second = await at.events.wait_for(Restored, 2)
            assert [A in key for key in first.restored] == [True]
            assert ["flaky" in key for key in second.restored] == [True]
            if where != "http modern":  # no session can be lost: each stream is reopened independently
                assert ["flaky" in key for key in first.failed] == [True]
            assert await next_of(steady) == Change("resource", A, missed=True)
            assert await next_of(flaky) == Change("resource", "test://flaky", missed=True)
            await at.subscribed(A, "test://flaky")


@every_pair("where", PLACES)
async def test_watching_while_the_server_is_down(where: str):
    """Entering does not wait for an absent server; the watch begins, with `missed`, once it is back."""
    async with place(where, QUICK.model_copy(update={"restart": QUICK.restart.model_copy(update={"base": 0.3})})) as at:
        if at.server is not None:
            at.server.kill()
            at.client._supervisor.restart()
        else:
            at.client._supervisor.restart()
        assert at.client.state is not State.READY
        with anyio.fail_after(0.5):
            async with at.client.watch([A]) as changes:
                with anyio.CancelScope() as _:
                    if at.server is not None:
                        at.server.start()
                with anyio.CancelScope(shield=True), anyio.fail_after(15):
                    assert await anext(changes) == Change("resource", A, missed=True)
                    await at.subscribed(A)


@every_pair("where", PLACES)
async def test_closing_is_quiet(where: str, caplog: pytest.LogCaptureFixture):
    """Streams that are open when a watcher leaves or the client is closed end without an error in any log."""
    async with place(where) as at:
        async with at.client.watch([A]):
            pass
        await at.subscribed()
        async with at.client.watch([B]):
            await at.subscribed(B)
            await at.client.aclose()
    assert [record.getMessage() for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


async def test_impossible_watches_fail_on_entering():
    """An undeclared capability, nothing to watch, a string for a list, or a client not started is an error."""
    async with ResilientClient(raw_server(), policy=QUICK, **LEGACY) as client:
        with pytest.raises(ResilienceError, match=r"does not declare tools\.listChanged"):
            async with client.watch(tools=True):
                raise AssertionError
        with pytest.raises(ValueError, match="nothing to watch"):
            async with client.watch():
                raise AssertionError
        with pytest.raises(TypeError, match="write a list"):
            async with client.watch("test://a"):
                raise AssertionError
    with pytest.raises(ServerUnavailable, match="not started"):
        async with ResilientClient(raw_server(), policy=QUICK).watch([A]):
            raise AssertionError


# --- the API of ClientSession ---


@every_pair("where", LEGACY_PLACES)
async def test_subscriptions_and_the_log_level_are_restored(where: str):
    """The user does nothing, and `message_handler` gets one update per resource."""
    heard: list[str] = []
    news = anyio.Event()

    async def handler(message: Any) -> None:
        if (change := change_in(message)) is not None and change[1] is not None:
            heard.append(change[1])
            news.set()

    async with place(where, message_handler=handler) as at:
        await at.client.subscribe_resource(A)
        await at.client.subscribe_resource(B)
        await at.client.unsubscribe_resource(B)
        await at.client.set_logging_level("error")
        await at.kill()
        restored = await at.events.wait_for(Restored)
        assert set(restored.restored) == {f"resources/subscribe {A}", "logging/setLevel"}
        with anyio.fail_after(5):
            await news.wait()
        await at.subscribed(A)
        assert await at.ask("level") == "error"
        assert heard == [A]
        news = anyio.Event()
        await at.ask("touch", uri=A)
        with anyio.fail_after(5):
            await news.wait()
        assert heard == [A, A]


@every_pair("where", LEGACY_PLACES)
async def test_a_handler_that_raises_or_hangs_does_not_block_the_replay(where: str):
    """The synthetic updates are delivered concurrently with the replay."""
    calls = 0

    async def handler(message: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("bad handler")
        await anyio.sleep_forever()

    async with place(where, message_handler=handler) as at:
        for uri in (A, B):
            await at.client.subscribe_resource(uri)
        await at.kill()
        await at.events.wait_for(Restored)
        await at.subscribed(A, B)


@every_pair("where", LEGACY_PLACES)
async def test_subscribing_and_unsubscribing_while_the_server_is_down(where: str):
    """An unsubscribe needs no server and is not replayed; a subscribe is in force afterwards."""
    async with place(where) as at:
        await at.client.subscribe_resource(A)
        connector = at.client._supervisor._connector
        connect = connector.open
        connector.open = lambda generation: _Refusing()  # type: ignore[method-assign]
        if at.server is not None:
            at.server.kill()
            at.server.start()
        at.client._supervisor.restart()
        await at.client.unsubscribe_resource(A)
        await at.events.wait_for(StateChanged, new=State.FAILED)
        with pytest.raises(ServerUnavailable):
            await at.client.subscribe_resource(B)
        with pytest.raises(ServerUnavailable):
            await at.client.set_logging_level("debug")
        connector.open = connect  # type: ignore[method-assign]
        at.client._supervisor.restart()
        restored = await at.events.wait_for(Restored)
        assert set(restored.restored) == {f"resources/subscribe {B}", "logging/setLevel"}
        await at.subscribed(B)
        assert await at.ask("requests", uri=A) == "0"
        assert await at.ask("level") == "debug"


class _Refusing:
    """A connection that cannot be opened for now."""

    async def __aenter__(self) -> Any:
        raise AttemptError(FileNotFoundError(2, "the test keeps it away", "server"), None)

    async def __aexit__(self, *exc_info: object) -> None:
        raise AssertionError


@every_pair("where", LEGACY_PLACES)
async def test_a_refused_request_is_not_replayed(where: str):
    """A refused subscription is not replayed; a refused log level leaves the previous one in force."""
    async with place(where) as at:
        await at.client.set_logging_level("error")
        with pytest.raises(MCPError, match="cannot be subscribed"):
            await at.client.subscribe_resource("test://refused")
        with pytest.raises(Exception, match="(?i)level|input|valid"):
            await at.client.set_logging_level("nonsense")  # type: ignore[arg-type]
        await at.client.subscribe_resource(A)
        await at.kill()
        restored = await at.events.wait_for(Restored)
        assert set(restored.restored) == {f"resources/subscribe {A}", "logging/setLevel"}
        assert restored.failed == ()
        assert await at.ask("level") == "error"


@every_pair("where", LEGACY_PLACES)
async def test_a_watcher_keeps_what_the_user_unsubscribes_from(where: str):
    """A watcher and `subscribe_resource` hold a subscription independently, in either order."""
    async with place(where) as at:
        await at.client.subscribe_resource(A)
        async with at.client.watch([A]) as changes:
            await at.client.unsubscribe_resource(A)
            await at.ask("touch", uri=A)
            assert await next_of(changes) == Change("resource", A)
            await at.client.subscribe_resource(A)
        await at.client.subscribe_resource(B)
        await at.subscribed(A, B)


@every_pair("where", LEGACY_PLACES)
async def test_500_subscriptions_are_replayed_concurrently_with_calls(where: str):
    """The replay is one batch, and calls are answered while it is in progress."""
    uris = [f"test://{n}" for n in range(500)]
    async with place(where) as at, at.client.watch(uris) as changes:
        await at.kill()
        assert await at.ask("pid")
        assert not at.events.of(Restored)
        missed: set[str] = set()
        while len(missed) < len(uris):  # one already read is repeated if the server's stream breaks once more
            missed.add((await next_of(changes)).uri)
        assert missed == set(uris)
        restored = await at.events.wait_for(Restored)
        assert len(restored.restored) == 500
        await at.subscribed(*uris)


@every_pair("where", LEGACY_PLACES)
async def test_a_replay_ends_with_its_connection(where: str):
    """Killed repeatedly during the replay: the last one restores everything, and nothing is left behind."""
    uris = [f"test://{n}" for n in range(200)]
    async with nothing_left():
        async with place(where) as at, at.client.watch(uris):
            for _ in range(3):
                await at.kill()
                await at.ask("pid")
            await at.subscribed(*uris)
            await at.events.wait_for(Restored, generation=at.client.generation)
            for event in at.events.of(Restored) if at.server is None else ():  # an abandoned replay reports nothing
                assert (len(event.restored), event.failed) == (200, ())


# --- 2026-07-28 ---


@pytest.mark.skipif(MAJOR == 1, reason="needs mcp 2.x")
async def test_the_exit_status_is_known_when_a_listen_request_kills_the_process():
    """The SDK ends the stream before the exit status is known, and it is reported all the same."""
    events = Recorder()
    async with ScriptedStdioServer({"subscriptions/listen": [StdioReply.exit(7)]}, modern=True) as server:
        client = ResilientClient(server.parameters, policy=QUICK, on_event=events)
        async with client, client.watch([A]):
            lost = await events.wait_for(Disconnected)
            assert lost.evidence.exit.code == 7


@pytest.mark.skipif(MAJOR == 1, reason="needs mcp 2.x")
async def test_a_server_without_listen_is_asked_once_per_connection():
    """If the server does not know `subscriptions/listen`, it is not asked again on that connection."""
    discovered = {
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {"listChanged": True}},
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
    }
    script = {
        "server/discover": [StdioReply.result(discovered)] * 3,
        "subscriptions/listen": [StdioReply.error(-32601, "Method not found")] * 100,
    }
    async with ScriptedStdioServer(script, modern=True) as server:
        with instant_waits():
            async with ResilientClient(server.parameters, policy=QUICK) as client:
                for connection in (1, 2):
                    await server.received("subscriptions/listen", connection)
                    for _ in range(50):
                        await client.call_tool("echo", {"text": "x"})
                    assert server.requests.counts()["subscriptions/listen"] == connection
                    await client.restart()


@pytest.mark.skipif(MAJOR == 1, reason="needs mcp 2.x")
@pytest.mark.timeout(120)
@every_pair("where", MODERN_PLACES)
async def test_listen_through_ten_kills(where: str):
    """`listen()` yields the SDK's events, one for each thing after each kill, and then the real ones."""
    from mcp.client.subscriptions import ResourceUpdated, ToolsListChanged

    async with place(where) as at:
        async with at.client.listen(resource_subscriptions=[A], tools_list_changed=True) as stream:
            assert stream.honored.resource_subscriptions == [A]
            first = stream.subscription_id
            for kill in range(1, 11):
                await at.kill()
                await at.events.wait_for(Restored, kill)
                seen = {await next_of(stream), await next_of(stream)}
                assert seen == {ResourceUpdated(A), ToolsListChanged()}
                await at.ask("touch", uri=A)
                assert await next_of(stream) == ResourceUpdated(A)
            assert stream.subscription_id != first


@pytest.mark.skipif(MAJOR == 1, reason="needs mcp 2.x")
@every_pair("where", MODERN_PLACES)
async def test_a_listen_stream_cut_while_the_server_lives(where: str):
    """It is reopened on the same connection, with `missed` for what it covers."""
    async with place(where) as at, at.client.watch([A]) as changes:
        for cut in range(1, 4):
            await at.ask("cut")
            assert await next_of(changes) == Change("resource", A, missed=True)
            await at.events.wait_for(Restored, cut)
            await at.ask("touch", uri=A)
            assert await next_of(changes) == Change("resource", A)
        assert len(at.events.of(Connected)) == 1


@pytest.mark.skipif(MAJOR == 1, reason="needs mcp 2.x")
@pytest.mark.parametrize("where", ["stdio modern"])
async def test_listen_is_refused_as_the_sdk_refuses(where: str):
    """The server refuses immediately; up to 2025-11-25 the SDK does."""
    from mcp.client.subscriptions import ListenNotSupportedError

    async with place(where) as at:
        with pytest.raises(MCPError, match="cannot be subscribed"):
            async with at.client.listen(resource_subscriptions=["test://refused"]):
                raise AssertionError
    async with place("stdio legacy") as at:
        with pytest.raises(ListenNotSupportedError):
            async with at.client.listen(tools_list_changed=True):
                raise AssertionError


@pytest.mark.skipif(MAJOR == 1, reason="needs mcp 2.x")
async def test_an_in_process_server_is_watched_too():
    """A server object in this process, which has no wire, can be watched."""
    from .servers.changing_server import build

    async with nothing_left():
        async with ResilientClient(build(None), policy=QUICK) as client, client.watch([A], tools=True) as changes:
            await client.call_tool("touch", {"uri": A})
            assert await next_of(changes) == Change("resource", A)
            await client.restart()
            missed = {await next_of(changes), await next_of(changes)}
            assert missed == {Change("resource", A, missed=True), Change("tools", None, missed=True)}


# --- the watcher alone ---


async def test_changes_collapse_until_they_are_read():
    """A slow reader gets one change per thing, whatever happened; `missed` is kept."""
    watcher = Watcher([A, B], tools=True)
    watcher.entered = True
    for _ in range(1000):
        watcher.notify("resource", A)
        watcher.notify("tools", None)
        watcher.notify("prompts", None)
        watcher.notify("resource", "test://other")
    watcher.missed()
    seen = [await anext(watcher) for _ in range(3)]
    assert seen == [
        Change("resource", A, missed=True),
        Change("tools", None, missed=True),
        Change("resource", B, missed=True),
    ]
    watcher.end()
    assert [change async for change in watcher] == []


async def test_sub_resources_are_reported_up_to_a_bound():
    """An update may name a part of a watched resource; past the bound the whole is reported."""
    watcher = Watcher([A])
    for n in range(5000):
        watcher.notify("resource", f"{A}/{n}")
    watcher.notify("resource", "test://ab")
    long = Watcher([A])
    long.notify("resource", f"{A}/{'x' * 5000}")
    assert list(long._pending) == [("resource", A)]
    watcher.end()
    assert len(watcher._pending) < 1100
    assert ("resource", f"{A}/0") in watcher._pending
    assert ("resource", A) in watcher._pending
    assert ("resource", "test://ab") not in watcher._pending


async def test_two_readers_of_one_watcher():
    """Each change reaches one of them, and both see the end."""
    watcher = Watcher([A])
    seen: list[Change] = []

    async def read() -> None:
        async for change in watcher:
            seen.append(change)

    async with anyio.create_task_group() as tg:
        tg.start_soon(read)
        tg.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        watcher.notify("resource", A)
        await anyio.wait_all_tasks_blocked()
        watcher.end()
    assert seen == [Change("resource", A)]
