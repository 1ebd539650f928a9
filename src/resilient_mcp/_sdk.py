"""The only module that knows which major version of mcp is installed.

It gives the rest of the house one spelling: one error class, one session object, one way to read and write a JSON-RPC
message. What differs between 1.x and 2.x (names, field spelling, units, era negotiation) ends here.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import MISSING, fields, replace
from datetime import timedelta
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_args
from urllib.request import getproxies

import anyio
import anyio.abc
import mcp
from jsonschema.exceptions import ValidationError
from jsonschema.validators import validator_for
from mcp import ClientSession, StdioServerParameters, types
from mcp.client import session_group as _session_group
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import Server
from mcp.shared._httpx_utils import create_mcp_http_client, next_request_within_origin
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from pydantic import AnyUrl, PrivateAttr
from referencing import Registry
from typing_extensions import Self

from .evidence import current_attempt, printable
from .waits import Signal

logger = logging.getLogger("resilient_mcp")

VERSION = version("mcp")
MAJOR = int(VERSION.split(".", 1)[0])

StreamableHttpParameters: Any = _session_group.StreamableHttpParameters
SseServerParameters: Any = _session_group.SseServerParameters

_mcp: Any = mcp
_types: Any = types

http: Any
"""The HTTP library the installed SDK speaks: httpx on 1.x, httpx2 on 2.x. Both have the same shape."""
MCPError: Any
"""The installed SDK's error class."""
HighLevelServer: Any
"""The installed SDK's high-level server class: `FastMCP` on 1.x, `MCPServer` on 2.x."""

if MAJOR == 1:
    http = import_module("httpx")
    MCPError = import_module("mcp.shared.exceptions").McpError
    HighLevelServer = import_module("mcp.server.fastmcp").FastMCP
else:
    http = import_module("httpx2")
    MCPError = _mcp.MCPError
    HighLevelServer = import_module("mcp.server.mcpserver").MCPServer

if TYPE_CHECKING:
    _ErrorBase: TypeAlias = Exception
else:
    _ErrorBase = MCPError

Streams: TypeAlias = tuple[Any, Any]
TransportFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[tuple[Any, ...]]]

INTERNAL_ERROR = -32603
CONNECTION_CLOSED = -32000
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
UNSUPPORTED_PROTOCOL_VERSION = -32022
REQUEST_TIMEOUT = 408 if MAJOR == 1 else -32001
"""The code the installed SDK gives its own request timeout."""


class ErrorBase(_ErrorBase):
    """The installed SDK's error, built and read the same way on both majors.

    Attributes:
        error: The SDK's `ErrorData`.
    """

    error: Any

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        if MAJOR == 1:
            cast("Any", super()).__init__(types.ErrorData(code=code, message=message, data=data))
        else:
            cast("Any", super()).__init__(code, message, data)

    @property
    def code(self) -> int:
        """The JSON-RPC error code the installed SDK would use."""
        return cast("int", self.error.code)

    @property
    def message(self) -> str:
        """The message, never empty."""
        return cast("str", self.error.message)

    @property
    def data(self) -> Any:
        """The error's `data`, or None."""
        return self.error.data

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied by its attributes: the subclasses take keyword arguments, which pickle does not give."""
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[ErrorBase], args: tuple[Any, ...]) -> ErrorBase:
    error = kind.__new__(kind)
    error.args = args
    return error


class UnencodableError(ValueError):
    """What a caller gave cannot be sent as JSON.

    Attributes:
        path: Where it is in the message, such as `$.params.arguments.text`.
        reason: What is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def error(code: int, message: str, data: Any = None) -> Exception:
    """An error as the installed SDK raises a server's."""
    return cast(
        "Exception",
        MCPError(types.ErrorData(code=code, message=message, data=data))
        if MAJOR == 1
        else MCPError(code, message, data),
    )


def implementation(value: Mapping[str, Any]) -> types.Implementation:
    """A client's or server's name and version, from JSON."""
    return types.Implementation.model_validate(value)


def error_result(text: str) -> types.CallToolResult:
    """A tool result that carries `text` for a model to read, with `isError` set."""
    content = types.TextContent(type="text", text=text)
    return types.CallToolResult.model_validate({"content": [content], "isError": True})


def with_text_before(result: Any, text: str) -> Any:
    """A copy of a tool result whose first content is `text`."""
    content = [types.TextContent(type="text", text=text), *result.content]
    return result.model_copy(update={"content": content})


_IS_ERROR = "isError" if MAJOR == 1 else "is_error"  # a name that a result does not have costs 2 µs to look up


def is_error_result(result: object) -> bool:
    """Whether `result` is a tool result with `isError` set."""
    return bool(getattr(result, _IS_ERROR, False))


def structured_content(result: Any) -> Any:
    """The structured content of a tool result, or None."""
    return result.structuredContent if MAJOR == 1 else result.structured_content


def is_local_timeout(error: object) -> bool:
    """Whether an error has the code of the SDK's own request timeout; a server may send the same."""
    return bool(getattr(getattr(error, "error", None), "code", None) == REQUEST_TIMEOUT)


def is_connection_closed(error: object) -> bool:
    """Whether an error is what the SDK gives the waiters of a session that ended; a server may send the same."""
    data = getattr(error, "error", None)
    return getattr(data, "code", None) == CONNECTION_CLOSED and getattr(data, "message", "") == "Connection closed"


# --- JSON-RPC messages -----------------------------------------------------------------------------------------------


def _body(item: SessionMessage) -> Any:
    """The JSON-RPC message itself; 1.x wraps it."""
    message: Any = item.message
    return message.root if MAJOR == 1 else message


