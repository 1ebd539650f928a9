"""`ResilientClient`: a replacement for the SDK's `ClientSession` that survives failures of its server.

Each method describes an operation and hands it to the executor; the supervisor keeps the connection alive.
"""

from __future__ import annotations

import difflib
import inspect
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeAlias, cast

import anyio
import anyio.lowlevel
from mcp import types
from typing_extensions import Self

from ._sdk.installed import VERSION, experimental_features, needs_1, needs_2
from ._sdk.options import SESSION_OPTIONS, check_options, default_option, with_target_id
from ._sdk.results import LISTS, as_json, uri_text
from ._sdk.session import Invoke, Session, open_listen
from .calls.catalog import Catalog
from .calls.executor import Executor
from .calls.fallbacks import Fallback, Fallbacks
from .calls.gate import Circuit, Gate
from .calls.operation import Operation
from .calls.probe import HealthCheck
from .connection.connector import Connector
from .connection.generation import Connection
from .connection.server import check_http_client, checked, name_of, speaks_for_itself
from .connection.supervisor import Supervisor
from .errors import ServerUnavailable
from .event_loop import loop_time, spawn
from .events import State
from .observability.calls import Observer
from .observability.hub import EventStream, Hub, Listener, check_listener, current_call
from .observability.otel import IS_INSTALLED, Telemetry
from .observability.stats import Health, Recorder, Stats
from .policy import Policy
from .session_view import SessionView
from .subscriptions.ledger import LogLevel, Resource
from .subscriptions.subscriptions import Subscriptions
from .subscriptions.watcher import Change, ListenWatcher, Watcher
from .text.redact import Redactor
from .transports.host_requests import Link
from .verdicts.classifier import Classifier, Classify
from .verdicts.remedies import Wording, in_python, reason_of

if TYPE_CHECKING:
    from .bridge import BridgeTransport

Timeout: TypeAlias = float | timedelta | None


# Sentinel: `sys.stderr` is looked up when a client is created, not when this module is imported.
_STDERR: Any = object()
# Methods whose params name their target.
_TARGETED = frozenset({"tools/call", "prompts/get", "resources/read"})
# Callbacks that answer requests from the server.
_ASKED = ("sampling_callback", "elicitation_callback", "list_roots_callback")
# Seconds that closing may take beyond its own limits.
_MARGIN = 1.0


