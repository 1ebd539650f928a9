"""Checks what a user passes as a server, and names it for messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from mcp import StdioServerParameters

from .._sdk.installed import VERSION, SseServerParameters, StreamableHttpParameters, http
from .._sdk.transports import is_in_process_server
from ..text.credentials import safe_url
from ..text.redact import Redactor
from ..transports.names import name_of_command

# Characters of a name.
_NAME = 100


def checked(server: Any) -> Any:
    """`server` in the form that `Connector` takes.

    Raises:
        ValueError: One of its values is invalid, such as its URL.
        TypeError: It is not of a type that can be a server.
    """
    if isinstance(server, str):
        server = StreamableHttpParameters(url=server)
    if isinstance(server, StdioServerParameters):
        if not server.command.strip():
            raise ValueError(
                f"StdioServerParameters.command is {server.command!r}: write the program to start, such as 'npx'"
            )
        if server.encoding.lower().replace("_", "-") not in {"utf-8", "utf8"}:
            raise ValueError(
                f"StdioServerParameters.encoding is {server.encoding!r}: leave it at 'utf-8', which MCP prescribes"
            )
    elif isinstance(server, StreamableHttpParameters | SseServerParameters):
        _check_url(server.url)
    elif hasattr(server, "__aenter__") and not is_in_process_server(server):
        return _factory_of(server)
    elif not is_in_process_server(server) and not callable(server):
        raise TypeError(
            f"server is {type(server).__name__}: pass a URL, StdioServerParameters, StreamableHttpParameters, "
            "SseServerParameters, a function that returns a transport, or an SDK server"
        )
    return server


def _factory_of(transport: Any) -> Any:
    """A factory of transports like `transport`, which itself can be entered only once.

    Raises:
        TypeError: It cannot be recreated.
    """
    again = getattr(transport, "_recreate_cm", None)  # what `asynccontextmanager` returns has it, so the SDK's have
    if again is None:
        raise TypeError(
            f"server is a transport, a {type(transport).__name__}, which can be entered only once: pass a function "
            "without arguments that returns one"
        )
    given = next(iter([*transport.args, *transport.kwds.values()]), None)  # the first argument: URL or parameters
    try:
        name = name_of(checked(given))
    except (TypeError, ValueError):
        name = str(transport.func.__name__)
    return _Recreated(again, name)


class _Recreated:
    """A factory of transports like the one the user passed."""

    def __init__(self, recreate: Callable[[], Any], name: str) -> None:
        self._recreate = recreate
        self.name = name

    def __call__(self) -> Any:
        return self._recreate()


def speaks_for_itself(server: Any) -> bool:
    """Whether the end of `server` is noticed without probing: a child process, or an object in this process."""
    return isinstance(server, StdioServerParameters) or is_in_process_server(server)


def _check_url(url: str) -> None:
    shown, problem = safe_url(url), "is not a server's URL"
    try:
        parsed = http.URL(url)
        _ = urlsplit(url).port  # rejects ports that the HTTP library rejects only when it connects
    except http.InvalidURL as exc:
        problem = f"is not a URL ({str(exc).partition(':')[0]})"  # the text after the colon may quote a secret
    except ValueError:
        problem = "is not a URL (its host or port is invalid)"
    else:
        if parsed.scheme in {"http", "https"} and parsed.host:
            return
    raise ValueError(
        f"{shown!r} {problem}: write one such as 'https://example.com/mcp', or for a command "
        "StdioServerParameters(command=..., args=[...])"
    )


def check_http_client(client: Any, server: Any) -> None:
    """Reject what cannot be the HTTP client of `server`.

    Raises:
        TypeError: It is not a client of the installed SDK's HTTP library, or the server does not use one.
    """
    library = http.__name__
    if client is None:
        return
    if not isinstance(client, http.AsyncClient):
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        raise TypeError(f"http_client is a {kind}: mcp {VERSION} needs an {library}.AsyncClient")
    if not isinstance(server, StreamableHttpParameters):
        raise TypeError(f"http_client is for Streamable HTTP servers, but the server is {type(server).__name__}")


def name_of(server: Any, redactor: Redactor | None = None) -> str:
    """The name for messages of a server without one; `redactor` is the client's, if it exists already."""
    if isinstance(server, StdioServerParameters):
        return (redactor or Redactor.of(server)).line(name_of_command(server.command, server.args), _NAME)
    if isinstance(server, StreamableHttpParameters | SseServerParameters):
        return safe_url(server.url)
    return getattr(server, "name", None) or getattr(server, "__name__", None) or type(server).__name__
