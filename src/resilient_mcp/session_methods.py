"""The methods of the SDK's session, each of which sends one request."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar, cast

import anyio
from mcp import types
from pydantic import TypeAdapter

from ._sdk.installed import experimental_features, needs_1, needs_2
from ._sdk.options import default_option
from ._sdk.requests import (
    CallTool,
    GetPrompt,
    JsonNotification,
    JsonRequest,
    ListPage,
    ReadResource,
    Request,
    SdkNotification,
    SdkRequest,
    SessionMethod,
    SetSubscribed,
)
from ._sdk.results import LISTS, as_json, wire_uri
from ._sdk.session import Progress, Session, open_listen
from .calls.fallbacks import Fallbacks
from .calls.operation import Operation
from .connection.supervisor import Supervisor
from .event_loop import loop_time
from .events import State
from .policy import Policy
from .session_view import SessionView
from .subscriptions.ledger import LogLevel, Resource, Value
from .subscriptions.subscriptions import Subscriptions
from .subscriptions.watcher import Change, ListenWatcher, Watcher
from .text.redact import Redactor

T = TypeVar("T")

Timeout: TypeAlias = float | timedelta | None
"""A time limit in seconds or as a `timedelta`; None for the default."""


class _Given:
    """A client attribute: the value passed for an SDK session option, or the SDK's default."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self._default = default_option(name)

    def __get__(self, client: SessionMethods | None, owner: type) -> Any:
        return self._default if client is None else client._given.get(self._name, self._default)  # noqa: SLF001