_RESPONSES = (_types.JSONRPCResponse, _types.JSONRPCError)  # to ask a model for what it has not takes 2 µs each time


def describe(item: SessionMessage) -> tuple[str | None, Any]:
    """The (method, id) of an outgoing message; either is None when it has none."""
    message = _body(item)
    return getattr(message, "method", None), getattr(message, "id", None)


def add_meta(item: SessionMessage, meta: Mapping[str, object] | None) -> None:
    """Let an outgoing request carry `meta` in its `_meta`, beside what the caller put there."""
    if meta:
        message = _body(item)
        params = dict(message.params or {})
        params["_meta"] = {**(params.get("_meta") or {}), **meta}
        message.params = params


def declare(item: SessionMessage, capabilities: Mapping[str, Any]) -> None:
    """Let an outgoing `initialize` declare `capabilities`, as they are."""
    message = _body(item)
    message.params = {**(message.params or {}), "capabilities": capabilities}


def cancelled_id(item: SessionMessage) -> Any:
    """The request id that an outgoing `notifications/cancelled` names."""
    message = _body(item)
    return (message.params or {}).get("requestId")


def response_id(item: SessionMessage) -> Any:
    """The id of an incoming response or error, None for anything else."""
    message = _body(item)
    return message.id if isinstance(message, _RESPONSES) else None


def clean_error(item: SessionMessage, clean: Callable[[Any], Any]) -> None:
    """Pass the message and the data of an incoming error response through `clean`; anything else is left as it is."""
    message = _body(item)
    if isinstance(message, _types.JSONRPCError):
        error = message.error
        error.message = clean(error.message)
        if error.data is not None:
            error.data = clean(error.data)


def encode(item: SessionMessage) -> bytes:
    """One outgoing message as one line of JSON, without the newline.

    Raises:
        UnencodableError: It has no JSON.
    """
    unset = MAJOR != 1
    try:
        return item.message.model_dump_json(by_alias=True, exclude_none=not unset, exclude_unset=unset).encode()
    except ValueError as exc:
        raise _unencodable(message_as_json(item)) or UnencodableError("$", str(exc)) from exc


def _unencodable(value: Any, path: str = "$") -> UnencodableError | None:
    """The first text in `value` that is not Unicode: models cut emoji in half."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            half = f"{value[exc.start]!r} is half of a surrogate pair: write the whole character, or leave it out"
            return UnencodableError(path, half)
    elif isinstance(value, dict):
        for key, item in value.items():
            if (found := _unencodable(key, path) or _unencodable(item, f"{path}.{key}")) is not None:
                return found
    elif isinstance(value, list):
        for n, item in enumerate(value):
            if (found := _unencodable(item, f"{path}[{n}]")) is not None:
                return found
    return None


def decode(line: bytes | str) -> SessionMessage:
    """One incoming line as a message.

    Responses are tried first: they are what mostly comes and what may be large, and the union copies for every member.

    Raises:
        ValueError: It is not a JSON-RPC message.
    """
    try:
        response = _types.JSONRPCResponse.model_validate_json(line)
    except ValueError:
        if MAJOR == 1:
            return SessionMessage(_types.JSONRPCMessage.model_validate_json(line))
        return SessionMessage(_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    return SessionMessage(_types.JSONRPCMessage.model_construct(root=response) if MAJOR == 1 else response)


def error_message(request_id: Any, code: int, text: str) -> SessionMessage:
    """An error response to `request_id`, as if it had come from the wire."""
    error = _types.JSONRPCError(jsonrpc="2.0", id=request_id, error=types.ErrorData(code=code, message=text, data=None))
    return SessionMessage(_types.JSONRPCMessage(error) if MAJOR == 1 else error)


# --- Transports of the SDK -------------------------------------------------------------------------------------------


def seconds(value: Any) -> float:
    """A duration in seconds; 1.x spells some of them as `timedelta`."""
    return float(value.total_seconds() if hasattr(value, "total_seconds") else value)


def timeout_argument(value: float) -> Any:
    """`value` seconds as the installed SDK takes a read timeout."""
    return timedelta(seconds=value) if MAJOR == 1 else value


def is_in_process_server(server: object) -> bool:
    """Whether `server` is an SDK server object that runs in this process."""
    return isinstance(server, Server | HighLevelServer)


def create_http_client(headers: Mapping[str, Any] | None, *, connect: float, read: float | None) -> Any:
    """An HTTP client of the installed SDK's library, without a bound of its own on how many calls wait at once.

    Its connections find out by themselves that nobody is there any more: a stream on which only the server speaks would
    otherwise wait for ever. Behind a proxy of the environment, which the library then has to find, that is the proxy's
    business.
    """
    timeout = http.Timeout(connect, read=read, pool=None)
    trusted = _trust(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    options = {"limits": http.Limits(max_connections=None, max_keepalive_connections=20), "verify": trusted}
    if not {"http", "https", "all"} & getproxies().keys():
        options = {"transport": http.AsyncHTTPTransport(**options, socket_options=KEEPALIVE)}
    return http.AsyncClient(headers=dict(headers or {}), timeout=timeout, **options)


def _keepalive() -> list[tuple[int, int, int]]:
    wanted = {
        "TCP_KEEPIDLE": 30,  # seconds of silence before it is asked
        "TCP_KEEPALIVE": 30,  # the same on macOS
        "TCP_KEEPINTVL": 10,
        "TCP_KEEPCNT": 3,
    }
    known = {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *((socket.IPPROTO_TCP, *option) for option in known.items())]


KEEPALIVE = _keepalive()
"""Socket options by which the operating system notices within a minute that the other end is gone without a word.

