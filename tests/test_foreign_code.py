"""Foreign code may raise anything, block, or call the client: only its own call notices, and the error names it."""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
import re
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, get_args

import anyio
import pytest
from mcp import types
from mcp.client.stdio import stdio_client
from pydantic import BaseModel

from resilient_mcp import (
    Policy,
    ResilienceError,
    ResilientClient,
    ResilientClientGroup,
    RestartPolicy,
    RetryPolicy,
    State,
    StateChanged,
    TimeoutPolicy,
)
from resilient_mcp._sdk.installed import http
from resilient_mcp._sdk.options import SESSION_OPTIONS
from resilient_mcp._sdk.repairs import _WAITING_MESSAGES, CallbackLane
from resilient_mcp.event_loop import in_trio
from resilient_mcp.foreign_code import ForeignCodeError, awaiting, calling, guarded_logger
from resilient_mcp.observability.hub import Hub
from resilient_mcp.session_methods import SessionMethods
from resilient_mcp.testing import Reply, Request, ScriptedHttpServer
from resilient_mcp.text.redact import Redactor
from resilient_mcp.transports.server import HttpOptions

from .support import LEGACY, MAJOR, Recorder, _stdio, text_of

pytestmark = pytest.mark.anyio

POLICY = Policy(
    retry=RetryPolicy(base=0.01),
    restart=RestartPolicy(base=0.01),
    timeout=TimeoutPolicy(attempt=5, request=5, ready=5, connect=5, shutdown=1),
)
SERVER = _stdio("tests.servers.asking_server", (), None)
LOG = "resilient_mcp"


class Odd(BaseException):
    """What no code expects."""


FAULTS = ("Exception", "BaseException", "CancelledError", "blocks", "calls back")
RAISES = FAULTS[:3]


class Foreign:
    """The misbehaviour of some foreign code: it happens once, when armed.

    Attributes:
        client: What it calls back into.
        armed: Whether it happens with the next call.
        ran: Whether it has happened.
    """

    def __init__(self, fault: str, *, connects: bool) -> None:
        self.client: ResilientClient | None = None
        self.armed = self.ran = False
        self._fault = fault
        self._connects = connects

    def now(self) -> None:
        """Misbehave in a synchronous function."""
        if not self._begin():
            return
        if self._fault == "CancelledError":
            raise asyncio.CancelledError
        if self._fault == "calls back":
            assert self.client is not None
            self.client.health()
            self.client.stats()
            self.client.events()

    async def later(self) -> None:
        """Misbehave in a coroutine function."""
        if not self._begin():
            return
        if self._fault == "CancelledError":
            if in_trio():
                raise asyncio.CancelledError
            somebody_elses = asyncio.get_running_loop().create_future()
            somebody_elses.cancel()
            await somebody_elses
        if self._fault == "calls back":
            assert self.client is not None
            if self._connects:  # a call would wait for the connection that this code is part of
                with suppress(ResilienceError):
                    await self.client.wait_ready(0.1)
            else:
                assert text_of(await self.client.call_tool("echo", {"text": "inside"})) == "inside"

    def _begin(self) -> bool:
        if not self.armed:
            return False
        self.armed, self.ran = False, True
        if self._fault == "Exception":
            raise RuntimeError("boom")
        if self._fault == "BaseException":
            raise Odd("boom")
        if self._fault == "blocks":
            time.sleep(0.25)
        return True


# --- the places where foreign code is called ---


@dataclass(frozen=True)
class Place:
    """A place where foreign code is called.

    Attributes:
        argument: The argument with which it is passed, such as `on_event` or `RetryPolicy.wait`; None if it is not.
        options: Returns the options of a client with that code.
        call: The call during which the code runs.
        named: How the error, the log or the client's health names the culprit: a regular expression.
        server: Returns the server, given the URL of an HTTP server.
        connects: Whether it is called for a new connection.
        by_caller: Whether it is called in the task of the caller, where Python 3.10 cannot tell a stray cancellation.
    """

    argument: str | None
    options: Callable[[Foreign], dict[str, Any]]
    call: Callable[[ResilientClient], Any]
    named: str
    server: Callable[[Foreign, str], Any] = lambda foreign, url: SERVER
    connects: bool = False
    by_caller: bool = False


