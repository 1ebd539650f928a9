"""Slow but healthy: slow starts, slow tools, and people, with the default policy in virtual time."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from mcp import types

from resilient_mcp import (
    BreakerState,
    DeadlineExceeded,
    Disconnected,
    Event,
    Policy,
    ResilientClient,
    ServerFailed,
    ServerUnavailable,
    Starting,
    State,
    StateChanged,
    TimeoutPolicy,
)
from resilient_mcp._sdk.installed import MAJOR, http
from resilient_mcp.connection import generation

from .situations import HEAD, MINUTE, SITUATIONS, URL, Context, Login, World, guarded, in_virtual_time, ours, outcome
from .support import LEGACY, ROOT, Recorder, text_of

ERAS: dict[str, dict[str, Any]] = {"legacy": LEGACY} if MAJOR == 1 else {"legacy": LEGACY, "default": {}}
any_era = pytest.mark.parametrize("options", list(ERAS.values()), ids=list(ERAS))


# --- starts ---


@any_era
def test_a_start_of_a_minute(options: dict[str, Any]):
    """The server is started once, callers wait as long as it takes, and events and health report the progress."""

    async def body() -> None:
        world, events = World(starts_in=MINUTE), Recorder()
        client = ResilientClient(world.transport, on_event=events, **options)
        async with anyio.create_task_group() as tg:

            async def call() -> None:
                await anyio.sleep(1)
                assert text_of(await client.call_tool("work", {"seconds": 0})) == "done"

            tg.start_soon(client.start)
            tg.start_soon(call)
            await anyio.sleep(30)
            health = client.health()
            assert health.state is State.CONNECTING
            assert health.starting_for == pytest.approx(30)
        assert MINUTE <= anyio.current_time() - began < MINUTE + 1
        assert client.health().starting_for is None
        assert [round(event.elapsed) for event in events.of(Starting)] == [5, 10, 20, 40]
        assert (world.started, client.generation) == (1, 1)
        await client.aclose()

    async def main() -> None:
        nonlocal began
        began = anyio.current_time()
        await body()

    began = 0.0
    in_virtual_time(main)


def test_a_start_has_a_limit():
    """A start ends after `timeout.connect`, and another one is attempted."""

    async def body() -> None:
        world = World(starts_in=math.inf)
        client = ResilientClient(world.transport, policy=Policy(timeout=TimeoutPolicy(connect=20, ready=30)), **LEGACY)
        with pytest.raises(ServerUnavailable, match="no handshake within 20 s"):
            await client.start()
        assert world.started == 2
        await client.aclose()

    in_virtual_time(body)


# --- slow tools ---


@any_era
def test_a_tool_of_ninety_seconds(options: dict[str, Any]):
    """A slow answer is delivered on the first attempt, beside other calls, and counts as no failure."""

    async def body() -> None:
        world = World()
        async with ResilientClient(world.transport, **options) as client, anyio.create_task_group() as tg:

            async def call() -> None:
                assert text_of(await client.call_tool("work", {"seconds": 90})) == "done"

            for _ in range(7):
                tg.start_soon(call)
        assert world.runs == {"work": 7}

    in_virtual_time(body)


@any_era
def test_a_call_that_hits_a_default_limit_is_not_retried(options: dict[str, Any]):
    """A retry would take as long again; after a limit that the user set, the call is retried."""

    async def body() -> None:
        world = World()
        async with ResilientClient(world.transport, **options) as client:
            with pytest.raises(DeadlineExceeded, match="no answer within 300 s"):
                await client.call_tool("work", {"seconds": 1000})
            assert world.runs == {"work": 1}
            with pytest.raises(DeadlineExceeded, match="no answer within 2 s"):
                await client.call_tool("work", {"seconds": 1000}, read_timeout_seconds=2)
            assert world.runs["work"] > 2

    in_virtual_time(body)


def test_time_limits_can_be_disabled():
    """With infinite limits, a call of five hours is answered."""

    async def body() -> None:
        world = World()
        policy = Policy(timeout=TimeoutPolicy(attempt=math.inf, total=math.inf))
        async with ResilientClient(world.transport, policy=policy, **LEGACY) as client:
            assert text_of(await client.call_tool("work", {"seconds": 18_000})) == "done"

    in_virtual_time(body)


def test_slow_tools_on_a_responsive_server_open_no_circuit():
    """Six calls hit their limit while another one is answered, so the server is healthy."""

    async def body() -> None:
        world = World()
        async with ResilientClient(world.transport, **LEGACY) as client, anyio.create_task_group() as tg:

            async def others() -> None:
                while True:
                    await anyio.sleep(0.4)
                    await client.call_tool("work", {"seconds": 0})

            tg.start_soon(others)
            for _ in range(6):
                with pytest.raises(DeadlineExceeded):
                    await client.call_tool("stall", read_timeout_seconds=1)
            assert client.circuit is not None
            assert client.circuit.state is BreakerState.CLOSED
            tg.cancel_scope.cancel()

    in_virtual_time(body)


# --- people ---


async def take_your_time(seconds: float, answer: Any) -> Any:
    await anyio.sleep(seconds)
    return answer


ANSWERS: dict[str, tuple[str, Any, str]] = {
    "ask": ("elicitation_callback", types.ElicitResult(action="accept", content={}), "accept"),
    "roots": ("list_roots_callback", types.ListRootsResult(roots=[]), "0"),
    "think": (
        "sampling_callback",
        types.CreateMessageResult(role="assistant", content=types.TextContent(type="text", text="!"), model="m"),
        "m",
    ),
}


@pytest.mark.filterwarnings("ignore:.*deprecated as of 2026-07-28")  # roots and sampling
@pytest.mark.parametrize("tool", list(ANSWERS))
@pytest.mark.parametrize("seconds", [90, 5000])
def test_no_clock_runs_while_a_person_answers(tool: str, seconds: float):
    """While a callback answers the server, neither the attempt's nor the call's limit runs, and other calls go on."""
    name, answer, expected = ANSWERS[tool]

    async def body() -> None:
        world, events = World(), Recorder()

        async def callback(*_: Any) -> Any:
            return await take_your_time(seconds, answer)

        async with (
            ResilientClient(world.transport, on_event=events, **{name: callback}, **LEGACY) as client,
            anyio.create_task_group() as tg,
        ):

            async def others() -> None:
                for _ in range(10):
                    assert text_of(await client.call_tool("work", {"seconds": seconds / 20})) == "done"

            tg.start_soon(others)
            assert text_of(await client.call_tool(tool)) == expected
        assert world.runs == {tool: 1, "work": 10}
        assert client.generation == 1
        assert events.of(Disconnected)[0].expected

    in_virtual_time(body)


def test_the_clock_runs_again_when_the_person_has_answered():
    """Time that the tool takes after the answer counts again."""

    async def body() -> None:
        world = World()

        @world.server.tool(structured_output=False)
        async def dawdle(ctx: Context) -> str:
            await ctx.session.elicit_form("Sure?", {"type": "object", "properties": {}})
            await anyio.sleep(1000)
            return "never read"

        async def callback(*_: Any) -> Any:
            return await take_your_time(1000, types.ElicitResult(action="accept", content={}))

        async with ResilientClient(world.transport, elicitation_callback=callback, **LEGACY) as client:
            began = anyio.current_time()
            with pytest.raises(DeadlineExceeded):
                await client.call_tool("dawdle")
            assert anyio.current_time() - began == pytest.approx(1300, abs=1)

    in_virtual_time(body)


@any_era
def test_a_login_of_a_minute(options: dict[str, Any]):
    """The browser opens once, and the client connects."""
    world, login = World(), Login()

    async def body() -> None:
        async with (
            guarded(world, login) as own,
            ResilientClient(f"{URL}/mcp", http_client=own, **options) as client,
        ):
            assert text_of(await client.call_tool("work", {"seconds": 0})) == "done"
            assert client._supervisor.ready.session.is_legacy is bool(options or MAJOR == 1)
        assert login.opened == 1

    in_virtual_time(body)


# --- credentials that become valid again ---


def test_refused_credentials_are_retried_slowly():
    """After 30 s, then 60, up to 300; the error says when, and `restart()` retries immediately."""

    async def body() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async with http.AsyncClient(transport=http.ASGITransport(app)) as own:
            client = ResilientClient("http://127.0.0.1:8000/mcp", http_client=own, **LEGACY)
            await client.start(wait=False)
            with pytest.raises(ServerFailed, match=r"attempt is in 30 s; restart\(\) retries immediately") as caught:
                await client.list_tools()
            assert caught.value.retry_in == pytest.approx(30, abs=1)
            await client.aclose()
            began, tries = anyio.current_time(), []

            def note(event: Event) -> None:
                if isinstance(event, StateChanged) and event.new is State.FAILED:
                    tries.append(round(anyio.current_time() - began))

            client = ResilientClient("http://127.0.0.1:8000/mcp", http_client=own, on_event=note, **LEGACY)
            await client.start(wait=False)
            await anyio.sleep(1000)
            await client.aclose()
        assert tries == [0, 30, 90, 210, 450, 750]

    in_virtual_time(body)


# --- frozen or busy ---


def test_the_limits_of_silence():
    """The limit is 60 s, above that of any quick request, or 30 s where the operating system knows better."""
    assert (generation._SILENCE, generation._STOPPED_SILENCE) == (60, 30)
    assert Policy().timeout.request <= generation._SILENCE


# --- the README ---


@pytest.mark.parametrize("name", list(SITUATIONS))
def test_the_readme_shows_what_this_library_does(name: str):
    """The table in tests/README.md, made by `python -m tests.situations`, holds in every row on both majors."""
    readme = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    rows = readme[readme.index(HEAD) + len(HEAD) :].split("\n\n", maxsplit=1)[0].splitlines()
    shown = {row.strip("| ").split(" | ")[0]: row.strip("| ").split(" | ")[-1] for row in rows}
    assert shown[name] == outcome(SITUATIONS[name], ours)