Asking also keeps routers from forgetting a connection on which nothing is said.
"""


@lru_cache(maxsize=8)
def _trust(*_where: str | None) -> Any:
    """The HTTP library's own TLS settings under these environment variables, which it reads.

    They are shared: its own would cost each client 800 KiB and 25 ms, and every generation has a new client.
    """
    return http.create_ssl_context()


@asynccontextmanager
async def streamable_http(parameters: Any, client: Any) -> AsyncIterator[Streams]:
    """The SDK's Streamable HTTP transport over `client`; `parameters` are `StreamableHttpParameters`."""
    options: dict[str, Any] = {"terminate_on_close": parameters.terminate_on_close}
    if MAJOR != 1:
        options["max_sse_event_size"] = None  # the edge below has the bound (`Policy.max_message_bytes`)
    async with streamable_http_client(parameters.url, http_client=client, **options) as streams:
        yield streams[0], streams[1]


def sse(parameters: Any, wrap: Callable[[Any], Any]) -> AbstractAsyncContextManager[Streams]:
    """The SDK's HTTP+SSE transport (2024-11-05), its HTTP client passed through `wrap`."""

    def factory(headers: Any = None, timeout: Any = None, auth: Any = None) -> Any:
        return wrap(create_mcp_http_client(headers=headers, timeout=timeout, auth=auth))

    return cast(
        "AbstractAsyncContextManager[Streams]",
        sse_client(
            parameters.url,
            headers=parameters.headers,
            timeout=seconds(parameters.timeout),
            sse_read_timeout=seconds(parameters.sse_read_timeout),
            httpx_client_factory=factory,
        ),
    )


DIRECT_IN_PROCESS = MAJOR != 1
"""Whether `Session.open` takes an in-process server as it is, and calls it without a wire between."""


@asynccontextmanager
async def in_process(server: Any) -> AsyncIterator[Streams]:
    """Memory streams to an SDK server of 1.x that runs in this process."""
    lowlevel = getattr(server, "_mcp_server", server)
    async with (
        create_client_server_memory_streams() as (client_streams, server_streams),
        anyio.create_task_group() as tg,
    ):
        tg.start_soon(lowlevel.run, *server_streams, lowlevel.create_initialization_options())
        try:
            yield client_streams
        finally:
            tg.cancel_scope.cancel()


POSTS_ONE_BY_ONE = MAJOR == 1
"""Whether a request must have reached the HTTP client before the next may be written.

1.x starts each POST in a task that reads the loop variable of its writer only when it first runs. On trio, which starts
tasks in random order, the writer may be ahead by then: one request is never sent, and the next one twice.
"""

follow = next_request_within_origin
"""The request that follows a redirect the SDK would follow, or None (same origin, same method)."""


# --- The session -----------------------------------------------------------------------------------------------------

_CALLBACKS = (
    "sampling_callback",
    "elicitation_callback",
    "list_roots_callback",
    "logging_callback",
    "message_handler",
    "client_info",
)
_SESSION_CLASS: Any = ClientSession if MAJOR == 1 else _mcp.Client
SESSION_OPTIONS = frozenset(inspect.signature(_SESSION_CLASS).parameters) - {
    "read_stream",
    "write_stream",
    "server",
    "dispatcher",
    "read_timeout_seconds",
    *_CALLBACKS,
}
if MAJOR != 1:  # for what `mcp.Client` takes extensions
    SESSION_OPTIONS |= {"result_claims", "notification_bindings"}
"""What `ResilientClient(**session_options)` may hand on to the installed SDK's session."""

_OPTION_TYPES: dict[str, Any] = {
    "client_info": types.Implementation,
    "sampling_capabilities": types.SamplingCapability,
    "raise_exceptions": bool,
    "input_required_max_rounds": int,
    "prior_discover": getattr(types, "DiscoverResult", None),
    "experimental_task_handlers": MAJOR == 1
    and import_module("mcp.client.experimental.task_handlers").ExperimentalTaskHandlers,
    "extensions": (Sequence, Mapping),
}


def check_options(server: Any, options: Mapping[str, Any]) -> None:
    """Refuse what the installed SDK's session would refuse when it connects, or choke on later.

    Args:
        server: What the client was given; a URL identifies a shared cache.
        options: Callbacks and options.

    Raises:
        TypeError: One is of the wrong type.
        ValueError: One has an impossible value.
    """
    for name, value in options.items():
        if value is None:
            continue
        if (wanted := _OPTION_TYPES.get(name)) and not isinstance(value, wanted):
            kind = getattr(wanted, "__name__", "sequence of ClientExtension")
            raise TypeError(f"{name} is {printable(repr(value), 100)}: pass a {kind}")
        if name.endswith(("_callback", "_handler")) and not callable(value):
            raise TypeError(f"{name} is {printable(repr(value), 100)}: pass a coroutine function")
        if name == "log_level" and value not in get_args(types.LoggingLevel):
            levels = ", ".join(map(repr, get_args(types.LoggingLevel)))
            raise ValueError(f"log_level is {printable(repr(value), 100)}: pass one of {levels}")
    if MAJOR != 1:
        _client_of(server.url if isinstance(server, StreamableHttpParameters) else nullcontext(), options)


def identified(cache: Any, server: Any) -> Any:
    """A cache configuration that names the server whose answers it keeps: its store may be shared."""
    if cache is None or cache.target_id is not None or not isinstance(server, StreamableHttpParameters):
        return cache
    url = http.URL(server.url).copy_with(userinfo=b"")
    return replace(cache, target_id=str(url))