def over_http(foreign: Foreign, url: str) -> Any:
    return url


def over_a_transport(foreign: Foreign, url: str) -> Any:
    @asynccontextmanager
    async def transport() -> AsyncIterator[Any]:
        await foreign.later()
        async with stdio_client(SERVER) as streams:
            yield streams

    return transport


def answering(name: str, result: Any) -> Callable[[Foreign], dict[str, Any]]:
    def options(foreign: Foreign) -> dict[str, Any]:
        async def callback(*_: Any) -> Any:
            await foreign.later()
            return result

        return {name: callback}

    return options


def calling_once(name: str, result: Any = None) -> Callable[[Foreign], dict[str, Any]]:
    def options(foreign: Foreign) -> dict[str, Any]:
        def function(*_: Any) -> Any:
            foreign.now()
            return result

        return {name: function}

    return options


def retrying(name: str, result: Any) -> Callable[[Foreign], dict[str, Any]]:
    def options(foreign: Foreign) -> dict[str, Any]:
        retry = RetryPolicy.model_validate({**calling_once(name, result)(foreign), "base": 0.01})
        return {"policy": POLICY.model_copy(update={"retry": retry})}

    return options


def tool(name: str, **arguments: Any) -> Callable[[ResilientClient], Any]:
    return lambda client: client.call_tool(name, arguments)


async def with_progress(client: ResilientClient) -> Any:
    async def callback(*_: Any) -> None:
        await foreign_of(client).later()

    return await client.call_tool("progress", {}, progress_callback=callback)


def foreign_of(client: ResilientClient) -> Foreign:
    return client.foreign  # type: ignore[attr-defined, no-any-return]


async def with_fallback(client: ResilientClient) -> Any:
    assert client.circuit is not None
    client.circuit.isolate()
    try:
        return await client.call_tool("unreachable", {})
    finally:
        client.circuit.reset()


def falling_back(foreign: Foreign) -> dict[str, Any]:
    async def fallback(arguments: dict[str, Any]) -> str:
        if foreign.client is not None and foreign.client.circuit is not None:
            foreign.client.circuit.reset()
        await foreign.later()
        return "instead"

    return {"fallbacks": {"unreachable": fallback}}


class Errlog(io.StringIO):
    """A user's own stream."""

    def __init__(self, foreign: Foreign) -> None:
        super().__init__()
        self._foreign = foreign

    def write(self, text: str) -> int:
        self._foreign.now()
        return super().write(text)


async def on_stderr(client: ResilientClient) -> Any:
    result = await client.call_tool("say", {})
    with anyio.fail_after(5):
        while not foreign_of(client).ran:
            await anyio.sleep(0.01)
    return result


def is_about_echo(request: Any) -> bool:
    """Whether it is the request of the call, and not one of the bystander or of the client itself."""
    return b'"echo"' in request.content


class Auth(http.Auth):  # type: ignore[misc, name-defined]
    def __init__(self, foreign: Foreign) -> None:
        self._foreign = foreign

    async def async_auth_flow(self, request: Any) -> AsyncIterator[Any]:
        if is_about_echo(request):
            await self._foreign.later()
        yield request


class Transport(http.AsyncHTTPTransport):  # type: ignore[misc, name-defined]
    def __init__(self, foreign: Foreign) -> None:
        super().__init__()
        self._foreign = foreign

    async def handle_async_request(self, request: Any) -> Any:
        if is_about_echo(request):
            await self._foreign.later()
        return await super().handle_async_request(request)


def hooked(kind: str) -> Callable[[Foreign], dict[str, Any]]:
    def options(foreign: Foreign) -> dict[str, Any]:
        async def hook(message: Any) -> None:
            if is_about_echo(message if kind == "request" else message.request):
                await foreign.later()

        return {"http_client": http.AsyncClient(event_hooks={kind: [hook]})}

    return options


def with_headers(foreign: Foreign) -> dict[str, Any]:
    async def headers() -> dict[str, str]:
        await foreign.later()
        return {"authorization": "Bearer a-token"}

    return {"headers": headers}


