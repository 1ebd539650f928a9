"""Which major version of mcp is installed, its HTTP library and parameters, and one error class for both majors.

Only the modules of `_sdk` use `MAJOR`: the rest of the package sees no difference between 1.x and 2.x.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import mcp
from mcp import types
from mcp.client import session_group as _session_group

VERSION = version("mcp")

MAJOR = int(VERSION.split(".", 1)[0])

StreamableHttpParameters: Any = _session_group.StreamableHttpParameters

SseServerParameters: Any = _session_group.SseServerParameters

_mcp: Any = mcp

_types: Any = types

http: Any
"""The HTTP library the installed SDK uses: httpx on 1.x, httpx2 on 2.x. Both have the same API."""

httpcore: Any
"""What that library's own transport is built on."""

MCPError: Any
"""The installed SDK's error class."""

HighLevelServer: Any
"""The installed SDK's high-level server class: `FastMCP` on 1.x, `MCPServer` on 2.x."""

if MAJOR == 1:
    http, httpcore = import_module("httpx"), import_module("httpcore")
    MCPError = import_module("mcp.shared.exceptions").McpError
    HighLevelServer = import_module("mcp.server.fastmcp").FastMCP
else:
    http, httpcore = import_module("httpx2"), import_module("httpcore2")
    MCPError = _mcp.MCPError
    HighLevelServer = import_module("mcp.server.mcpserver").MCPServer

if TYPE_CHECKING:
    _ErrorBase: TypeAlias = Exception
else:
    _ErrorBase = MCPError

INTERNAL_ERROR = -32603

CONNECTION_CLOSED = -32000

PARSE_ERROR = -32700

INVALID_REQUEST = -32600

METHOD_NOT_FOUND = -32601

INVALID_PARAMS = -32602

UNSUPPORTED_PROTOCOL_VERSION = -32022

REQUEST_TIMEOUT = 408 if MAJOR == 1 else -32001
"""The error code of the installed SDK's own request timeout."""


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
        """Pickle and copy by attributes: the subclasses take keyword arguments, which pickle does not pass."""
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[ErrorBase], args: tuple[Any, ...]) -> ErrorBase:
    error = kind.__new__(kind)
    error.args = args
    return error


def mcp_error(code: int, message: str, data: Any = None) -> Exception:
    """The exception that the installed SDK raises for an error from a server."""
    return cast(
        "Exception",
        MCPError(types.ErrorData(code=code, message=message, data=data))
        if MAJOR == 1
        else MCPError(code, message, data),
    )


def data_of(exc: BaseException | None) -> Any:
    """The `data` of a server's error, or None."""
    return getattr(getattr(exc, "error", None), "data", None)


def is_local_timeout(error: object) -> bool:
    """Whether an error has the code of the SDK's own request timeout; a server may send the same code."""
    return bool(getattr(getattr(error, "error", None), "code", None) == REQUEST_TIMEOUT)


def is_connection_closed(error: object) -> bool:
    """Whether an error is the one that pending calls get when an SDK session ends; a server may send the same."""
    data = getattr(error, "error", None)
    return getattr(data, "code", None) == CONNECTION_CLOSED and getattr(data, "message", "") == "Connection closed"


def needs_1(what: str) -> None:
    """Raise RuntimeError unless mcp 1.x is installed."""
    if MAJOR != 1:
        raise RuntimeError(f"{what} needs mcp 1.x, but mcp {VERSION} is installed")


def needs_2(what: str) -> None:
    """Raise RuntimeError unless mcp 2.x is installed."""
    if MAJOR == 1:
        raise RuntimeError(f"{what} needs mcp 2.x, but mcp {VERSION} is installed")


def experimental_features(client: Any) -> Any:
    """The experimental features of 1.x, with `client` in place of a session."""
    needs_1("experimental")
    return import_module("mcp.client.experimental").ExperimentalClientFeatures(client)