class SessionMethods(ABC):
    """The protocol's methods, with the names, arguments and result types of the installed SDK's `ClientSession`.

    Each turns its arguments into a request, and that into an operation, which `Fallbacks` runs to its end.
    """

    name: str
    policy: Policy
    _fallbacks: Fallbacks
    _given: Mapping[str, Any]
    _redactor: Redactor
    _routers: list[Any]
    _subscriptions: Subscriptions
    _supervisor: Supervisor
    _timeout: float | None

    @property
    @abstractmethod
    def state(self) -> State:
        """The state of the connection."""

    @abstractmethod
    async def wait_ready(self, timeout: Timeout = None) -> None:
        """Wait until the server is ready."""

    # --- from a request to its result ---

    def _operation(
        self,
        request: Request[T],
        *,
        timeout: Timeout = None,
        progress: Progress | None = None,
        began: float | None = None,
    ) -> Operation[T]:
        self._check_home()
        limit = self._timeout if timeout is None else seconds("read_timeout_seconds", timeout)
        return Operation(request, limit, progress, self._redactor.line, loop_time() if began is None else began)

    def _check_home(self) -> None:
        """Refuse a call from another event loop or a forked process; a client that was closed refuses calls anyway.

        Raises:
            RuntimeError: The client was started elsewhere.
        """
        home = self._supervisor.home
        if home is not None and self._supervisor.state is not State.CLOSED:
            home.check(self.name)

    async def _send(self, request: Request[T], **limits: Any) -> T:
        return await self._fallbacks.run(self._operation(request, **limits))

    async def _list(self, request: ListPage[T]) -> T:
        key = (request.name, request.cursor or getattr(request.params, "cursor", None))
        return await self._fallbacks.read(self._operation(request), None if request.options else key)

    async def _change(
        self, key: Resource | LogLevel, value: Value | None, request: Request[types.EmptyResult]
    ) -> types.EmptyResult:
        async def run(recorded: Request[types.EmptyResult], began: float) -> types.EmptyResult:
            return await self._send(recorded, began=began)

        self._check_home()
        return await self._subscriptions.change(key, value, request, run)

    @property
    def _session(self) -> Session | None:
        connection = self._supervisor.connection
        return connection.session if connection is not None else self._supervisor.last_session

    async def _connected(self) -> Session:
        await self.wait_ready()
        assert self._session is not None
        return self._session

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
        view: Any = SessionView  # for a type checker it is abstract, as most of its methods come from `__getattr__`
        return cast("SessionView", view(self))

    # --- what was negotiated ---

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
        progress_callback: Progress | None = None,
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
        request = CallTool(name, arguments, options)
        operation = self._operation(request, timeout=read_timeout_seconds, progress=progress_callback)
        return await self._fallbacks.call_tool(operation, name, arguments)

    async def list_tools(
        self, cursor: str | None = None, *, params: types.PaginatedRequestParams | None = None, **options: Any
    ) -> types.ListToolsResult:
        """List one page of the server's tools; `cursor` or `params` for the next, `options` as on the SDK's."""
        return await self._list(ListPage[types.ListToolsResult]("list_tools", cursor, params, options))

    # --- resources ---

    async def list_resources(
        self, cursor: str | None = None, *, params: types.PaginatedRequestParams | None = None, **options: Any
    ) -> types.ListResourcesResult:
        """List one page of the server's resources."""
        return await self._list(ListPage[types.ListResourcesResult]("list_resources", cursor, params, options))

    async def list_resource_templates(
        self, cursor: str | None = None, *, params: types.PaginatedRequestParams | None = None, **options: Any
    ) -> types.ListResourceTemplatesResult:
        """List one page of the server's resource templates."""
        return await self._list(
            ListPage[types.ListResourceTemplatesResult]("list_resource_templates", cursor, params, options)
        )

    async def read_resource(self, uri: Any, **options: Any) -> types.ReadResourceResult:
        """Read a resource; `uri` is a string or an `AnyUrl`."""
        key = None if options else ("read_resource", str(uri))
        return await self._fallbacks.read(self._operation(ReadResource(uri, options)), key)

    async def subscribe_resource(self, uri: Any, **options: Any) -> types.EmptyResult:
        """Subscribe to updates of a resource (servers up to 2025-11-25), on this connection and all later ones.

        The subscription is kept from this call until `unsubscribe_resource`, even if this raises because the server is
        not available: it then takes effect once the server is back. Only a refusal by the server itself ends it. After
        a reconnect, `message_handler` gets one update of the resource, because some may have been missed.

        Raises:
            ServerUnavailable: There is no server; the subscription is kept.
            MCPError: The server refused; the subscription is dropped.
        """
        return await self._change(Resource(wire_uri(uri)), True, SetSubscribed(uri, subscribed=True, options=options))

    async def unsubscribe_resource(self, uri: Any, **options: Any) -> types.EmptyResult:
        """End a subscription; returns immediately while there is no server or the circuit is open."""
        return await self._change(Resource(wire_uri(uri)), None, SetSubscribed(uri, subscribed=False, options=options))

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
        self._check_home()
        async with self._subscriptions.watching(watcher):
            yield watcher

    # --- prompts and completion ---

    async def list_prompts(
        self, cursor: str | None = None, *, params: types.PaginatedRequestParams | None = None, **options: Any
    ) -> types.ListPromptsResult:
        """List one page of the server's prompts."""
        return await self._list(ListPage[types.ListPromptsResult]("list_prompts", cursor, params, options))

    async def get_prompt(
        self, name: str, arguments: dict[str, str] | None = None, **options: Any
    ) -> types.GetPromptResult:
        """Get a prompt."""
        return await self._send(GetPrompt(name, arguments, options))

    async def complete(
        self,
        ref: types.ResourceTemplateReference | types.PromptReference,
        argument: dict[str, str],
        context_arguments: dict[str, str] | None = None,
    ) -> types.CompleteResult:
        """Complete an argument of a prompt or a resource template."""
        args = (ref, argument, context_arguments)
        return await self._send(SessionMethod[types.CompleteResult]("completion/complete", "complete", args))

    # --- the rest of the protocol ---

    async def send_ping(self, **options: Any) -> types.EmptyResult:
        """Ping the server (up to 2025-11-25)."""
        return await self._send(SessionMethod[types.EmptyResult]("ping", "send_ping", options=options))

    async def set_logging_level(self, level: types.LoggingLevel, **options: Any) -> types.EmptyResult:
        """Request log messages from `level` upwards, on this connection and all later ones.

        The level is kept as `subscribe_resource` keeps a subscription.
        """
        request: Request[types.EmptyResult] = SessionMethod("logging/setLevel", "set_logging_level", (level,), options)
        return await self._change(LogLevel(), level, request)

    async def send_progress_notification(
        self,
        progress_token: str | int,
        progress: float,
        total: float | None = None,
        message: str | None = None,
        **options: Any,
    ) -> None:
        """Report progress to the server."""
        args = (progress_token, progress, total, message)
        await self._send(SessionMethod[None]("notifications/progress", "send_progress_notification", args, options))

    async def send_roots_list_changed(self) -> None:
        """Notify the server that the roots changed."""
        await self._send(SessionMethod[None]("notifications/roots/list_changed", "send_roots_list_changed"))

    async def send_request(
        self,
        request: Any,
        result_type: type[T] | TypeAdapter[T],
        request_read_timeout_seconds: Timeout = None,
        metadata: Any = None,
        progress_callback: Progress | None = None,
    ) -> T:
        """Send any request, as on `ClientSession`. Everything but `tools/call` counts as repeatable.

        Args:
            request: The request, in the SDK's types.
            result_type: The type of its result; on mcp 2.x also a `TypeAdapter`.
            request_read_timeout_seconds: The time limit of one attempt, instead of the policy's.
            metadata: As on the SDK's `send_request`.
            progress_callback: As on `call_tool`.
        """
        return await self._send(
            SdkRequest(request, result_type, metadata), timeout=request_read_timeout_seconds, progress=progress_callback
        )

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, progress_callback: Progress | None = None
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
        operation = self._operation(JsonRequest(method, params), progress=progress_callback)
        if operation.tool is None:
            return as_json(await self._fallbacks.run(operation))
        arguments = operation.arguments if isinstance(operation.arguments, dict) else None
        return as_json(await self._fallbacks.call_tool(operation, operation.tool, arguments))

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a raw notification."""
        await self._send(JsonNotification(method, params))

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
        return await self._send(SessionMethod[dict[str, Any]]("server/discover", "send_discover", (version,)))

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
        await self._send(SessionMethod[None](LISTS["list_tools"], "validate_tool_result", (name, result)))

    async def send_notification(self, notification: Any, *args: Any, **options: Any) -> None:
        """Send any notification, as on `ClientSession`."""
        await self._send(SdkNotification(notification, args, options))

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
        self._check_home()
        connection = await self._supervisor.wait_ready(anyio.current_time() + self.policy.timeout.ready)
        if connection.session.is_legacy:
            async with open_listen(connection.session, **filters) as refused:  # raises as the SDK does
                yield refused
            return
        watcher = ListenWatcher.from_filters(**filters)
        async with self._subscriptions.watching(watcher):
            yield watcher


def seconds(what: str, value: Timeout) -> float | None:
    """A time limit in seconds; `what` names it in errors.

    Raises:
        ValueError: It is negative, or not a number.
    """
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"{what} is {value!r}: pass a number of seconds, at least 0, or None for the policy's limit")
    return seconds