SAMPLE = types.CreateMessageResult.model_validate(
    {"role": "assistant", "model": "m", "content": {"type": "text", "text": "sampled"}}
)
ASK_SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
ASK_FORM = {
    "method": "elicitation/create",
    "params": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}},
}
HTTP = "the HTTP client, its auth or a hook"

PLACES = MappingProxyType(
    {
        "sampling": Place(
            "sampling_callback", answering("sampling_callback", SAMPLE), tool("ask", **ASK_SAMPLE), "sampling_callback"
        ),
        "elicitation": Place(
            "elicitation_callback",
            answering("elicitation_callback", types.ElicitResult(action="decline")),
            tool("ask", **ASK_FORM),
            "elicitation_callback",
        ),
        "roots": Place(
            "list_roots_callback",
            answering("list_roots_callback", types.ListRootsResult(roots=[])),
            tool("ask", method="roots/list"),
            "list_roots_callback",
        ),
        "logging callback": Place(
            "logging_callback",
            answering("logging_callback", None),
            tool("tell", method="notifications/message", params={"level": "info", "data": "x"}),
            "logging_callback",
        ),
        "message handler": Place(
            "message_handler",
            answering("message_handler", None),
            tool("tell", method="notifications/prompts/list_changed"),
            "message_handler",
        ),
        "progress callback": Place("progress_callback", lambda _: {}, with_progress, "progress_callback"),
        "listener": Place("on_event", calling_once("on_event"), tool("echo"), "on_event"),
        "fallback": Place(
            "fallbacks", falling_back, with_fallback, "its fallback failed", by_caller=True
        ),
        "classifier": Place("classifier", calling_once("classifier"), tool("fail"), "the classifier"),
        "wait": Place("RetryPolicy.wait", retrying("wait", 0.0), tool("fail", text="try again"), "RetryPolicy.wait"),
        "stop": Place("RetryPolicy.stop", retrying("stop", True), tool("fail", text="try again"), "RetryPolicy.*stop"),
        "errlog": Place("errlog", lambda foreign: {"errlog": Errlog(foreign)}, on_stderr, "errlog"),
        "transport": Place(
            "server", lambda _: {}, ResilientClient.restart, "the transport|boom", over_a_transport, connects=True
        ),
        "headers": Place("headers", with_headers, ResilientClient.restart, r"headers\(\)", over_http, connects=True),
        "auth": Place(
            "auth", lambda foreign: {"auth": Auth(foreign)}, tool("echo"), "auth raised", over_http, by_caller=True
        ),
        "request hook": Place("http_client", hooked("request"), tool("echo"), HTTP, over_http, by_caller=True),
        "response hook": Place("http_client", hooked("response"), tool("echo"), HTTP, over_http, by_caller=True),
        "HTTP transport": Place(
            "http_client",
            lambda foreign: {"http_client": http.AsyncClient(transport=Transport(foreign))},
            tool("echo"),
            HTTP,
            over_http,
            by_caller=True,
        ),
        "logging filter": Place(None, lambda _: {}, tool("echo"), "Logging error"),
        "logging handler": Place(None, lambda _: {}, tool("echo"), "Logging error"),
    }
)  # fmt: skip


@contextmanager
def in_the_log(place: str, foreign: Foreign) -> Iterator[None]:
    """Install the code in the application's logging, where that is the place."""
    logger = logging.getLogger(LOG)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            foreign.now()

    handler = Handler()

    def accept(record: logging.LogRecord) -> bool:
        foreign.now()
        return True

    level = logger.level
    logger.setLevel(logging.DEBUG)
    if place == "logging filter":
        logger.addFilter(accept)
    elif place == "logging handler":
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeFilter(accept)
        logger.removeHandler(handler)


