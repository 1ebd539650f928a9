"""`ResilientClient`: a replacement for the SDK's `ClientSession` that survives failures of its server.

Construction and lifecycle are here, the methods of the protocol in `session_methods`.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from types import TracebackType
from typing import Any, TextIO

import anyio
import anyio.lowlevel
from mcp import types
from mcp.client.session import ElicitationFnT, ListRootsFnT, LoggingFnT, MessageHandlerFnT, SamplingFnT
from typing_extensions import Self

from ._sdk.installed import VERSION
from ._sdk.options import SESSION_OPTIONS, check_options, with_target_id
from .bridge import BridgeTransport
from .calls.catalog import Catalog
from .calls.executor import Executor
from .calls.fallbacks import Fallback, Fallbacks
from .calls.gate import Circuit, Gate
from .calls.probe import HealthCheck
from .connection.connector import Connector
from .connection.generation import Connection
from .connection.server import server_of
from .connection.supervisor import Supervisor
from .errors import ServerUnavailable
from .event_loop import Flag, spawn
from .events import State
from .observability.calls import Observer
from .observability.hub import EventStream, Hub, Listener, check_listener, current_call
from .observability.otel import IS_INSTALLED, Telemetry
from .observability.stats import Health, Recorder, Stats
from .policy import Policy
from .session_methods import SessionMethods, Timeout, seconds
from .subscriptions.subscriptions import Subscriptions
from .text.redact import Redactor
from .transports.host_requests import Link
from .transports.http.headers import HeadersFunction
from .transports.server import HttpOptions
from .verdicts.classifier import Classifier, Classify
from .verdicts.remedies import Wording, in_python, reason_of

# Sentinel: `sys.stderr` is looked up when a client is created, not when this module is imported.
_STDERR: Any = object()
# Callbacks that answer requests from the server.
_ASKED = ("sampling_callback", "elicitation_callback", "list_roots_callback")
# Seconds that closing may take beyond its own limits.
_MARGIN = 1.0


class ResilientClient(SessionMethods):
    """A client for one MCP server that stays usable when the server, its process or its network fails.

    It has every method of the installed SDK's `ClientSession`, with the same names, arguments and result types. Enter
    it with `async with`, or call `start()` and `aclose()`, on asyncio from any task.

    It belongs to the event loop it was started in: elsewhere, and in a forked process, its coroutines raise
    `RuntimeError`. `state`, `error`, `health()`, `stats()` and `circuit` work in any thread.

    Args:
        server: A URL (Streamable HTTP), the SDK's `StdioServerParameters`, `StreamableHttpParameters` or
            `SseServerParameters`, an SDK transport or a function without arguments that returns one, or an SDK server
            object in this process.
        name: The server's name in messages; its command or URL by default.
        policy: Retries, time limits and other settings, see `Policy`.
        classifier: A function that is consulted before the tables: it maps a `Failure` to a `Verdict`, or returns None
            to leave the decision to them.
        on_event: Called with each `Event`, in order; must not block (`events()` buffers for slow readers).
        fallbacks: Tool name to a coroutine function that replaces the tool when its server cannot answer: it gets the
            arguments and returns a `CallToolResult` or a text. Not used if the server may have run the call, unless
            the tool is repeatable. If it raises, the call ends with the original error, which gets a note.
        debug: Whether to log arguments, results and server output in full, still without secrets; by default, whether
            the environment variable `RESILIENT_MCP_DEBUG` is set and not `0`.
        http_client: The HTTP client to use (httpx on mcp 1.x, httpx2 on 2.x), with its headers, auth and proxies. You
            close it, and you set TCP keepalive, which the default client has.
        headers: HTTP headers of every request: a mapping, or a function (or coroutine function) without arguments that
            returns one. It is called for each connection, and again after a 401, so a token can be rotated without a
            restart. They take precedence over those of `http_client`.
        auth: An `Auth` of the HTTP library for every request, such as the SDK's `OAuthClientProvider`; by default that
            of `http_client`.
        errlog: Receives the stderr of the server's process, line by line and without secrets, as on `stdio_client`:
            `sys.stderr` by default; None discards it. The logger `resilient_mcp.server` gets it in any case.
        sampling_callback: As on `ClientSession`, like the next five.
        elicitation_callback: Answers the server's elicitation requests.
        list_roots_callback: Answers the server's requests for roots.
        logging_callback: Gets the server's log messages.
        message_handler: Gets the server's other messages.
        client_info: The name and version that the client reports.
        read_timeout_seconds: As on `ClientSession`: the time limit of one attempt, instead of the policy's.
        **session_options: Any other option of the installed SDK's session, such as `sampling_capabilities`.

    Raises:
        ValueError: `server` is not usable: a URL without http(s) or host, an empty command.
        TypeError: An argument has the wrong type, or is unknown to the installed SDK.

    Example:
        >>> client = ResilientClient("https://example.com/mcp")
        >>> client.state.value, client.name
        ('idle', 'https://example.com/mcp')
    """

    def __init__(
        self,
        server: Any,
        *,
        name: str | None = None,
        policy: Policy | None = None,
        classifier: Classify | None = None,
        on_event: Listener | None = None,
        fallbacks: Mapping[str, Fallback] | None = None,
        debug: bool | None = None,
        http_client: Any = None,
        headers: Mapping[str, str] | HeadersFunction | None = None,
        auth: Any = None,
        errlog: TextIO | None = _STDERR,
        sampling_callback: SamplingFnT | None = None,
        elicitation_callback: ElicitationFnT | None = None,
        list_roots_callback: ListRootsFnT | None = None,
        logging_callback: LoggingFnT | None = None,
        message_handler: MessageHandlerFnT | None = None,
        client_info: types.Implementation | None = None,
        read_timeout_seconds: Timeout = None,
        **session_options: Any,
    ) -> None:
        given, server = server, server_of(server, HttpOptions(http_client, headers, auth))
        check_listener(on_event)
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(f"policy must be a Policy, not a {type(policy).__name__}: write Policy.model_validate(...)")
        unknown = session_options.keys() - SESSION_OPTIONS
        if unknown:
            known = sorted({*inspect.signature(type(self)).parameters, *SESSION_OPTIONS} - {"session_options"})
            close = difflib.get_close_matches(min(unknown), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"with mcp {VERSION} it takes {', '.join(known)}"
            raise TypeError(f"ResilientClient() does not take {', '.join(map(repr, sorted(unknown)))}: {hint}")
        policy = policy or Policy()
        self._redactor = Redactor(server.secrets())
        self.name = name or server.name(self._redactor)
        self.policy = policy
        self._hub = hub = Hub(self.name, on_event, redactor=self._redactor, debug=debug)
        judge = Classifier(policy, classifier, self._redactor)
        self._relays: list[Callable[[Any], Awaitable[None]]] = []
        self._routers: list[Any] = []
        # What runs in the background must not hold `self`: a client that is dropped without `aclose()` would live on.
        self._subscriptions = Subscriptions(
            policy,
            hub,
            judge,
            lambda: supervisor.ready,
            is_free=lambda: gate.is_closed,
            handler=partial(_on_message, self._relays, message_handler),
        )
        self._given = {
            "sampling_callback": sampling_callback,
            "elicitation_callback": elicitation_callback,
            "list_roots_callback": list_roots_callback,
            "logging_callback": logging_callback,
            "message_handler": message_handler,
            "client_info": client_info,
            **session_options,
        }
        check_options(self._given, server.url)
        self._timeout = seconds("read_timeout_seconds", read_timeout_seconds)
        self._options = {**self._given, "message_handler": self._subscriptions.on_message}
        self._given |= {"server": given, "read_timeout_seconds": read_timeout_seconds}
        if "cache" in self._options:
            self._options["cache"] = with_target_id(self._options["cache"], server.url)
        errlog = sys.stderr if errlog is _STDERR else errlog
        self._connector = connector = Connector(server, policy, self._options, hub, errlog=errlog)
        self._catalog = Catalog(judge, hub)
        self._subscriptions.feed(self._catalog.changed)
        self._gate = gate = Gate(policy, hub)
        self._health = HealthCheck(policy, gate, judge, idle=not server.detects_disconnect)
        keep_catalog = partial(self._catalog.keep, timeout=policy.timeout.request)
        self._supervisor = supervisor = Supervisor(
            connector,
            policy,
            hub,
            in_python(server.configured_by),
            on_connected=partial(_on_connected, self._routers, gate),
            background=[self._health.watch, keep_catalog, self._subscriptions.keep],
        )
        self._stats = Recorder(self._redactor)
        hub.add(self._stats)
        telemetry = None
        if IS_INSTALLED:
            telemetry = Telemetry(hub, server.telemetry(), lambda: supervisor.connection, self._stats.label)
            hub.add(telemetry)
        executor = Executor(
            supervisor,
            gate,
            catalog=self._catalog,
            policy=policy,
            hub=hub,
            classifier=judge,
            observer=Observer(hub, self._stats, telemetry),
        )
        self._fallbacks = Fallbacks(executor, supervisor, self._catalog, policy, hub, fallbacks=fallbacks or {})
        self._done: Flag | None = None
        self._task: object = None  # asyncio keeps only weak references to its tasks

    # --- lifecycle ---

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._supervisor.state

    @property
    def generation(self) -> int:
        """The number of connections made or attempted so far."""
        return self._supervisor.generation

    @property
    def circuit(self) -> Circuit | None:
        """The server's circuit breaker (its state, `isolate()` and `reset()`), or None if the policy has none."""
        return self._gate.circuit

    def events(self, *, buffer: int = 1000) -> EventStream:
        """Return an async iterator over the events from now on, buffered for slow readers; it ends with the client.

        Args:
            buffer: How many events to keep for a slow reader; beyond that the oldest are lost, counted in `dropped`.

        Raises:
            ValueError: `buffer` is less than 1.
        """
        return self._hub.stream(buffer)

    def stats(self) -> Stats:
        """Return a frozen snapshot of what this client has done so far; callable from any thread, like `health`."""
        return self._stats.snapshot()

    def health(self) -> Health:
        """Return a frozen snapshot of the connection's health."""
        supervisor = self._supervisor
        failure, session = supervisor.last_failure, supervisor.last_session
        evidence = failure.evidence if failure is not None else None
        return Health(
            server=self.name,
            state=supervisor.state,
            generation=supervisor.generation,
            protocol_version=None if session is None else session.protocol_version,
            last_error=None if failure is None else self._redactor.line(reason_of(failure)),
            retry_in=supervisor.retry_in,
            exit_status=None if evidence is None else evidence.exit,
            starting_for=supervisor.starting_for,
            last_line=supervisor.last_line,
        )

    async def start(self, *, wait: bool = True) -> None:
        """Connect, and wait until the server is ready.

        Args:
            wait: False to start in the background, where a failed start is retried like a lost connection.

        Raises:
            ServerFailed: It cannot work as configured: command not found, credentials refused, no common version.
            ServerUnavailable: The server was not ready within `policy.timeout.ready` seconds (`policy.timeout.connect`
                while it is starting), or no server was found within `policy.timeout.reach`.
            RuntimeError: The client was already started; create a new one.
        """
        # It may outlive its caller: what a web request keeps in context variables must not live as long.
        await self._start(Context(), wait=wait)

    async def _start(self, context: Context, *, wait: bool) -> None:
        if self._done is not None:
            raise RuntimeError(f"the client of {self.name!r} was already started: create a new ResilientClient")
        self._done = done = Flag()
        self._supervisor.begin()
        self._gate.home = self._supervisor.home
        self._task = spawn(partial(_run, self._supervisor, self._subscriptions, done), context)
        if not wait:
            return
        try:
            await self.wait_first()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connection and stop the server's process, within about twice `policy.timeout.shutdown`.

        Safe to call from any task, more than once, and while calls are in flight: those end with an error.

        Raises:
            RuntimeError: It was started in another event loop, or in the process of which this is a fork.
        """
        if self._done is None:
            return
        self._check_home()
        self._supervisor.close()
        # Bounded: a session callback that closes its own client would otherwise wait for itself forever.
        with anyio.move_on_after(2 * self.policy.timeout.shutdown + _MARGIN, shield=True):
            await self._done.wait()

    async def __aenter__(self) -> Self:
        await self._start(copy_context(), wait=True)  # callbacks may read them, as with a session of the SDK
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def wait_ready(self, timeout: Timeout = None) -> None:
        """Wait until the server is ready.

        Args:
            timeout: Seconds; by default `policy.timeout.ready`, or `policy.timeout.connect` while the server is
                starting.

        Raises:
            ServerUnavailable: It was not ready in time, or cannot be (`ServerFailed`).
        """
        self._check_home()
        limit = seconds("timeout", timeout)
        now = anyio.current_time()
        if limit is None:
            await self._supervisor.wait_ready(now + self.policy.timeout.ready, math.inf)
        else:
            await self._supervisor.wait_ready(now + limit)

    async def wait_attempted(self) -> None:
        """Wait until the first connection attempt has succeeded or failed, at most `policy.timeout.connect`."""
        self._check_home()
        await self._supervisor.wait_attempted()

    @property
    def error(self) -> ServerUnavailable | None:
        """Why there is no connection, as the error a call would raise; None while there is one."""
        return None if self._supervisor.ready is not None else self._supervisor.unavailable()

    async def restart(self) -> None:
        """Replace the connection now, restarting the process; also wakes a suspended or failed server.

        Raises:
            ServerUnavailable: It was not ready in time, see `wait_ready`.
        """
        self._check_home()
        self._supervisor.restart()
        await self.wait_ready()

    def as_transport(self) -> BridgeTransport:
        """Return a transport to an MCP server in front of this client.

        For frameworks that build the session themselves: `mcp.Client(client.as_transport())`, or
        `async with client.as_transport() as (read, write), ClientSession(read, write) as session`. A client that was
        not started is started by the session's `initialize`, with the session's callbacks unless it has its own for
        sampling, elicitation or roots, and is closed with the session.
        """
        return BridgeTransport(self)

    # --- for the bridge, the group and the command line ---

    async def wait_first(self) -> None:
        """Wait until the server is ready as `start` does: only briefly if no server is found.

        Raises:
            ServerUnavailable: As `start`.
        """
        now, timeout = anyio.current_time(), self.policy.timeout
        await self._supervisor.wait_ready(now + timeout.ready, math.inf, reach=now + timeout.reach)

    def offers(self, capability: str) -> bool:
        """Whether the server may offer a capability, such as `tools`; False before the first connection."""
        return self._session is not None and self._session.offers(capability)

    def reword(self, wording: Wording) -> None:
        """Use `wording` to name the configuration in messages."""
        self._supervisor.wording = wording

    def _relay(self, on_message: Callable[[Any], Awaitable[None]]) -> None:
        """Also pass the session's other messages to `on_message`."""
        self._relays.append(on_message)

    def _unrelay(self, on_message: Callable[[Any], Awaitable[None]]) -> None:
        """Undo `_relay`."""
        self._relays.remove(on_message)

    def _link(self, link: Link, options: dict[str, Any]) -> None:
        """Let `link` answer the server's requests, and use `options` where none were given; call before `start`.

        A client that has its own callbacks for these requests keeps them.
        """
        if not any(self._options.get(name) for name in _ASKED):
            self._connector.link = link
        for name, value in options.items():
            if self._options.get(name) is None:
                self._options[name] = value

    def __del__(self) -> None:
        supervisor: Supervisor | None = getattr(self, "_supervisor", None)  # None if the construction failed
        if supervisor is None or supervisor.home is None or supervisor.is_closing or os.getpid() != supervisor.home.pid:
            return
        if supervisor.state is not State.CLOSED:
            with suppress(RuntimeError):  # the event loop was closed before its tasks had ended
                supervisor.home.run(supervisor.close, wait=False)  # the garbage collector runs in any thread
        warnings.warn(
            f"the client of {self.name!r} was not closed: enter it with `async with`, or call aclose()",
            ResourceWarning,
            stacklevel=1,
            source=self,
        )


async def _run(supervisor: Supervisor, subscriptions: Subscriptions, done: Flag) -> None:
    """The background task of a client."""
    current_call.set(None)  # the context may be that of a caller in a call: events would carry its id
    try:
        await supervisor.run()
    finally:
        subscriptions.close()
        done.set()


def _on_connected(routers: list[Any], gate: Gate, connection: Connection) -> None:
    for router in routers:
        connection.session.raw.add_response_router(router)
    gate.connected()


async def _on_message(
    relays: list[Callable[[Any], Awaitable[None]]], handler: MessageHandlerFnT | None, message: Any
) -> None:
    """Pass a message of the session to every bridge and to the user's `message_handler`."""
    for relay in list(relays):  # first: otherwise an answer could reach a host before an earlier notification
        await relay(message)
    if handler is not None:
        await handler(message)
    else:
        await anyio.lowlevel.checkpoint()
