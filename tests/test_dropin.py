"""Every name, argument and option of the SDK's clients exists, as the README says; wrong options are refused early."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import mcp
import pytest
from mcp import ClientSession, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from resilient_mcp import ResilientClient
from resilient_mcp._sdk.installed import MAJOR, MCPError
from resilient_mcp._sdk.options import SESSION_OPTIONS
from resilient_mcp._sdk.results import is_error_result

from .support import LEGACY, ROOT, client_of, http_server, raw_server, sdk_server
from .test_events import Records, records  # noqa: F401 - a fixture

pytestmark = pytest.mark.anyio

needs_2 = pytest.mark.skipif(MAJOR == 1, reason="needs mcp 2.x")
needs_1 = pytest.mark.skipif(MAJOR != 1, reason="needs mcp 1.x")
MODELS: list[Any] = [ClientSession, *([mcp.Client] if MAJOR != 1 else [])]
NOWHERE = "http://127.0.0.1:9/mcp"


def named_in_readme() -> set[str]:
    """The names that the README says are missing."""
    text = (ROOT / "README.md").read_text("utf-8")
    paragraph = text.partition("Three things are missing")[2].partition("\n\n")[0]
    return set(re.findall(r"`(\w+)(?:\(\))?`", paragraph)) - {"prior_discover"}


def names_of(model: Any) -> set[str]:
    return {name for name in [*dir(model), *getattr(model, "__annotations__", {})] if not name.startswith("_")}


def arguments_of(function: Any) -> list[inspect.Parameter]:
    return [parameter for parameter in inspect.signature(function).parameters.values() if parameter.name != "self"]


def test_every_name_exists():
    """Methods, properties and fields of the SDK's clients exist, except exactly those that the README names."""
    missing = {name for model in MODELS for name in names_of(model) if not hasattr(ResilientClient, name)}
    taken = {*inspect.signature(ResilientClient).parameters, *SESSION_OPTIONS}
    missing |= {argument.name for model in MODELS for argument in arguments_of(model)} - taken
    assert missing - {"adopt"} <= named_in_readme()
    assert named_in_readme() == {"adopt", "read_stream", "write_stream", "dispatcher"}


@pytest.mark.parametrize("model", MODELS)
def test_every_argument_exists(model: Any):
    """Each method takes the SDK's arguments; positional ones have the same order and defaults."""
    for name in sorted(names_of(model) - named_in_readme()):
        theirs, ours = inspect.getattr_static(model, name, None), inspect.getattr_static(ResilientClient, name)
        assert isinstance(theirs, property) <= isinstance(ours, property), name
        if not inspect.isroutine(theirs):
            continue
        taken = {argument.name: argument for argument in arguments_of(ours)}
        takes_any = any(argument.kind is argument.VAR_KEYWORD for argument in taken.values())
        for argument in arguments_of(theirs):
            assert argument.name in taken or takes_any, f"{name}({argument.name}=)"
        positional = [a for a in arguments_of(theirs) if a.kind is a.POSITIONAL_OR_KEYWORD and a.name in taken]
        for theirs_at, ours_at in zip(positional, taken.values(), strict=False):
            assert (theirs_at.name, theirs_at.default) == (ours_at.name, ours_at.default), name


def test_options_can_be_read_back():
    """Options can be read like the fields of `mcp.Client`; before a connection, the server's facts are None."""

    async def answer(*_: Any) -> Any: ...

    server = raw_server()
    info = types.Implementation(name="x", version="1")
    client = ResilientClient(server, sampling_callback=answer, client_info=info, read_timeout_seconds=5)
    assert client.server is server
    assert client.sampling_callback is answer
    assert client.message_handler is client.elicitation_callback is None
    assert client.client_info is info
    assert client.read_timeout_seconds == 5
    with pytest.raises(RuntimeError, match=r"session needs mcp 2|is not connected: enter it with `async with` first"):
        _ = client.session
    assert client.mode == (None if MAJOR == 1 else "auto")
    negotiated = [client.initialize_result, client.discover_result, client.server_capabilities, client.server_info]
    assert [*negotiated, client.instructions, client.protocol_version] == [None] * 6
    assert client.get_server_capabilities() is None
    assert not client.offers("tools")


WRONG: Mapping[str, Any] = {
    "sampling_callback": 5,
    "message_handler": "print",
    "client_info": {"name": "x"},
    "sampling_capabilities": 5,
    **(
        {"experimental_task_handlers": lambda: None}
        if MAJOR == 1
        else {
            "mode": "nonsense",
            "log_level": "nope",
            "extensions": 5,
            "input_required_max_rounds": "many",
            "raise_exceptions": "yes",
            "prior_discover": {},
            "result_claims": {"example/x": []},
        }
    ),
}


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_option_is_refused_at_construction(option: str):
    """A wrong option raises in the constructor, with its name, not when the first connection is made."""
    with pytest.raises((TypeError, ValueError), match=option.partition("_task")[0]):
        ResilientClient(NOWHERE, **{option: WRONG[option]})


@needs_2
async def test_a_shared_cache_is_keyed_by_server():
    """A cache with the user's store is keyed by the URL without its password; other servers need `target_id`."""
    from mcp.client.caching import CacheConfig, InMemoryResponseCacheStore

    config = CacheConfig(store=InMemoryResponseCacheStore(), partition="user")
    client = ResilientClient("http://user:secret@127.0.0.1:9/mcp", cache=config)
    assert client.cache is config
    assert client._options["cache"].target_id == NOWHERE
    with pytest.raises(ValueError, match="target_id"):
        ResilientClient(raw_server(), cache=config)
    assert ResilientClient(NOWHERE, cache=None).cache is None