def script(request: Request) -> Reply | None:
    if request.method == "tools/call" and request.params.get("name") == "hold":
        return Reply.ok("held").after(0.1)
    return None


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", PLACES)
async def test_foreign_code_hurts_only_its_own_call(
    where: str, fault: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    """Its call ends, with an error that names it if there is one; another call, and the next one, do not notice."""
    place = PLACES[where]
    foreign = Foreign(fault, connects=place.connects)
    async with AsyncExitStack() as stack:
        url = ""
        if place.server is over_http:
            url = (await stack.enter_async_context(ScriptedHttpServer(script))).url
        options = {"policy": POLICY, **LEGACY, **place.options(foreign)}
        if (mine := options.get("http_client")) is not None:
            await stack.enter_async_context(mine)
        client = ResilientClient(place.server(foreign, url), **options)
        foreign.client, client.foreign = client, foreign  # type: ignore[attr-defined]
        stack.enter_context(in_the_log(where, foreign))
        await stack.enter_async_context(client)
        other: list[str] = []

        async def bystander() -> None:
            other.append(text_of(await client.call_tool("hold", {})))

        async with anyio.create_task_group() as tg:
            tg.start_soon(bystander)
            with anyio.fail_after(5):
                while not client.stats().running:
                    await anyio.sleep(0.005)
            generation = client.generation
            foreign.armed = True
            ending = await ended(place.call(client))
            foreign.armed = False
            if not url and not place.connects:
                await client.call_tool("release", {})
            elif place.server is over_a_transport:  # its process ended with its connection
                tg.cancel_scope.cancel()
        assert foreign.ran
        assert other == ["held"] or place.server is over_a_transport
        assert client.generation == generation or place.connects
        if fault not in RAISES:
            assert not isinstance(ending, BaseException), ending
        elif isinstance(ending, asyncio.CancelledError):
            assert place.by_caller
            assert fault == "CancelledError"
            assert sys.version_info < (3, 11)
        else:
            assert not isinstance(ending, BaseException) or isinstance(ending, Exception)
            last = str(client.health().last_error)
            assert re.search(place.named, said(ending) + last + caplog.text + capsys.readouterr().err)
        if client.state is State.FAILED:
            await client.restart()
        assert text_of(await client.call_tool("echo", {"text": "next"})) == "next"


async def ended(call: Any) -> Any:
    """The answer of a call, or its error."""
    try:
        return await call
    except (Exception, asyncio.CancelledError, Odd) as exc:
        return exc


def said(ending: Any) -> str:
    """All text of an answer or an error."""
    if not isinstance(ending, BaseException):
        return str(ending)
    notes = "\n".join(getattr(ending, "__notes__", ()))
    return "".join(traceback.format_exception(type(ending), ending, ending.__traceback__)) + notes


# --- the list of places ---

# The arguments of a client that are no code.
NO_CODE = {"name", "policy", "debug", "client_info", "read_timeout_seconds", "session_options"}
# The options of the SDK's session that are no code.
NO_CODE_OF_SESSION = {
    *("sampling_capabilities", "raise_exceptions", "mode", "prior_discover", "log_level"),
    *("input_required_max_rounds", "input_required_round_timeout"),
}
# Code that the SDK's session calls by itself: see the tests below. What is only called in the task of a call, such as
# `cache` and `result_claims`, is inside the boundary around each call of the session.
IN_THE_SESSION = {"experimental_task_handlers", "cache", "extensions", "notification_bindings", "result_claims"}


def test_the_list_of_places_is_complete():
    """A new argument is either a place, with a test above, or said to be no code."""
    tested = {place.argument for place in PLACES.values()}
    arguments = set(inspect.signature(ResilientClient).parameters) | {field.name for field in fields(HttpOptions)}
    assert arguments - NO_CODE == {name for name in tested if name in arguments}
    assert SESSION_OPTIONS - NO_CODE_OF_SESSION <= IN_THE_SESSION
    assert {name for name in code_in(Policy) if name not in tested} == set()
    of_calls = {
        name
        for _, method in inspect.getmembers(SessionMethods, inspect.isfunction)
        for name, parameter in inspect.signature(method).parameters.items()
        if not method.__name__.startswith("_") and re.search("Callable|Progress|FnT", str(parameter.annotation))
    }
    assert of_calls <= tested
    of_group = {
        name
        for name, parameter in inspect.signature(ResilientClientGroup).parameters.items()
        if re.search("Callable|Hook|Listener", str(parameter.annotation))
    }
    assert of_group <= tested | {"name_hook"}  # see the test below


def code_in(model: type[BaseModel]) -> Iterator[str]:
    """The settings of a policy that are functions, such as `RetryPolicy.wait`."""
    for name, info in model.model_fields.items():
        if "Callable" in str(info.annotation):
            yield f"{model.__name__}.{name}"
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from code_in(kind)


@pytest.mark.parametrize("fault", RAISES)
async def test_a_hook_that_names_tools(fault: str):
    """A group whose `name_hook` raises lists the other servers' tools, and those of all once it works again."""
    foreign = Foreign(fault, connects=False)

    def hook(name: str, _: Any) -> str:
        foreign.now()
        return name

    async with ResilientClientGroup({"one": SERVER}, policy=POLICY, name_hook=hook, **LEGACY) as group:
        foreign.armed = True
        await ended(group.list_tools())
        assert foreign.ran
        assert len((await group.list_tools()).tools) == 8


class Nothing(BaseModel):
    """The parameters of a notification."""


@pytest.mark.skipif(MAJOR == 1, reason="mcp 1.x has no extensions")
@pytest.mark.parametrize("fault", RAISES)
async def test_a_notification_binding(fault: str, caplog: pytest.LogCaptureFixture):
    """A handler of an extension's notifications that raises gets the next one."""
    bindings: Any = __import__("mcp.client.extension", fromlist=["NotificationBinding"])
    foreign, got = Foreign(fault, connects=False), []

    async def handler(params: Any) -> None:
        await foreign.later()
        got.append(params)

    binding = bindings.NotificationBinding(method="x/changed", params_type=Nothing, handler=handler)
    options = {"notification_bindings": [binding], "policy": POLICY, **LEGACY}
    async with ResilientClient(SERVER, **options) as client:
        foreign.armed = True
        await client.call_tool("tell", {"method": "x/changed", "params": {}})
        await client.call_tool("tell", {"method": "x/changed", "params": {}})
        with anyio.fail_after(5):
            while not got:
                await anyio.sleep(0.01)
        assert foreign.ran
        assert client.generation == 1
    assert "x/changed" in caplog.text


@pytest.mark.filterwarnings("ignore:The experimental tasks API is deprecated")
@pytest.mark.skipif(MAJOR != 1, reason="mcp 2.x has no task handlers")
@pytest.mark.parametrize("fault", RAISES)
async def test_a_task_handler(fault: str):
    """A handler of the server's task requests that raises is an error of that request."""
    module: Any = __import__("mcp.client.experimental.task_handlers", fromlist=["ExperimentalTaskHandlers"])
    foreign = Foreign(fault, connects=False)

    async def handler(*_: Any) -> Any:
        await foreign.later()
        return types.ErrorData(code=1, message="none")

    handlers = module.ExperimentalTaskHandlers(list_tasks=handler)
    async with ResilientClient(SERVER, policy=POLICY, experimental_task_handlers=handlers) as client:
        foreign.armed = True
        said = text_of(await client.call_tool("ask", {"method": "tasks/list"}))
        assert "Invalid request parameters" in said  # as with the SDK: a server is not told more
        assert "none" in text_of(await client.call_tool("ask", {"method": "tasks/list"}))
        assert client.generation == 1


# --- the boundary itself ---


async def test_a_real_cancellation_passes():
    """A scope of the caller's ends what foreign code waits for; the boundary does not turn that into an error."""
    for boundary in (awaiting("it"), awaiting("it", by_caller=True)):
        with anyio.move_on_after(0.01) as scope:
            with boundary:
                await anyio.sleep(10)
            raise AssertionError
        assert scope.cancelled_caught
        with anyio.move_on_after(0.01) as scope, boundary:
            async with anyio.create_task_group() as tg:
                tg.start_soon(anyio.sleep, 10)
        assert scope.cancelled_caught


def test_a_cancelled_task_stays_cancelled():
    """`Task.cancel()` of the caller's task ends its call while foreign code runs in it."""

    async def call() -> None:
        with awaiting("it", by_caller=True):
            await asyncio.sleep(10)

    async def main() -> None:
        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(call(), 0.01)

    asyncio.run(main())


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("boundary", [calling, awaiting])
async def test_what_ends_the_program_passes(end: type[BaseException], boundary: type[calling]):
    """Ctrl-C and `sys.exit()` end the program, also from a task of foreign code."""
    with pytest.raises(end), boundary("it"):
        raise end
    with pytest.raises(BaseException) as caught, boundary("it"):
        async with anyio.create_task_group():
            raise end
    assert isinstance(getattr(caught.value, "exceptions", [caught.value])[0], end)


class Unreadable(Exception):
    def __str__(self) -> str:
        raise Odd


async def test_what_else_is_raised_becomes_an_error():
    """An error without a readable text, or a group of what nobody expects."""
    with pytest.raises(ForeignCodeError, match="it raised Unreadable"), calling("it"):
        raise Unreadable
    with pytest.raises(ForeignCodeError, match="it raised Odd: boom"), awaiting("it"):
        async with anyio.create_task_group():
            raise Odd("boom")
    with pytest.raises(KeyError), calling("it"):
        raise KeyError


async def test_emit_never_raises():
    """Neither a redactor, nor a listener, nor the application's logging can fail what reports an event."""

    class Broken(Redactor):
        def cleaned(self, value: Any) -> Any:
            raise Odd(value)

        def clean_error(self, error: Any) -> Any:
            raise Odd

    seen: list[Any] = []

    def listener(event: Any) -> None:
        seen.append(event)
        raise Odd

    hub = Hub("server", listener, redactor=Broken())
    hub.add(listener)
    with in_the_log("logging filter", Foreign("BaseException", connects=False)) as _:
        hub.emit(StateChanged(server="server", old=State.READY, new=State.CLOSED, reason="a secret"))
    assert [event.new for event in seen] == [State.CLOSED] * 2
    assert "secret" not in str(seen)


def test_the_applications_logging_is_guarded_once():
    """The module may be imported again, and the application may have chosen the logger's class."""
    logger = logging.getLogger("resilient_mcp.test")
    assert guarded_logger("resilient_mcp.test") is logger
    handle = logger.handle
    assert guarded_logger("resilient_mcp.test").handle is handle


# --- what runs in the background ---


async def test_a_broken_environment_is_a_failure_to_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    """An error that nobody expected, here of the HTTP library, makes the client `failed` with the reason."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    events = Recorder()
    client = ResilientClient("https://127.0.0.1:9/mcp", policy=POLICY, on_event=events)
    await client.start(wait=False)
    try:
        await events.wait_for(StateChanged, new=State.FAILED)
        with pytest.raises(ResilienceError, match="FileNotFoundError"):
            await client.call_tool("echo", {})
        client._supervisor.restart()
        await events.wait_for(StateChanged, 2, new=State.FAILED)
    finally:
        await client.aclose()
    assert client.state is State.CLOSED


async def test_a_dropped_callback_is_not_waited_for():
    """A flood of notifications drops the oldest; whoever waits for them goes on."""
    async with anyio.create_task_group() as tg:
        lane, may_go_on = CallbackLane(tg), anyio.Event()

        async def callback() -> None:
            await may_go_on.wait()

        lane.put(callback)
        await anyio.sleep(0)
        await anyio.sleep(0.01)
        for _ in range(_WAITING_MESSAGES):
            lane.put(callback)
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(lane.caught_up)
            await anyio.sleep(0.01)
            lane.put(callback)
            may_go_on.set()
        await lane.caught_up()  # the one put last
        assert not lane.is_behind


async def test_a_slow_progress_callback_delays_no_other_call():
    """mcp 1.x awaits it in the loop that reads all answers."""
    started, may_end = anyio.Event(), anyio.Event()

    async def slow(*_: Any) -> None:
        started.set()
        await may_end.wait()

    async with ResilientClient(SERVER, policy=POLICY, **LEGACY) as client, anyio.create_task_group() as tg:
        tg.start_soon(lambda: client.call_tool("progress", {}, progress_callback=slow))
        with anyio.fail_after(5):
            await started.wait()
        began = anyio.current_time()
        for _ in range(5):
            assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert anyio.current_time() - began < 1
        may_end.set()