def default_of(option: str) -> Any:
    """What the installed SDK takes for a session option that was not given; None where there is no such option."""
    if MAJOR == 1:
        return None  # the defaults of all that `ClientSession` takes
    declared = next((field for field in fields(_mcp.Client) if field.name == option), None)
    if declared is None:
        return None
    return declared.default if declared.default_factory is MISSING else declared.default_factory()


def _client_of(target: Any, options: Mapping[str, Any]) -> Any:
    """The `mcp.Client` of 2.x for these options, those of its `ClientSession` included.

    Raises:
        TypeError, ValueError: It refuses them.
    """
    options = dict(options)
    bindings = options.pop("notification_bindings", None)
    claims: Mapping[str, Any] = options.pop("result_claims", None) or {}
    extensions = options.get("extensions")
    if isinstance(extensions, Mapping) or claims:
        settings: Mapping[str, Any] = extensions if isinstance(extensions, Mapping) else {}
        if strangers := claims.keys() - settings.keys():
            raise ValueError(f"result_claims names {min(strangers)!r}, which extensions= does not: add it there")
        options["extensions"] = [_extension(name, said, claims.get(name, ())) for name, said in settings.items()]
    client = _mcp.Client(target, **options)
    if bindings:
        folded = client._folded_extensions  # noqa: SLF001 - the client takes bindings from extensions only
        client._folded_extensions = replace(folded, bindings=(*(folded.bindings or ()), *bindings))  # noqa: SLF001
    return client


def _extension(identifier: str, settings: Mapping[str, Any], claims: Sequence[Any]) -> Any:
    """What a `ClientSession` of 2.x is told of an extension, as `mcp.Client` wants it."""
    extension = import_module("mcp.client.extension").advertise(identifier, dict(settings))
    extension.claims = lambda: tuple(claims)
    return extension


def _undecorated(method: str) -> Callable[..., Awaitable[Any]]:
    """The SDK's method without its deprecation warning: which era it is for is this library's business."""
    return cast("Callable[..., Awaitable[Any]]", inspect.unwrap(getattr(ClientSession, method)))


LISTS = {
    "list_tools": "tools/list",
    "list_resources": "resources/list",
    "list_resource_templates": "resources/templates/list",
    "list_prompts": "prompts/list",
}
"""The SDK's list methods and their JSON-RPC methods."""


_LISTED: dict[str, tuple[str, str, Any]] = {
    "list_tools": ("tools", "tools", types.ListToolsResult),
    "list_resources": ("resources", "resources", types.ListResourcesResult),
    "list_resource_templates": ("resourceTemplates", "resources", types.ListResourceTemplatesResult),
    "list_prompts": ("prompts", "prompts", types.ListPromptsResult),
}
"""Per list method: the items' key on the wire, the server capability it needs, the result type."""


def capability_of(method: str) -> str:
    """The capability that a list method needs."""
    return _LISTED[method][1]


def listed(method: str, page: Any) -> list[Any]:
    """The items of one page of a list."""
    key = _LISTED[method][0]
    return cast(
        "list[Any]", page.resource_templates if MAJOR != 1 and key == "resourceTemplates" else getattr(page, key)
    )


def listing(method: str, items: list[Any], meta: Mapping[str, Any] | None) -> Any:
    """A list result with `items`, all on one page."""
    key, _, kind = _LISTED[method]
    return kind.model_validate({key: items, "_meta": meta})


