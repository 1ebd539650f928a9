"""The interface that each kind of server implements, between its transport and the rest of the client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TextIO

from .._sdk.transports import Streams
from ..evidence import Evidence
from ..in_flight import InFlight
from ..policy import Policy
from ..text.redact import Redactor
from .process import ServerProcess


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """What a transport knows of the connection that it carries, and the callbacks through which it reports.

    Attributes:
        name: The name of the server.
        policy: Its limits.
        redactor: Removes secrets from what the server sends.
        in_flight: The connection's requests.
        errlog: Receives the stderr of a server process, or None.
        on_start: Called with the server's process once it has started.
        on_garbage: Called with a printable sample of output that is not an MCP message.
        on_stream: Called when the server's notification stream (GET) is open, or never will be; with the evidence if
            the server refused it.
        on_end: Called with the evidence when the transport has ended.
        reason: Returns why the connection was lost, or None if it was not.
    """

    name: str
    policy: Policy
    redactor: Redactor
    in_flight: InFlight
    errlog: TextIO | None
    on_start: Callable[[ServerProcess], None]
    on_garbage: Callable[[str], None]
    on_stream: Callable[[Evidence | None], None]
    on_end: Callable[[Evidence], None]
    reason: Callable[[], Evidence | None]


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What a user may say about HTTP, as on `ResilientClient`.

    Attributes:
        http_client: The HTTP client to use, or None.
        headers: Headers of every request: a mapping, a function, or None.
        auth: The auth of every request, or None.
    """

    http_client: Any = None
    headers: Any = None
    auth: Any = None

    def given(self) -> list[str]:
        """The names of those that were given."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


class Server(ABC):
    """A server as the user configured it, and the transport to it.

    A new transport is a subclass in a module of its own, and one line in `connection.server.KINDS`.

    Attributes:
        is_process: Whether the server is a child process of this one.
        is_ordered: Whether requests arrive in the order in which they are written.
        detects_disconnect: Whether the end of the server is noticed without health checks.
        has_notification_stream: Whether the server's notifications need a stream of their own (GET).
        takes_http: Which of `HttpOptions` it takes.
        configured_by: The arguments that say where it is, as named in messages to a user who configured it in Python.
        url: Its URL, or None.
    """

    is_process: ClassVar[bool] = False
    is_ordered: ClassVar[bool] = True
    detects_disconnect: ClassVar[bool] = False
    has_notification_stream: ClassVar[bool] = False
    takes_http: ClassVar[frozenset[str]] = frozenset()
    configured_by: ClassVar[str]
    url: str | None = None

    @classmethod
    @abstractmethod
    def of(cls, given: Any, options: HttpOptions) -> Server | None:
        """The server, if `given` is one of this kind; else None.

        Args:
            given: The `server` of `ResilientClient`.
            options: Its HTTP options, for the kinds that take them.

        Raises:
            ValueError: It is of this kind, but cannot work.
            TypeError: It is of this kind, but it or one of `options` is of a type that cannot be used.
        """

    @abstractmethod
    def name(self, redactor: Redactor) -> str:
        """Its default name in messages."""

    @abstractmethod
    def open(self, channel: Channel) -> AbstractAsyncContextManager[Streams]:
        """The transport of one connection: a context manager of the streams (read, write) of a session."""

    def secrets(self) -> Iterator[str]:
        """The values in its configuration that must not appear in messages or logs."""
        yield from ()

    def telemetry(self) -> Mapping[str, str | int]:
        """Where it is, as OpenTelemetry attributes."""
        return {}

    @asynccontextmanager
    async def running(self, policy: Policy) -> AsyncIterator[None]:  # noqa: ARG002 - for kinds that share something
        """A context for all connections to it: holds what they share, such as an HTTP client."""
        yield
