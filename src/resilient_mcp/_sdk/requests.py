"""The requests to a server, as data, and how the installed SDK sends each of them.

A request can be stored, compared and shown, and where its content is hashable it can be the key of a dict (its options
are compared, but not hashed). `perform` sends it on a session; the two majors of the SDK differ only there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar, cast

import anyio
from mcp import types
from pydantic import TypeAdapter

from .installed import MAJOR, VERSION, MCPError, _types
from .results import LISTS, ToolAnswer, dump
from .session import Progress, Session

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Rounds of input that one request may take (the SDK's own limit).
_MAX_ROUNDS = 10
# Seconds before the next round if a server requests another round without any input.
_ROUND_PAUSE = 0.25


class Request(Protocol[T_co]):
    """One request or notification, and the type of its result."""

    @property
    def method(self) -> str:
        """The JSON-RPC method."""

    @property
    def target(self) -> str | None:
        """The tool, prompt or resource, or None."""

    @property
    def arguments(self) -> Any:
        """The arguments of a tool, for the debug log, or None."""

    async def perform(self, session: Session, progress: Progress | None) -> T_co:
        """Send it, and wait for its result.

        Args:
            session: The session to send it on.
            progress: Called with the progress that the server reports, or None.
        """
        ...


# What is the same for all requests of a class is an attribute without an annotation: with one, it would be a field of
# the dataclass, and with `ClassVar`, pyright would not accept the class as a `Request`.


@dataclass(frozen=True)
class CallTool:
    """`tools/call`. On 2.x, input-required rounds are handled unless the caller asked to see them."""

    method = "tools/call"
    target: str
    arguments: dict[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    async def perform(self, session: Session, progress: Progress | None) -> types.CallToolResult:
        raw = MAJOR == 1 or "allow_input_required" in self.options or "allow_claimed" in self.options
        sdk = session.raw if raw else session.client
        result = await sdk.call_tool(self.target, self.arguments, progress_callback=progress, **self.options)
        return cast("types.CallToolResult", result)


@dataclass(frozen=True)
class ListPage(Generic[T]):
    """One page of a list.

    Attributes:
        name: The SDK's method: `list_tools`, `list_resources`, `list_resource_templates` or `list_prompts`.
        cursor: The page, or None for the first.
        params: The same in the SDK's type; `cursor` must then be None.
        options: Options of mcp 2.x, such as `cache_mode`.
    """

    target = None
    arguments = None
    name: str
    cursor: str | None = None
    params: types.PaginatedRequestParams | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def method(self) -> str:
        """The JSON-RPC method."""
        return LISTS[self.name]

    async def perform(self, session: Session, progress: Progress | None) -> T:  # noqa: ARG002 - lists have none
        name, params = self.name, self.params
        if params is not None and self.cursor is not None:
            raise ValueError(f"{name}() takes cursor= or params=, not both")
        if MAJOR == 1:
            _refuse(name, self.options)
            if params is None and self.cursor is not None:
                params = types.PaginatedRequestParams(cursor=self.cursor)
            page = await getattr(session.raw, name)(**({} if params is None else {"params": params}))
        elif params is not None:
            page = await getattr(session.raw, name)(params=params)
        else:
            page = await getattr(session.client, name)(cursor=self.cursor, **self.options)
        return cast("T", page)


@dataclass(frozen=True)
class ReadResource:
    """`resources/read`; `uri` is a string or an `AnyUrl` on both majors."""

    method = "resources/read"
    arguments = None
    uri: Any
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def target(self) -> str:
        """The resource."""
        return str(self.uri)

    async def perform(self, session: Session, progress: Progress | None) -> types.ReadResourceResult:  # noqa: ARG002
        if MAJOR == 1:
            _refuse("read_resource", self.options)
            return cast("types.ReadResourceResult", await session.raw.read_resource(self.uri))
        sdk = session.raw if "allow_input_required" in self.options else session.client
        return cast("types.ReadResourceResult", await sdk.read_resource(str(self.uri), **self.options))


@dataclass(frozen=True)
class GetPrompt:
    """`prompts/get`."""

    method = "prompts/get"
    arguments = None
    target: str
    prompt_arguments: dict[str, str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    async def perform(self, session: Session, progress: Progress | None) -> types.GetPromptResult:  # noqa: ARG002
        if MAJOR == 1:
            _refuse("get_prompt", self.options)
        sdk = session.raw if MAJOR == 1 or "allow_input_required" in self.options else session.client
        return cast("types.GetPromptResult", await sdk.get_prompt(self.target, self.prompt_arguments, **self.options))


@dataclass(frozen=True)
class SetSubscribed:
    """`resources/subscribe` or `resources/unsubscribe`; `uri` is a string or an `AnyUrl` on both majors."""

    arguments = None
    uri: Any
    subscribed: bool
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def method(self) -> str:
        """The JSON-RPC method."""
        return "resources/subscribe" if self.subscribed else "resources/unsubscribe"

    @property
    def target(self) -> str:
        """The resource."""
        return str(self.uri)

    async def perform(self, session: Session, progress: Progress | None) -> types.EmptyResult:  # noqa: ARG002
        name = "subscribe_resource" if self.subscribed else "unsubscribe_resource"
        uri = self.uri if MAJOR == 1 else str(self.uri)
        return cast("types.EmptyResult", await session.invoke(name, uri, **self.options))


@dataclass(frozen=True)
class SessionMethod(Generic[T]):
    """Any other coroutine method of the SDK's session.

    Attributes:
        method: The JSON-RPC method that it sends.
        name: The SDK's method.
        args: Its arguments.
        options: Its keyword arguments.
    """

    target = None
    arguments = None
    method: str
    name: str
    args: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    async def perform(self, session: Session, progress: Progress | None) -> T:  # noqa: ARG002 - they have none
        return cast("T", await session.invoke(self.name, *self.args, **self.options))


PING = SessionMethod[types.EmptyResult]("ping", "send_ping")


@dataclass(frozen=True)
class SignOfLife:
    """The cheapest request that the session's protocol has: `ping` up to 2025-11-25, `server/discover` after."""

    method = "ping"
    target = None
    arguments = None

    async def perform(self, session: Session, progress: Progress | None) -> None:  # noqa: ARG002 - it has none
        if session.is_legacy:
            await session.invoke("send_ping")
        else:
            await session.raw.send_discover(session.protocol_version)