class _Given:
    """A client attribute: the value passed for an SDK session option, or the SDK's default."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self._default = default_option(name)

    def __get__(self, client: ResilientClient | None, owner: type) -> Any:
        return self._default if client is None else client._given.get(self._name, self._default)  # noqa: SLF001


class ResilientClient:
    """A client for one MCP server that stays usable when the server, its process or its network fails.

    It has every method of the installed SDK's `ClientSession`, with the same names, arguments and result types. Enter
    it with `async with`, or call `start()` and `aclose()`, on asyncio from any task.

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
            the tool is repeatable.
        debug: Whether to log arguments, results and server output in full, still without secrets; by default, whether
            the environment variable `RESILIENT_MCP_DEBUG` is set and not `0`.
        http_client: The HTTP client to use (httpx on mcp 1.x, httpx2 on 2.x), with its headers, auth and proxies. You
            close it, and you set TCP keepalive, which the default client has.
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
        errlog: TextIO | None = _STDERR,
        sampling_callback: Any = None,
        elicitation_callback: Any = None,
        list_roots_callback: Any = None,
        logging_callback: Any = None,
        message_handler: Any = None,
        client_info: types.Implementation | None = None,
        read_timeout_seconds: Timeout = None,
        **session_options: Any,
    ) -> None:
        given, server = server, checked(server)
        check_http_client(http_client, server)
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
        self._redactor = Redactor.of(server, http_client)
        self.name = name or name_of(server, self._redactor)
        self.policy = policy
        self._hub = hub = Hub(self.name, on_event, redactor=self._redactor, debug=debug)
        judge = Classifier(policy, classifier, self._redactor)
        self._handler = message_handler
        self._relays: list[Callable[[Any], Awaitable[None]]] = []
        self._routers: list[Any] = []
        self._subscriptions = Subscriptions(
            policy,
            hub,
            judge,
            lambda: self._supervisor.ready,
            is_free=lambda: self._gate.is_closed,
            handler=self._on_message,
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
        check_options(server, self._given)
        self._timeout = _seconds("read_timeout_seconds", read_timeout_seconds)
        self._options = {**self._given, "message_handler": self._subscriptions.on_message}
        self._given |= {"server": given, "read_timeout_seconds": read_timeout_seconds}
        if "cache" in self._options:
            self._options["cache"] = with_target_id(self._options["cache"], server)
        errlog = sys.stderr if errlog is _STDERR else errlog
        self._connector = connector = Connector(server, policy, self._options, http_client, hub, errlog=errlog)
        self._catalog = Catalog(judge, hub)
        self._subscriptions.feed(self._catalog.changed)
        self._gate = Gate(policy, hub)
        self._supervisor = Supervisor(
            connector, policy, hub, in_python(server), on_connected=self._on_connected, on_ready=self._on_ready
        )
        self._health = HealthCheck(policy, self._gate, judge, idle=not speaks_for_itself(server))
        self._stats = Recorder(self._redactor)
        hub.add(self._stats)
        telemetry = None
        if IS_INSTALLED:
            telemetry = Telemetry(hub, server, lambda: self._supervisor.connection, self._stats.label)
            hub.add(telemetry)
        executor = Executor(
            self._supervisor,
            self._gate,
            catalog=self._catalog,
            policy=policy,
            hub=hub,
            classifier=judge,
            observer=Observer(hub, self._stats, telemetry),
        )
        self._degrade = Fallbacks(executor, self._supervisor, self._catalog, policy, hub, fallbacks=fallbacks or {})
        self._done: anyio.Event | None = None
        self._task: object = None  # asyncio keeps only weak references to its tasks
        self._last: Session | None = None

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
        """Return a frozen snapshot of what this client has done so far."""
        return self._stats.snapshot()

    def health(self) -> Health:
        """Return a frozen snapshot of the connection's health."""
        supervisor = self._supervisor
        failure = supervisor.last_failure
        evidence = failure.evidence if failure is not None else None
        return Health(
            server=self.name,
            state=supervisor.state,
            generation=supervisor.generation,
            protocol_version=None if self._last is None else self._last.protocol_version,
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
        if self._done is not None:
            raise RuntimeError(f"the client of {self.name!r} was already started: create a new ResilientClient")
        self._done = anyio.Event()
        self._supervisor.begin()
        self._task = spawn(self._run)
        if not wait:
            return
        try:
            await self.wait_first()
        except BaseException:
            await self.aclose()
            raise

    async def _run(self) -> None:
        assert self._done is not None
        current_call.set(None)  # the context is that of the caller of start(): events would carry its call's id
        try:
            await self._supervisor.run()
        finally:
            self._subscriptions.close()
            self._done.set()

    async def aclose(self) -> None:
        """Close the connection and stop the server's process, within about twice `policy.timeout.shutdown`.

        Safe to call from any task, more than once, and while calls are in flight: those end with an error.
        """
        if self._done is None:
            return
        self._supervisor.close()
        # Bounded: a session callback that closes its own client would otherwise wait for itself forever.
        with anyio.move_on_after(2 * self.policy.timeout.shutdown + _MARGIN, shield=True):
            await self._done.wait()

    async def __aenter__(self) -> Self:
        await self.start()
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
        limit = _seconds("timeout", timeout)
        now = anyio.current_time()
        if limit is None:
            await self._supervisor.lend(now + self.policy.timeout.ready, math.inf)
        else:
            await self._supervisor.lend(now + limit)

    async def wait_tried(self) -> None:
        """Wait until the first connection attempt has succeeded or failed, at most `policy.timeout.connect`."""
        await self._supervisor.wait_tried()

    @property
    def error(self) -> ServerUnavailable | None:
        """Why there is no connection, as the error a call would raise; None while there is one."""
        return None if self._supervisor.ready is not None else self._supervisor.unavailable()

    async def restart(self) -> None:
        """Replace the connection now, restarting the process; also wakes a suspended or failed server.

        Raises:
            ServerUnavailable: It was not ready in time, see `wait_ready`.
        """
        self._supervisor.restart()
        await self.wait_ready()

    async def _on_message(self, message: Any) -> None:
        """Pass a message of the session to every bridge and to the user's `message_handler`."""
        for relay in list(self._relays):  # first: otherwise an answer could reach a host before an earlier notification
            await relay(message)
        if self._handler is not None:
            await self._handler(message)
        else:
            await anyio.lowlevel.checkpoint()

    # --- for the bridge, the group and the command line ---

    async def wait_first(self) -> None:
        """Wait until the server is ready as `start` does: only briefly if no server is found.

        Raises:
            ServerUnavailable: As `start`.
        """
        now, timeout = anyio.current_time(), self.policy.timeout
        await self._supervisor.lend(now + timeout.ready, math.inf, reach=now + timeout.reach)

    def offers(self, capability: str) -> bool:
        """Whether the server may offer a capability, such as `tools`; False before the first connection."""
        return self._session is not None and self._session.offers(capability)

    def reword(self, wording: Wording) -> None:
        """Use `wording` to name the configuration in messages."""
        self._supervisor.wording = wording

    def relay(self, on_message: Callable[[Any], Awaitable[None]]) -> None:
        """Also pass the session's other messages to `on_message`."""
        self._relays.append(on_message)

    def unrelay(self, on_message: Callable[[Any], Awaitable[None]]) -> None:
        """Undo `relay`."""
        self._relays.remove(on_message)

    def link(self, link: Link, options: dict[str, Any]) -> None:
        """Let `link` answer the server's requests, and use `options` where none were given; call before `start`.

        A client that has its own callbacks for these requests keeps them.
        """
        if not any(self._options.get(name) for name in _ASKED):
            self._connector.link = link
        for name, value in options.items():
            if self._options.get(name) is None:
                self._options[name] = value

    def _on_connected(self) -> None:
        connection = self._supervisor.connection
        assert connection is not None
        for router in self._routers:
            connection.session.raw.add_response_router(router)
        self._gate.connected()

    async def _on_ready(self, connection: Connection) -> None:
        self._last = connection.session
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._health.watch, connection)
            tg.start_soon(partial(self._catalog.keep, connection, timeout=self.policy.timeout.request))
            tg.start_soon(self._subscriptions.keep, connection)

    def _operation(
        self,
        method: str,
        invoke: Invoke,
        *,
        target: str | None = None,
        timeout: Timeout = None,
        progress: Any = None,
        arguments: Any = None,
        began: float | None = None,
    ) -> Operation:
        limit = self._timeout if timeout is None else _seconds("read_timeout_seconds", timeout)
        began = loop_time() if began is None else began
        return Operation(method, invoke, target, limit, progress, arguments, self._redactor.line, began)

    async def _run_operation(self, method: str, invoke: Invoke, **facts: Any) -> Any:
        return await self._degrade.run(self._operation(method, invoke, **facts))

    async def _simple(self, method: str, name: str, *args: Any, **options: Any) -> Any:
        return await self._run_operation(method, lambda session, _: session.invoke(name, *args, **options))

    # --- constructor arguments, as attributes like those of `mcp.Client` ---

    server = _Given()
    sampling_callback = _Given()
    elicitation_callback = _Given()
    list_roots_callback = _Given()
    logging_callback = _Given()
    message_handler = _Given()
    client_info = _Given()
    read_timeout_seconds = _Given()
    sampling_capabilities = _Given()
    mode = _Given()
    prior_discover = _Given()
    log_level = _Given()
    extensions = _Given()
    input_required_max_rounds = _Given()
    raise_exceptions = _Given()
    cache = _Given()

    @property
    def session(self) -> SessionView:
        """This client as a `ClientSession`, like `mcp.Client.session`: no input rounds are driven, no claims resolved.

        Raises:
            RuntimeError: The client was never connected, or the SDK is 1.x.
        """
        needs_2("session")
        if self._session is None:
            raise RuntimeError(f"the client of {self.name!r} is not connected: enter it with `async with` first")
        return SessionView(self)

    # --- what was negotiated ---

    @property
    def _session(self) -> Session | None:
        connection = self._supervisor.connection
        return connection.session if connection is not None else self._last

    async def initialize(self) -> types.InitializeResult:
        """Return the negotiated result of the newest connection. Negotiates nothing."""
        session = await self._connected()
        return cast("types.InitializeResult", session.initialize_result)

    async def discover(self) -> Any:
        """Return the negotiated `DiscoverResult` (mcp 2.x). Negotiates nothing.

        Raises:
            RuntimeError: The SDK is 1.x, or the server predates 2026-07-28 and negotiated by `initialize`.
        """
        needs_2("discover()")
        session = await self._connected()
        if (result := session.raw.discover_result) is None:
            version = session.protocol_version
            raise RuntimeError(f"discover() needs a server at 2026-07-28; {self.name!r} speaks {version}")
        return result

    async def _connected(self) -> Session:
        await self.wait_ready()
        assert self._session is not None
        return self._session

    @property
    def initialize_result(self) -> types.InitializeResult | None:
        """The result of `initialize`, without waiting; None before the first connection, and at 2026-07-28."""
        session = self._session
        return None if session is None else cast("types.InitializeResult | None", session.raw_initialize_result)

    @property
    def discover_result(self) -> Any:
        """The result of `server/discover`, without waiting; None before the first connection, and up to 2025-11-25."""
        return None if self._session is None else getattr(self._session.raw, "discover_result", None)

    def get_server_capabilities(self) -> types.ServerCapabilities | None:
        """Return the server's capabilities, under the name that `ClientSession` of mcp 1.x uses."""
        return self.server_capabilities

    @property
    def server_capabilities(self) -> types.ServerCapabilities | None:
        """The server's capabilities; None before the first connection, like the next three."""
        return None if self._session is None else cast("types.ServerCapabilities", self._session.capabilities)

    @property
    def server_info(self) -> types.Implementation | None:
        """The server's name and version, if it reported them."""
        return None if self._session is None else cast("types.Implementation | None", self._session.server_info)

    @property
    def instructions(self) -> str | None:
        """The server's instructions, if any."""
        return None if self._session is None else self._session.instructions

    @property
    def protocol_version(self) -> str | None:
        """The negotiated protocol version."""
        return None if self._session is None else self._session.protocol_version

    # --- tools ---

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: Timeout = None,
        progress_callback: Any = None,
        **options: Any,
    ) -> types.CallToolResult:
        """Call a tool; retried only if it provably did not run, or is repeatable.

        Args:
            name: The tool.
            arguments: Its arguments.
            read_timeout_seconds: The time limit of one attempt, instead of the policy's.
            progress_callback: Gets progress notifications, each of which restarts the attempt's time limit.
            **options: `meta`, and on mcp 2.x `input_responses`, `request_state`, `allow_input_required` and
                `allow_claimed`, as on the SDK's `call_tool`.

        Raises:
            ConnectionLost: It was sent, no answer came, and it is not safe to send it again.
            DeadlineExceeded: It took too long.
            ServerUnavailable: There is no server; the last attempt did not run.
            InvalidArguments: The arguments cannot be encoded as JSON, or do not conform to the tool's schema and the
                policy says to check it.
            MCPError: The server's own error.
        """
        return cast(
            "types.CallToolResult",
            await self._degrade.call_tool(
                self._operation(
                    "tools/call",
                    lambda session, progress: session.call_tool(name, arguments, progress, options),
                    target=name,
                    timeout=read_timeout_seconds,
                    progress=progress_callback,
                    arguments=arguments,
                ),
                name,
                arguments,
            ),
        )

    async def list_tools(
        self, cursor: str | None = None, *, params: types.PaginatedRequestParams | None = None, **options: Any
    ) -> types.ListToolsResult:
        """List one page of the server's tools; `cursor` or `params` for the next, `options` as on the SDK's."""
        return cast("types.ListToolsResult", await self._list("list_tools", cursor, params, options))

    async def _list(self, method: str, cursor: str | None, params: Any, options: dict[str, Any]) -> Any:
        operation = self._operation(LISTS[method], lambda session, _: session.list(method, cursor, params, options))
        key = (method, cursor or getattr(params, "cursor", None))
        return await self._degrade.read(operation, None if options else key)

    # --- resources ---

    async def list_resources(
        self, cursor: str | None = None, *, params: types.PaginatedRequestParams | None = None, **options: Any
    ) -> types.ListResourcesResult:
        """List one page of the server's resources."""
        return cast("types.ListResourcesResult", await self._list("list_resources", cursor, params, options))

    async def list_resource_templates(
        self, cursor: str | None = None, *, params: types.PaginatedRequestParams | None = None, **options: Any
    ) -> types.ListResourceTemplatesResult:
        """List one page of the server's resource templates."""
        return cast(
            "types.ListResourceTemplatesResult", await self._list("list_resource_templates", cursor, params, options)
        )

    async def read_resource(self, uri: Any, **options: Any) -> types.ReadResourceResult:
        """Read a resource; `uri` is a string or an `AnyUrl`."""
        return cast(
            "types.ReadResourceResult",
            await self._degrade.read(
                self._operation(
                    "resources/read", lambda session, _: session.read_resource(uri, options), target=str(uri)
                ),
                None if options else ("read_resource", str(uri)),
            ),
        )

    async def subscribe_resource(self, uri: Any, **options: Any) -> types.EmptyResult:
        """Subscribe to updates of a resource (servers up to 2025-11-25), on this connection and all later ones.

        The subscription is kept from this call until `unsubscribe_resource`, even if this raises because the server is
        not available: it then takes effect once the server is back. Only a refusal by the server itself ends it. After
        a reconnect, `message_handler` gets one update of the resource, because some may have been missed.

        Raises:
            ServerUnavailable: There is no server; the subscription is kept.
            MCPError: The server refused; the subscription is dropped.
        """
        return await self._subscription("resources/subscribe", uri, True, options)

    async def unsubscribe_resource(self, uri: Any, **options: Any) -> types.EmptyResult:
        """End a subscription; returns immediately while there is no server or the circuit is open."""
        return await self._subscription("resources/unsubscribe", uri, None, options)

    async def _subscription(
        self, method: str, uri: Any, wanted: Literal[True] | None, options: dict[str, Any]
    ) -> types.EmptyResult:
        text = uri_text(uri)
        return await self._subscriptions.change(
            Resource(text),
            wanted,
            lambda session: session.set_subscribed(uri, subscribed=wanted is not None, options=options),
            lambda invoke, began: self._run_operation(method, invoke, target=text, began=began),
        )

    @asynccontextmanager
    async def watch(
        self,
        resources: Iterable[Any] = (),
        *,
        tools: bool = False,
        prompts: bool = False,
        resource_list: bool = False,
    ) -> AsyncIterator[AsyncIterator[Change]]:
        """Watch resources and lists for changes, across reconnects; for servers of every protocol version.

            async with client.watch(["file:///notes.txt"]) as changes:
                async for change in changes:
                    notes = await client.read_resource(change.uri)

        A change means that something should be read again. After each gap in the connection, or in the server's
        notification stream, each watched item gets one with `missed=True`, because some changes may have been missed.
        Changes of the same item collapse until they are read. Iteration ends when the client is closed. Entering waits
        for the server's acknowledgement, unless there is no server: the watch then begins once the server is back.

        Args:
            resources: URIs of resources.
            tools: Whether to watch the list of tools.
            prompts: Whether to watch the list of prompts.
            resource_list: Whether to watch the list of resources.

        Raises:
            ResilienceError: The server does not declare a capability that this needs.
            MCPError: The server refused.
            ServerUnavailable: The client was not started, or is closed.
            ValueError: No resource or list was given.
        """
        watcher = Watcher(resources, tools=tools, prompts=prompts, resource_list=resource_list)
        if self.state in {State.IDLE, State.CLOSED}:
            raise self._supervisor.unavailable(operation="watch")
        async with self._subscriptions.watching(watcher):
            yield watcher

    # --- prompts and completion ---

    async def list_prompts(
        self, cursor: str | None = None, *, params: types.PaginatedRequestParams | None = None, **options: Any
    ) -> types.ListPromptsResult:
        """List one page of the server's prompts."""
        return cast("types.ListPromptsResult", await self._list("list_prompts", cursor, params, options))

    async def get_prompt(
        self, name: str, arguments: dict[str, str] | None = None, **options: Any
    ) -> types.GetPromptResult:
        """Get a prompt."""
        return cast(
            "types.GetPromptResult",
            await self._run_operation(
                "prompts/get", lambda session, _: session.get_prompt(name, arguments, options), target=name
            ),
        )

    async def complete(
        self,
        ref: types.ResourceTemplateReference | types.PromptReference,
        argument: dict[str, str],
        context_arguments: dict[str, str] | None = None,
    ) -> types.CompleteResult:
        """Complete an argument of a prompt or a resource template."""
        return cast(
            "types.CompleteResult",
            await self._simple("completion/complete", "complete", ref, argument, context_arguments),
        )

    # --- the rest of the protocol ---

    async def send_ping(self, **options: Any) -> types.EmptyResult:
        """Ping the server (up to 2025-11-25)."""
        return cast("types.EmptyResult", await self._simple("ping", "send_ping", **options))

    async def set_logging_level(self, level: types.LoggingLevel, **options: Any) -> types.EmptyResult:
        """Request log messages from `level` upwards, on this connection and all later ones.

        The level is kept as `subscribe_resource` keeps a subscription.
        """
        return await self._subscriptions.change(
            LogLevel(),
            level,
            lambda session: session.invoke("set_logging_level", level, **options),
            lambda invoke, began: self._run_operation("logging/setLevel", invoke, began=began),
        )

    async def send_progress_notification(
        self,
        progress_token: str | int,
        progress: float,
        total: float | None = None,
        message: str | None = None,
        **options: Any,
    ) -> None:
        """Report progress to the server."""
        await self._simple(
            "notifications/progress",
            "send_progress_notification",
            progress_token,
            progress,
            total,
            message,
            **options,
        )

    async def send_roots_list_changed(self) -> None:
        """Notify the server that the roots changed."""
        await self._simple("notifications/roots/list_changed", "send_roots_list_changed")

    async def send_request(
        self,
        request: Any,
        result_type: Any,
        request_read_timeout_seconds: Timeout = None,
        metadata: Any = None,
        progress_callback: Any = None,
    ) -> Any:
        """Send any request, as on `ClientSession`. Everything but `tools/call` counts as repeatable.

        Args:
            request: The request, in the SDK's types.
            result_type: The type of its result.
            request_read_timeout_seconds: The time limit of one attempt, instead of the policy's.
            metadata: As on the SDK's `send_request`.
            progress_callback: As on `call_tool`.
        """
        body = getattr(request, "root", request)
        target = getattr(body.params, "name", None) if body.method == "tools/call" else None
        return await self._run_operation(
            body.method,
            lambda session, progress: session.raw.send_request(
                request, result_type, metadata=metadata, progress_callback=progress
            ),
            target=target,
            timeout=request_read_timeout_seconds,
            progress=progress_callback,
        )

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, progress_callback: Any = None
    ) -> dict[str, Any]:
        """Send a raw request and return its raw result: nothing is validated or left out.

        Args:
            method: The JSON-RPC method. Everything but `tools/call` counts as repeatable.
            params: Its params, as JSON.
            progress_callback: As on `call_tool`.

        Raises:
            ResilienceError: As for `call_tool`.
            MCPError: The server's own error.
        """
        key = "uri" if method.startswith("resources/") else "name"
        target = (params or {}).get(key) if method in _TARGETED else None
        arguments = (params or {}).get("arguments")
        operation = self._operation(
            method,
            lambda session, progress: session.request(method, params, progress),
            target=target if isinstance(target, str) else None,
            progress=progress_callback,
            arguments=arguments,
        )
        if operation.tool is None:
            return as_json(await self._degrade.run(operation))
        arguments = arguments if isinstance(arguments, dict) else None
        return as_json(await self._degrade.call_tool(operation, operation.tool, arguments))

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a raw notification."""
        await self._run_operation(method, lambda session, _: session.notify(method, params))

    # --- specific to one major version of the SDK ---

    @property
    def experimental(self) -> Any:
        """The SDK's experimental tasks (mcp 1.x), whose requests are sent by this client.

        Raises:
            RuntimeError: The SDK is not 1.x.
        """
        return experimental_features(self)

    def add_response_router(self, router: Any) -> None:
        """Let `router` see responses first, on this connection and all later ones (mcp 1.x).

        Raises:
            RuntimeError: The SDK is not 1.x.
        """
        needs_1("add_response_router()")
        self._routers.append(router)
        if (connection := self._supervisor.connection) is not None:
            connection.session.raw.add_response_router(router)

    async def send_discover(self, version: str) -> dict[str, Any]:
        """Send one `server/discover` at `version` and return its raw result (mcp 2.x). Negotiates nothing.

        Raises:
            RuntimeError: The SDK is 1.x.
        """
        needs_2("send_discover()")
        return cast("dict[str, Any]", await self._simple("server/discover", "send_discover", version))

    async def dispatch_input_request(self, ctx: Any, request: Any) -> Any:
        """Answer a server's input request with this client's callbacks, as on `ClientSession` (mcp 2.x).

        Raises:
            RuntimeError: The SDK is 1.x.
        """
        needs_2("dispatch_input_request()")
        return await (await self._connected()).raw.dispatch_input_request(ctx, request)

    async def validate_tool_result(self, name: str, result: types.CallToolResult) -> None:
        """Check a result against the tool's output schema, as on `ClientSession` (mcp 2.x).

        Raises:
            RuntimeError: The result does not conform, or the SDK is 1.x.
        """
        needs_2("validate_tool_result()")
        await self._simple(LISTS["list_tools"], "validate_tool_result", name, result)

    def as_transport(self) -> BridgeTransport:
        """Return a transport to an MCP server in front of this client.

        For frameworks that build the session themselves: `mcp.Client(client.as_transport())`, or
        `async with client.as_transport() as (read, write), ClientSession(read, write) as session`. A client that was
        not started is started by the session's `initialize`, with the session's callbacks unless it has its own for
        sampling, elicitation or roots, and is closed with the session.
        """
        from .bridge import BridgeTransport  # noqa: PLC0415 - bridge imports this module

        return BridgeTransport(self)

    async def send_notification(self, notification: Any, *args: Any, **options: Any) -> None:
        """Send any notification, as on `ClientSession`."""
        body = getattr(notification, "root", notification)
        await self._run_operation(
            body.method, lambda session, _: session.raw.send_notification(notification, *args, **options)
        )

    @asynccontextmanager
    async def listen(self, **filters: Any) -> AsyncIterator[Any]:
        """Open a stream of change events, as on `mcp.Client` (mcp 2.x, servers at 2026-07-28), across reconnects.

        A stream that breaks is reopened and then yields one event for each item listened for, because some changes may
        have been missed. It ends when the client is closed.

        Args:
            **filters: `tools_list_changed`, `prompts_list_changed`, `resources_list_changed` and
                `resource_subscriptions`, as on `mcp.Client`.

        Raises:
            MCPError: The server refused.
            ServerUnavailable: There is no server, or it did not acknowledge in time.
            RuntimeError: The SDK is 1.x, or the server predates 2026-07-28.
        """
        connection = await self._supervisor.lend(anyio.current_time() + self.policy.timeout.ready)
        if connection.session.is_legacy:
            async with open_listen(connection.session, **filters) as refused:  # raises as the SDK does
                yield refused
            return
        watcher = ListenWatcher.from_filters(**filters)
        async with self._subscriptions.watching(watcher):
            yield watcher


def _seconds(what: str, value: Timeout) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"{what} is {value!r}: pass a number of seconds, at least 0, or None for the policy's limit")
    return seconds