@needs_2
async def test_discovery_can_be_read_and_reused():
    """The discovery result can be read and given to a client that pins the version; up to 2025-11-25 there is none."""
    async with client_of(sdk_server(), mode="auto") as client:
        discovered = await client.discover()
        assert client.discover_result is discovered
        assert client.initialize_result is None
        assert (await client.initialize()).server_info.name == "test server"
        raw = await client.send_discover("2026-07-28")
        assert raw["supportedVersions"] == discovered.supported_versions
    options = {"mode": "2026-07-28", "prior_discover": discovered}
    async with client_of(sdk_server(), **options) as pinned:
        assert pinned.discover_result is discovered
        assert pinned.server_capabilities == discovered.capabilities
        assert not pinned.offers("nothing")
    async with client_of(sdk_server(), **LEGACY) as client:
        assert client.discover_result is None
        assert client.initialize_result is not None
        with pytest.raises(RuntimeError, match="needs a server at 2026-07-28"):
            await client.discover()


@needs_2
async def test_the_sessions_own_helpers():
    """`validate_tool_result` and `dispatch_input_request` work as on `ClientSession`."""
    from mcp.client.session import ClientRequestContext

    async def roots(context: Any) -> Any:
        return types.ListRootsResult(roots=[types.Root(uri="file:///x")])

    async with client_of(sdk_server(), list_roots_callback=roots) as client:
        context = ClientRequestContext(session=client, request_id="1")
        assert str((await client.dispatch_input_request(context, types.ListRootsRequest())).roots[0].uri) == "file:///x"
        bad = types.CallToolResult(content=[], structured_content={"result": "no number"})
        with pytest.raises(RuntimeError, match="pid"):
            await client.validate_tool_result("pid", bad)
        await client.validate_tool_result("echo", bad)


@pytest.mark.parametrize("anyio_backend", ["asyncio", *(["trio"] if MAJOR != 1 else [])])
async def test_a_transport_of_the_sdk_is_accepted():
    """A transport of the SDK is opened again for each connection, and the client is named after its server."""
    # On trio, the SDK's 1.x transport loses one of two requests that are written at the same time.
    async with http_server() as server:
        made = streamable_http_client(server.url)
        async with client_of(made) as client:
            assert client.name == server.url
            await client.call_tool("echo", {"text": "x"})
            await client.restart()
            await client.call_tool("echo", {"text": "x"})
            assert client.generation == 2
    assert ResilientClient(stdio_client(raw_server())).name == "tests.servers.raw_server"
    assert ResilientClient(a_transport("nowhere")).name == "a_transport"


@asynccontextmanager
async def a_transport(where: str) -> AsyncIterator[Any]:
    raise OSError(where)
    yield


def test_a_transport_that_opens_once_is_refused():
    """Such a transport cannot be reopened after a loss, and the error says what to pass instead."""

    class Once:
        async def __aenter__(self) -> Any: ...

        async def __aexit__(self, *_: object) -> None: ...

    with pytest.raises(TypeError, match=r"a Once, which can be entered only once: pass a function without arguments"):
        ResilientClient(Once())


@needs_1
async def test_experimental_tasks_are_sent_through_the_client():
    """`client.experimental` sends its requests through the client and raises the server's error."""
    async with client_of(raw_server()) as client:
        with pytest.raises(MCPError, match=r"Unknown method|not found|tasks/get"):
            await client.experimental.get_task("1")


@needs_1
async def test_a_response_router_is_added_to_every_connection():
    """A response router sees responses on the connection it was added to and on the next one."""

    class Router:
        seen = 0

        def route_response(self, request_id: Any, response: Any) -> bool:
            self.seen += 1
            return False

        def route_error(self, request_id: Any, error: Any) -> bool:
            return False

    router = Router()
    async with client_of(raw_server()) as client:
        client.add_response_router(router)
        await client.send_ping()
        before = router.seen
        assert before
        await client.restart()
        await client.send_ping()
        assert router.seen > before


async def test_methods_of_the_other_major_are_refused():
    """The error names the version that is needed and the one that is installed."""
    async with client_of(raw_server()) as client:
        if MAJOR == 1:
            with pytest.raises(RuntimeError, match=r"discover\(\) needs mcp 2.x, but mcp 1.* is installed"):
                await client.discover()
            with pytest.raises(RuntimeError, match="needs mcp 2.x"):
                await client.send_discover("2026-07-28")
            with pytest.raises(RuntimeError, match="needs mcp 2.x"):
                await client.dispatch_input_request(None, None)
            with pytest.raises(RuntimeError, match="needs mcp 2.x"):
                await client.validate_tool_result("x", types.CallToolResult(content=[]))
        else:
            with pytest.raises(RuntimeError, match=r"experimental needs mcp 1.x, but mcp 2.* is installed"):
                _ = client.experimental
            with pytest.raises(RuntimeError, match="needs mcp 1.x"):
                client.add_response_router(None)


async def test_an_unlisted_tool_is_logged_as_a_warning(records: Records):  # noqa: F811
    """As with the SDK, its answer is returned and a warning says that it was not validated."""
    async with client_of(sdk_server()) as client:
        assert is_error_result(await client.call_tool("no_such_tool"))
        structured = {"content": [], "structuredContent": {"x": 1}}
    async with client_of(raw_server()) as client:
        await client.call_tool("result", {"result": structured})
    assert [record.getMessage() for record in records.records if "does not list the tool" in record.getMessage()] == [
        "the server does not list the tool result: its result is not validated"
    ]