@dataclass(frozen=True)
class SdkRequest(Generic[T]):
    """A request in the SDK's types, for `send_request`."""

    arguments = None
    request: Any
    result_type: type[T] | TypeAdapter[T]
    metadata: Any = None

    @property
    def method(self) -> str:
        """The JSON-RPC method."""
        return str(self._body.method)

    @property
    def target(self) -> str | None:
        """The tool, if it calls one."""
        return getattr(self._body.params, "name", None) if self.method == "tools/call" else None

    @property
    def _body(self) -> Any:
        return getattr(self.request, "root", self.request)

    async def perform(self, session: Session, progress: Progress | None) -> T:
        result = await session.raw.send_request(
            self.request, self.result_type, metadata=self.metadata, progress_callback=progress
        )
        return cast("T", result)


@dataclass(frozen=True)
class SdkNotification:
    """A notification in the SDK's types, for `send_notification`."""

    target = None
    arguments = None
    notification: Any
    args: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def method(self) -> str:
        """The JSON-RPC method."""
        return str(getattr(self.notification, "root", self.notification).method)

    async def perform(self, session: Session, progress: Progress | None) -> None:  # noqa: ARG002 - it has none
        await session.raw.send_notification(self.notification, *self.args, **self.options)


# Requests that have a target, and the parameter that names it.
_TARGETS = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass(frozen=True)
class JsonRequest:
    """Any request in its wire form; the result as received, with nothing validated or left out.

    On 2.x, if a result requests input (2026-07-28), the session's callbacks provide it. A `tools/call` returns a
    `ToolAnswer`, anything else a dict.
    """

    method: str
    params: Mapping[str, Any] | None = None

    @property
    def target(self) -> str | None:
        """The tool, prompt or resource, if its params name one."""
        key = _TARGETS.get(self.method)
        target = None if key is None else (self.params or {}).get(key)
        return target if isinstance(target, str) else None

    @property
    def arguments(self) -> Any:
        """Its `arguments`, or None."""
        return (self.params or {}).get("arguments")

    async def perform(self, session: Session, progress: Progress | None) -> Any:
        answer = await self._exchange(session, self.params, progress)
        for _ in range(_MAX_ROUNDS):
            if answer.get("resultType") != "input_required" or session.is_legacy:
                break
            requests = answer.get("inputRequests") or {}
            responses = {key: await _input(session, wanted) for key, wanted in requests.items()}
            if not responses:
                await anyio.sleep(_ROUND_PAUSE)
            again = {"inputResponses": responses or None, "requestState": answer.get("requestState")}
            more = {key: value for key, value in again.items() if value is not None}
            answer = await self._exchange(session, {**(self.params or {}), **more}, progress)
        return ToolAnswer.from_json(answer) if self.method == "tools/call" else answer

    async def _exchange(
        self, session: Session, params: Mapping[str, Any] | None, progress: Progress | None
    ) -> dict[str, Any]:
        """One request and its result, both as JSON."""
        data = _message(self.method, params)
        if MAJOR == 1:
            return cast("dict[str, Any]", await session.raw.send_request(data, _Json, progress_callback=progress))
        # Not `send_request`: it drops unknown fields and rejects results that do not conform.
        options: dict[str, Any] = {} if progress is None else {"on_progress": progress}
        raw = session.raw
        raw._stamp(data, options)  # noqa: SLF001
        answer = await raw._dispatcher.send_raw_request(self.method, data.get("params"), options)  # noqa: SLF001
        return cast("dict[str, Any]", answer)