class Session:
    """One negotiated session: an SDK `ClientSession`, on 2.x inside the `mcp.Client` that negotiated it.

    Use `Session.open`. Its methods are the operations on which the two majors differ; `raw` is the `ClientSession`, and
    `reader` runs its callbacks, on 1.x only.
    """

    def __init__(
        self,
        client: Any,
        raw: Any,
        result: Any,
        *,
        reader: _FreeReader | None = None,
        knows_capabilities: bool = True,
    ) -> None:
        self.client = client
        self.raw = raw
        self.initialize_result = result
        self.reader = reader
        self._knows_capabilities = knows_capabilities
        _keep_answers(raw)
        if MAJOR == 1:
            _outlive_callers(raw)

    @classmethod
    @asynccontextmanager
    async def open(cls, streams: Any, options: Mapping[str, Any], *, legacy: bool) -> AsyncIterator[Self]:
        """Negotiate a session over `streams`, a context manager of (read, write), or on 2.x an in-process server.

        Args:
            streams: The transport.
            options: Callbacks and options for the SDK's session.
            legacy: On 2.x, go straight to `initialize` (the era found at an earlier generation).
        """
        if MAJOR == 1:
            async with (
                streams as (read, write),
                ClientSession(read, write, **options) as raw,
                anyio.create_task_group() as beside,
            ):
                reader = _FreeReader(raw, beside)
                yield cls(raw, raw, await raw.initialize(), reader=reader)
                beside.cancel_scope.cancel()
            return
        options = {**options, "mode": "legacy"} if legacy else dict(options)
        pinned = options.get("mode", "auto") not in {"auto", "legacy"}
        async with _client_of(streams, options) as client:
            result = _as_initialize_result(client.session)
            known = not pinned or options.get("prior_discover") is not None
            yield cls(client, client.session, result, knows_capabilities=known)

    @property
    def protocol_version(self) -> str:
        """The negotiated protocol version."""
        if MAJOR == 1:
            return str(self.initialize_result.protocolVersion)
        return str(self.raw.protocol_version)

    @property
    def is_legacy(self) -> bool:
        """Whether the session was negotiated by `initialize` (2025-11-25 and before)."""
        return MAJOR == 1 or self.raw.initialize_result is not None

    @property
    def capabilities(self) -> Any:
        """The server's declared capabilities."""
        return self.initialize_result.capabilities

    def offers(self, path: str) -> bool:
        """Whether the server may offer a capability, such as `tools` or `resources.subscribe`.

        One whose protocol version was pinned was never asked what it declares: it may offer anything.
        """
        return not self._knows_capabilities or offers(self.capabilities, path)

    @property
    def raw_initialize_result(self) -> Any:
        """What `initialize` answered; None where the session was negotiated by `server/discover`."""
        return self.initialize_result if MAJOR == 1 else self.raw.initialize_result

    @property
    def server_info(self) -> Any:
        """The server's name and version, or None when it did not say."""
        return self.initialize_result.serverInfo if MAJOR == 1 else self.raw.server_info

    @property
    def instructions(self) -> str | None:
        """The server's instructions, if any."""
        return cast("str | None", self.initialize_result.instructions)

    async def list(self, method: str, cursor: str | None, params: Any, options: Mapping[str, Any]) -> Any:
        """One page of `list_tools`, `list_resources`, `list_resource_templates` or `list_prompts`."""
        if params is not None and cursor is not None:
            raise ValueError(f"{method}() takes cursor= or params=, not both")
        if MAJOR == 1:
            _refuse(method, options)
            if params is None and cursor is not None:
                params = types.PaginatedRequestParams(cursor=cursor)
            return await getattr(self.raw, method)(**({} if params is None else {"params": params}))
        if params is not None:
            return await getattr(self.raw, method)(params=params)
        return await getattr(self.client, method)(cursor=cursor, **options)

    async def call_tool(
        self, name: str, arguments: dict[str, Any] | None, progress: Any, options: Mapping[str, Any]
    ) -> Any:
        """`tools/call`. On 2.x, input-required rounds are driven unless the caller asked to see them."""
        raw = MAJOR == 1 or "allow_input_required" in options or "allow_claimed" in options
        session = self.raw if raw else self.client
        return await session.call_tool(name, arguments, progress_callback=progress, **options)

    async def read_resource(self, uri: Any, options: Mapping[str, Any]) -> Any:
        """`resources/read`; `uri` is a string or an `AnyUrl` on both majors."""
        if MAJOR == 1:
            _refuse("read_resource", options)
            return await self.raw.read_resource(uri)
        session = self.raw if "allow_input_required" in options else self.client
        return await session.read_resource(str(uri), **options)

    async def get_prompt(self, name: str, arguments: dict[str, str] | None, options: Mapping[str, Any]) -> Any:
        """`prompts/get`."""
        if MAJOR == 1:
            _refuse("get_prompt", options)
        session = self.raw if MAJOR == 1 or "allow_input_required" in options else self.client
        return await session.get_prompt(name, arguments, **options)

    async def invoke(self, method: str, *args: Any, **options: Any) -> Any:
        """Any other coroutine method of the SDK's session, by name, without deprecation warnings."""
        return await _undecorated(method)(self.raw, *args, **options)

    async def probe(self) -> None:
        """Ask for a sign of life: `ping` up to 2025-11-25, `server/discover` after."""
        if self.is_legacy:
            await self.invoke("send_ping")
        else:
            await self.raw.send_discover(self.protocol_version)

    async def set_subscribed(self, uri: Any, *, subscribed: bool, options: Mapping[str, Any]) -> Any:
        """`resources/subscribe` or `resources/unsubscribe`; `uri` is a string or an `AnyUrl` on both majors."""
        method = "subscribe_resource" if subscribed else "unsubscribe_resource"
        return await self.invoke(method, uri if MAJOR == 1 else str(uri), **options)

    async def request(self, method: str, params: Mapping[str, Any] | None, progress: Any) -> Any:
        """Any request, as it is on the wire; the result as it came, nothing validated or left out.

        On 2.x, where a server asks for input by its result (2026-07-28), the session's callbacks give it.
        """
        answered = await self._exchange(method, params, progress)
        for _ in range(_MAX_ROUNDS):
            if answered.get("resultType") != "input_required" or self.is_legacy:
                break
            responses = {
                key: await self._input(wanted) for key, wanted in (answered.get("inputRequests") or {}).items()
            }
            if not responses:
                await anyio.sleep(_ROUND_PAUSE)
            again = {"inputResponses": responses or None, "requestState": answered.get("requestState")}
            more = {key: value for key, value in again.items() if value is not None}
            answered = await self._exchange(method, {**(params or {}), **more}, progress)
        return ToolAnswer.of(answered) if method == "tools/call" else answered

    async def _exchange(self, method: str, params: Mapping[str, Any] | None, progress: Any) -> dict[str, Any]:
        """One request and its result, both as JSON."""
        data = _Json({"method": method, **({} if params is None else {"params": _copied(params)})})
        if MAJOR == 1:
            answered = await self.raw.send_request(data, _Json, progress_callback=progress)
        else:  # `send_request` drops what it does not know, and refuses what does not conform
            options: dict[str, Any] = {} if progress is None else {"on_progress": progress}
            self.raw._stamp(data, options)  # noqa: SLF001
            answered = await self.raw._dispatcher.send_raw_request(method, data.get("params"), options)  # noqa: SLF001
        return cast("dict[str, Any]", answered)

    async def _input(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """What the session's callbacks answer to one embedded request of the server."""
        request = _input_request(wanted)
        context = import_module("mcp.client.session").ClientRequestContext(session=self.raw, request_id="input")
        answered = await self.raw.dispatch_input_request(context, request)
        if isinstance(answered, types.ErrorData):
            raise MCPError.from_error_data(answered)
        return dump(answered)

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Any notification, as it is on the wire."""
        data = _Json({"method": method, **({} if params is None else {"params": _copied(params)})})
        await self.raw.send_notification(data)

    async def cancel(self, request_id: Any, reason: str) -> None:
        """Tell the server that nobody waits for `request_id` any more. 2.x does that by itself."""
        if MAJOR == 1:
            params = _types.CancelledNotificationParams(requestId=request_id, reason=reason)
            notification = _types.CancelledNotification(method="notifications/cancelled", params=params)
            await self.raw.send_notification(_types.ClientNotification(notification))


# --- What passes as it is on the wire -------------------------------------------------------------------------------

_MAX_ROUNDS = 10
"""Rounds of input that one request may take (the SDK's own limit)."""
_ROUND_PAUSE = 0.25
"""Seconds before the next round when a server only asks to be asked again."""


class _Json(dict[str, Any]):
    """JSON in the place of a pydantic model: what the SDK calls on its models gives the JSON itself."""

    name_param = None

    def model_dump(self, **_: object) -> dict[str, Any]:
        return self

    @staticmethod
    def model_validate(value: dict[str, Any], **_: object) -> dict[str, Any]:
        return value


def _copied(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with a `_meta` of its own, for the SDK writes into both."""
    copied = dict(params)
    if isinstance(copied.get("_meta"), dict):
        copied["_meta"] = dict(copied["_meta"])
    return copied


class ToolAnswer(types.CallToolResult):
    """A tool result that also keeps the JSON that it came as."""

    _json: dict[str, Any] = PrivateAttr(default_factory=dict)
    _owner: int = PrivateAttr(default=0)

    @classmethod
    def of(cls, answered: dict[str, Any]) -> ToolAnswer:
        """A result from its JSON; one that does not conform has no content but in its JSON."""
        try:
            result = cls.model_validate(answered)
        except ValueError:
            result = cls.model_validate({"content": [], "isError": answered.get("isError") is True})
        result.keep(answered)
        return result

    def keep(self, answered: dict[str, Any]) -> None:
        """Remember what it came as."""
        self._json, self._owner = answered, id(self)

    def as_it_came(self) -> dict[str, Any]:
        """The JSON; of a copy that was changed since, the JSON of what it is now."""
        return self._json if self._owner == id(self) else dump(self)


def dump(model: Any) -> dict[str, Any]:
    """A model of the SDK as JSON, the way the SDK sends it."""
    return cast("dict[str, Any]", model.model_dump(by_alias=True, mode="json", exclude_none=True))


def as_json(result: Any) -> dict[str, Any]:
    """A result as JSON: as it came if it came as JSON."""
    if isinstance(result, dict):
        return result
    return result.as_it_came() if isinstance(result, ToolAnswer) else dump(result)


def notification_as_json(message: Any) -> dict[str, Any] | None:
    """What a `message_handler` got as JSON: method and params; None when it is no notification."""
    body = getattr(message, "root", message)
    method = getattr(body, "method", None)
    return dump(body) if isinstance(method, str) and method.startswith("notifications/") else None


def message_as_json(item: SessionMessage) -> dict[str, Any]:
    """A JSON-RPC message of a stream as JSON."""
    unset = MAJOR != 1
    message = _body(item).model_dump(by_alias=True, mode="json", exclude_none=not unset, exclude_unset=unset)
    return cast("dict[str, Any]", message)


def message_from_json(message: dict[str, Any]) -> SessionMessage:
    """JSON as a JSON-RPC message for a stream.

    Raises:
        ValueError: It is none.
    """
    if MAJOR == 1:
        return SessionMessage(_types.JSONRPCMessage.model_validate(message))
    return SessionMessage(_types.jsonrpc_message_adapter.validate_python(message, by_name=False))


LEGACY_SESSION: dict[str, Any] = {} if MAJOR == 1 else {"mode": "legacy"}
"""Session options for a session negotiated by `initialize`."""
LATEST_LEGACY_VERSION = "2025-11-25"
"""The latest protocol version that is negotiated by `initialize`."""


def _input_request(wanted: Mapping[str, Any]) -> Any:
    kind = {
        "sampling/createMessage": _types.CreateMessageRequest,
        "elicitation/create": _types.ElicitRequest,
        "roots/list": _types.ListRootsRequest,
    }[str(wanted.get("method"))]
    return kind.model_validate(wanted)


class _Validators:
    """Compiled output schemas by tool: 1.x compiles and checks a schema anew for every result (1.6 ms a call)."""

    def __init__(self) -> None:
        self._compiled: dict[str, tuple[Any, Any]] = {}

    def accept(self, name: str, schema: Any, content: Any) -> bool:
        """Whether `content` surely conforms to `schema`; of the rest the SDK itself says what is wrong."""
        if schema is None or content is None:
            return False
        compiled, validator = self._compiled.get(name, (None, None))
        try:
            if compiled is not schema:
                kind = validator_for(schema)
                kind.check_schema(schema)
                validator = kind(schema, registry=Registry())
                self._compiled[name] = (schema, validator)
            return bool(cast("Any", validator).is_valid(content))
        except Exception:
            return False


_LISTING_PATIENCE = 1.0
"""Seconds that the first answers of a connection wait for the list of tools, which only their validation needs."""


def _listing_patience() -> float:
    """The same for the running attempt: never more than half of what it has left."""
    attempt = current_attempt.get()
    left = math.inf if attempt is None else attempt.scope.deadline - anyio.current_time()
    return min(_LISTING_PATIENCE, left / 2)


def _keep_answers(session: Any) -> None:
    """Let no answer be lost, replaced or held back by the listing that the SDK makes to validate it.

    The SDK lists the tools when a tool answers that it has not seen listed. If the listing fails or takes long, or the
    schema cannot be used, the answer is delivered unvalidated, for the tool has run. Only content that does not conform
    raises the SDK's `RuntimeError`. Each connection tries one listing, which all answers that come meanwhile wait for;
    later answers are validated once the catalog has listed.
    """
    method = "_validate_tool_result" if MAJOR == 1 else "validate_tool_result"
    validate = getattr(session, method)
    validators = _Validators()
    listing: anyio.Event | None = None
    listed = False

    async def list_once(name: str) -> None:
        nonlocal listing, listed
        if listing is not None:
            await listing.wait()
            return
        listing = anyio.Event()
        token = current_attempt.set(None)
        try:
            await session.list_tools()
            listed = True
        except Exception as exc:
            logger.debug("the answer of %s is not validated: %s", printable(name, 100), printable(str(exc)))
        finally:
            current_attempt.reset(token)
            listing.set()

    async def validate_if_possible(name: str, result: Any) -> None:
        if name not in session._tool_output_schemas:  # noqa: SLF001
            with anyio.move_on_after(_listing_patience()):
                await list_once(name)
        schemas: dict[str, Any] = session._tool_output_schemas  # noqa: SLF001
        if listed and name not in schemas:
            logger.warning("the server does not list the tool %s: its answer is not validated", printable(name, 100))
        if name not in schemas or (MAJOR == 1 and validators.accept(name, schemas[name], structured_content(result))):
            return
        try:
            await validate(name, result)
        except Exception as exc:
            why = exc.__cause__ or exc.__context__
            if isinstance(exc, RuntimeError) and (why is None or isinstance(why, ValidationError)):
                raise
            logger.debug("the answer of %s cannot be validated: %s", printable(name, 100), printable(str(exc)))

    setattr(session, method, validate_if_possible)


_CALLBACK_PATIENCE = 1.0
"""Seconds that an answer waits for the callbacks of what came before it."""
_in_callback: ContextVar[bool] = ContextVar("in_callback", default=False)
_WAITING_MESSAGES = 1000
"""Messages of a server that wait for callbacks of the user's that take their time; then the oldest are dropped."""


class _FreeReader:
    """Lets a session of 1.x run its callbacks beside its reader.

    1.x awaits them where it reads: while one of them takes its time no answer is read, and one that calls the client
    waits for itself. Requests of the server are answered side by side, and its notifications handled in order.
    """

    def __init__(self, session: Any, beside: anyio.abc.TaskGroup) -> None:
        self._session = session
        self._beside = beside
        self._answer, self._handle = session._received_request, session._handle_incoming  # noqa: SLF001
        self._note = session._received_notification  # noqa: SLF001
        self._answering: dict[int, Any] = {}
        self._put_count = self._done_count = 0
        self._waiting: deque[tuple[Callable[[Any], Awaitable[None]], Any]] = deque(maxlen=_WAITING_MESSAGES)
        self._arrived, self._done = Signal(), Signal()
        session._received_request = self._received_request  # noqa: SLF001
        session._received_notification = self._received_notification  # noqa: SLF001
        session._handle_incoming = self._handle_incoming  # noqa: SLF001
        beside.start_soon(self._deliver)

    async def _received_request(self, responder: Any) -> None:
        self._answering[id(responder)] = responder
        self._beside.start_soon(self._answer_beside, responder)

    async def _answer_beside(self, responder: Any) -> None:
        _in_callback.set(True)
        try:
            await self._answer(responder)
            if not responder._completed:  # noqa: SLF001
                await self._handle(responder)
        except Exception as exc:  # as the reader itself would answer
            logger.warning("a request of the server could not be answered: %s", printable(str(exc)))
            error = types.ErrorData(code=INVALID_PARAMS, message="Invalid request parameters", data="")
            with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                await self._session._send_response(responder.request_id, error)  # noqa: SLF001
        finally:
            del self._answering[id(responder)]

    async def _received_notification(self, notification: Any) -> None:
        self._put(self._note, notification)

    async def _handle_incoming(self, message: Any) -> None:
        if id(message) not in self._answering:
            self._put(self._handle, message)

    def _put(self, function: Callable[[Any], Awaitable[None]], message: Any) -> None:
        if len(self._waiting) == _WAITING_MESSAGES:
            self._done_count += 1  # the oldest is dropped
        self._waiting.append((function, message))
        self._put_count += 1
        self._arrived.tell()

    async def _deliver(self) -> None:
        _in_callback.set(True)
        while True:
            while self._waiting:
                function, message = self._waiting.popleft()
                try:
                    await function(message)
                except Exception as exc:
                    logger.warning("a callback raised on a message of the server: %s", printable(str(exc)))
                self._done_count += 1
                self._done.tell()
            await self._arrived.wait()

    async def caught_up(self) -> None:
        """Wait until what came before an answer has been handled, as a caller of 1.x may rely on; not for long.

        A callback that waits for an answer does not wait for itself.
        """
        if self._done_count == self._put_count or _in_callback.get():
            return
        before = self._put_count
        with anyio.move_on_after(_CALLBACK_PATIENCE):
            while self._done_count < before:
                await self._done.wait()


def _outlive_callers(session: Any) -> None:
    """Let a session of 1.x survive that a call is given up in the very moment its answer is handed over.

    1.x looks up who waits, yields once, and then writes to a stream that is closed by then: its reader would end, with
    the server alive, and every other call be told "Connection closed".
    """
    handle = session._handle_response  # noqa: SLF001

    async def handle_response(message: SessionMessage) -> None:
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await handle(message)

    session._handle_response = handle_response  # noqa: SLF001


def listen(session: Session, **filters: Any) -> AbstractAsyncContextManager[Any]:
    """The SDK's `listen()` on one session.

    Raises:
        RuntimeError: The installed SDK has none.
    """
    if MAJOR == 1:
        raise RuntimeError(f"listen() needs mcp 2.x and a server at 2026-07-28; installed is mcp {VERSION}")
    return cast("AbstractAsyncContextManager[Any]", session.client.listen(**filters))


def needs_1(what: str) -> None:
    """Raise RuntimeError unless mcp 1.x is installed."""
    if MAJOR != 1:
        raise RuntimeError(f"{what} needs mcp 1.x; installed is mcp {VERSION}")


def needs_2(what: str) -> None:
    """Raise RuntimeError unless mcp 2.x is installed."""
    if MAJOR == 1:
        raise RuntimeError(f"{what} needs mcp 2.x; installed is mcp {VERSION}")


def experimental(client: Any) -> Any:
    """The experimental features of 1.x, over `client` in the place of a session."""
    needs_1("experimental")
    return import_module("mcp.client.experimental").ExperimentalClientFeatures(client)


def uri_text(uri: Any) -> str:
    """A URI as the installed SDK puts it on the wire: 1.x normalises it.

    Raises:
        ValueError: It is not a URI, which 1.x cannot send.
    """
    return str(AnyUrl(str(uri))) if MAJOR == 1 else str(uri)


CHANGES = {
    "notifications/resources/updated": "resource",
    "notifications/tools/list_changed": "tools",
    "notifications/prompts/list_changed": "prompts",
    "notifications/resources/list_changed": "resource_list",
}
"""The notifications that tell of a change, and what changed."""


def change_in(message: Any) -> tuple[Any, str | None] | None:
    """The (kind, uri) of the change that a message to `message_handler` tells of, None when it tells of none."""
    body = getattr(message, "root", message)
    kind = CHANGES.get(getattr(body, "method", ""))
    if kind is None:
        return None
    return kind, str(body.params.uri) if kind == "resource" else None


def resource_updated(uri: str) -> Any:
    """A `notifications/resources/updated`, as `message_handler` gets it."""
    body = {"method": "notifications/resources/updated", "params": {"uri": uri}}
    if MAJOR == 1:
        return _types.ServerNotification.model_validate(body)
    return _types.ResourceUpdatedNotification.model_validate(body)


_EVENTS = {
    "ResourceUpdated": "resource",
    "ToolsListChanged": "tools",
    "PromptsListChanged": "prompts",
    "ResourcesListChanged": "resource_list",
}


def change_of_event(event: Any) -> tuple[Any, str | None]:
    """The (kind, uri) of an event of `listen()`."""
    return _EVENTS[type(event).__name__], getattr(event, "uri", None)


def event_of_change(kind: str, uri: str | None) -> Any:
    """The event of `listen()` that tells of a change."""
    events = import_module("mcp.client.subscriptions")
    if kind == "resource":
        return events.ResourceUpdated(uri)
    name = next(name for name, told in _EVENTS.items() if told == kind)
    return getattr(events, name)()


def with_meta(result: Any, meta: Mapping[str, object]) -> Any:
    """A copy of a result that carries `meta` in its `_meta`, beside what the server put there."""
    return result.model_copy(update={"meta": {**(result.meta or {}), **meta}})


def offers(capabilities: Any, path: str) -> bool:
    """Whether a server declares a capability, such as `tools` or `resources.subscribe`."""
    value = capabilities
    for name in path.split("."):
        value = getattr(value, _CAPABILITY_FIELDS.get(name, name), None)
    return value is not None and value is not False


_CAPABILITY_FIELDS = {} if MAJOR == 1 else {"listChanged": "list_changed"}


def _refuse(method: str, options: Mapping[str, Any]) -> None:
    """1.x has none of the per-call options of 2.x: say so by name."""
    if options:
        raise TypeError(
            f"{method}() got {', '.join(sorted(options))}=, which needs mcp 2.x; installed is mcp {VERSION}"
        )


def _as_initialize_result(session: Any) -> Any:
    """What `initialize()` returns: the handshake's result, or the same facts from `server/discover`."""
    if session.initialize_result is not None:
        return session.initialize_result
    info = session.server_info or types.Implementation(name="unknown", version="unknown")
    return types.InitializeResult.model_construct(
        protocol_version=session.protocol_version,
        capabilities=session.server_capabilities,
        server_info=info,
        instructions=session.instructions,
    )


def tool_hints(tool: Any) -> tuple[bool, bool]:
    """(readOnlyHint, idempotentHint) of a tool; both default to False, as in the specification."""
    hints = tool.annotations
    if hints is None:
        return False, False
    if MAJOR == 1:
        return bool(hints.readOnlyHint), bool(hints.idempotentHint)
    return bool(hints.read_only_hint), bool(hints.idempotent_hint)


def input_schema(tool: Any) -> Any:
    """The `inputSchema` of a tool."""
    return tool.inputSchema if MAJOR == 1 else tool.input_schema


REFRESH: Mapping[str, Any] = {} if MAJOR == 1 else {"cache_mode": "refresh"}
"""Options for a list that the server must answer, not the SDK's cache."""


def next_cursor(page: Any) -> str | None:
    """The cursor of the next page of a list, None at the end."""
    return cast("str | None", page.nextCursor if MAJOR == 1 else page.next_cursor)


__all__ = [
    "CONNECTION_CLOSED",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "MAJOR",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "REQUEST_TIMEOUT",
    "SESSION_OPTIONS",
    "UNSUPPORTED_PROTOCOL_VERSION",
    "ErrorBase",
    "HighLevelServer",
    "MCPError",
    "Session",
    "SessionMessage",
    "SseServerParameters",
    "StdioServerParameters",
    "StreamableHttpParameters",
    "TransportFactory",
]