@dataclass(frozen=True)
class JsonNotification:
    """Any notification in its wire form."""

    target = None
    arguments = None
    method: str
    params: Mapping[str, Any] | None = None

    async def perform(self, session: Session, progress: Progress | None) -> None:  # noqa: ARG002 - it has none
        await session.raw.send_notification(_message(self.method, self.params))


class _Json(dict[str, Any]):
    """JSON in place of a pydantic model: the model methods that the SDK calls return the JSON itself."""

    name_param = None

    def model_dump(self, **_: object) -> dict[str, Any]:
        return self

    @staticmethod
    def model_validate(value: dict[str, Any], **_: object) -> dict[str, Any]:
        return value


def _message(method: str, params: Mapping[str, Any] | None) -> _Json:
    """A message for the SDK, with its own copy of `params` and their `_meta`, because the SDK writes to both."""
    if params is None:
        return _Json({"method": method})
    copied = dict(params)
    if isinstance(copied.get("_meta"), dict):
        copied["_meta"] = dict(copied["_meta"])
    return _Json({"method": method, "params": copied})


async def _input(session: Session, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request embedded in a result, using the session's callbacks."""
    kind = {
        "sampling/createMessage": _types.CreateMessageRequest,
        "elicitation/create": _types.ElicitRequest,
        "roots/list": _types.ListRootsRequest,
    }[str(wanted.get("method"))]
    context = import_module("mcp.client.session").ClientRequestContext(session=session.raw, request_id="input")
    answer = await session.raw.dispatch_input_request(context, kind.model_validate(wanted))
    if isinstance(answer, types.ErrorData):
        raise MCPError.from_error_data(answer)
    return dump(answer)


def _refuse(method: str, options: Mapping[str, Any]) -> None:
    """Reject per-call options by name: they exist only on 2.x."""
    if options:
        raise TypeError(
            f"{method}() got {', '.join(sorted(options))}=, which needs mcp 2.x, but mcp {VERSION} is installed"
        )
