"""One negotiated session of the installed SDK, and the requests on which the two majors differ."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import Any, TypeAlias, cast

import anyio
import anyio.abc
from mcp import ClientSession, types
from typing_extensions import Self

from .installed import MAJOR, VERSION, MCPError, _types
from .options import client_of
from .repairs import CallbackRunner, keep_answers, survive_cancelled_callers
from .results import ToolAnswer, declares, dump


def undecorated(method: str) -> Callable[..., Awaitable[Any]]:
    """The SDK's method without its deprecation warning: this library calls it only in the era it belongs to."""
    return cast("Callable[..., Awaitable[Any]]", inspect.unwrap(getattr(ClientSession, method)))


class Session:
    """One negotiated session: an SDK `ClientSession`, on 2.x inside the `mcp.Client` that negotiated it.

    Create it with `Session.open`. Its methods are the operations that differ between the two majors. `raw` is the
    `ClientSession`; `reader` runs its callbacks (1.x only, else None).
    """

    def __init__(
        self,
        client: Any,
        raw: Any,
        result: Any,
        *,
        reader: CallbackRunner | None = None,
        knows_capabilities: bool = True,
    ) -> None:
        self.client = client
        self.raw = raw
        self.initialize_result = result
        self.reader = reader
        self._knows_capabilities = knows_capabilities
        keep_answers(raw)
        if MAJOR == 1:
            survive_cancelled_callers(raw)

    @classmethod
    @asynccontextmanager
    async def open(cls, streams: Any, options: Mapping[str, Any], *, legacy: bool) -> AsyncIterator[Self]:
        """Negotiate a session over `streams`, a context manager of (read, write), or on 2.x an in-process server.

        Args:
            streams: The transport.
            options: Callbacks and options for the SDK's session.
            legacy: On 2.x, go straight to `initialize` (the era found by an earlier generation).
        """
        if MAJOR == 1:
            async with (
                streams as (read, write),
                ClientSession(read, write, **options) as raw,
                anyio.create_task_group() as beside,
            ):
                reader = CallbackRunner(raw, beside)
                yield cls(raw, raw, await raw.initialize(), reader=reader)
                beside.cancel_scope.cancel()
            return
        options = {**options, "mode": "legacy"} if legacy else dict(options)
        pinned = options.get("mode", "auto") not in {"auto", "legacy"}
        async with client_of(streams, options) as client:
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

        If the protocol version was pinned, the server's capabilities were never requested, so it may offer anything.
        """
        return not self._knows_capabilities or declares(self.capabilities, path)

    @property
    def raw_initialize_result(self) -> Any:
        """The result of `initialize`; None if the session was negotiated by `server/discover`."""
        return self.initialize_result if MAJOR == 1 else self.raw.initialize_result

    @property
    def server_info(self) -> Any:
        """The server's name and version, or None if it did not send them."""
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
        """`tools/call`. On 2.x, input-required rounds are handled unless the caller asked to see them."""
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
        """Call any other coroutine method of the SDK's session by name, without deprecation warnings."""
        return await undecorated(method)(self.raw, *args, **options)

    async def probe(self) -> None:
        """Check that the server responds: `ping` up to 2025-11-25, `server/discover` after."""
        if self.is_legacy:
            await self.invoke("send_ping")
        else:
            await self.raw.send_discover(self.protocol_version)

    async def set_subscribed(self, uri: Any, *, subscribed: bool, options: Mapping[str, Any]) -> Any:
        """`resources/subscribe` or `resources/unsubscribe`; `uri` is a string or an `AnyUrl` on both majors."""
        method = "subscribe_resource" if subscribed else "unsubscribe_resource"
        return await self.invoke(method, uri if MAJOR == 1 else str(uri), **options)

    async def request(self, method: str, params: Mapping[str, Any] | None, progress: Any) -> Any:
        """Send any request in its wire form; return the result as received, with nothing validated or left out.

        On 2.x, if a result requests input (2026-07-28), the session's callbacks provide it.
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
        else:  # not `send_request`: it drops unknown fields and rejects results that do not conform
            options: dict[str, Any] = {} if progress is None else {"on_progress": progress}
            self.raw._stamp(data, options)  # noqa: SLF001
            answered = await self.raw._dispatcher.send_raw_request(method, data.get("params"), options)  # noqa: SLF001
        return cast("dict[str, Any]", answered)

    async def _input(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request embedded in a result, using the session's callbacks."""
        request = _input_request(wanted)
        context = import_module("mcp.client.session").ClientRequestContext(session=self.raw, request_id="input")
        answered = await self.raw.dispatch_input_request(context, request)
        if isinstance(answered, types.ErrorData):
            raise MCPError.from_error_data(answered)
        return dump(answered)

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Send any notification in its wire form."""
        data = _Json({"method": method, **({} if params is None else {"params": _copied(params)})})
        await self.raw.send_notification(data)

    async def cancel(self, request_id: Any, reason: str) -> None:
        """Notify the server that `request_id` is cancelled. Does nothing on 2.x, whose SDK does it itself."""
        if MAJOR == 1:
            params = _types.CancelledNotificationParams(requestId=request_id, reason=reason)
            notification = _types.CancelledNotification(method="notifications/cancelled", params=params)
            await self.raw.send_notification(_types.ClientNotification(notification))


# Rounds of input that one request may take (the SDK's own limit).
_MAX_ROUNDS = 10


# Seconds before the next round if a server requests another round without any input.
_ROUND_PAUSE = 0.25


class _Json(dict[str, Any]):
    """JSON in place of a pydantic model: the model methods that the SDK calls return the JSON itself."""

    name_param = None

    def model_dump(self, **_: object) -> dict[str, Any]:
        return self

    @staticmethod
    def model_validate(value: dict[str, Any], **_: object) -> dict[str, Any]:
        return value


def _copied(params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `params` with its own copy of `_meta`, because the SDK writes to both."""
    copied = dict(params)
    if isinstance(copied.get("_meta"), dict):
        copied["_meta"] = dict(copied["_meta"])
    return copied


LEGACY_SESSION: dict[str, Any] = {} if MAJOR == 1 else {"mode": "legacy"}
"""Session options that negotiate by `initialize`."""


LATEST_LEGACY_VERSION = "2025-11-25"
"""The latest protocol version that is negotiated by `initialize`."""


def _input_request(wanted: Mapping[str, Any]) -> Any:
    kind = {
        "sampling/createMessage": _types.CreateMessageRequest,
        "elicitation/create": _types.ElicitRequest,
        "roots/list": _types.ListRootsRequest,
    }[str(wanted.get("method"))]
    return kind.model_validate(wanted)


def open_listen(session: Session, **filters: Any) -> AbstractAsyncContextManager[Any]:
    """The SDK's `listen()` on one session.

    Raises:
        RuntimeError: The installed SDK does not have it.
    """
    if MAJOR == 1:
        raise RuntimeError(f"listen() needs mcp 2.x and a server at 2026-07-28, but mcp {VERSION} is installed")
    return cast("AbstractAsyncContextManager[Any]", session.client.listen(**filters))


def _refuse(method: str, options: Mapping[str, Any]) -> None:
    """Reject per-call options by name: they exist only on 2.x."""
    if options:
        raise TypeError(
            f"{method}() got {', '.join(sorted(options))}=, which needs mcp 2.x, but mcp {VERSION} is installed"
        )


def _as_initialize_result(session: Any) -> Any:
    """The result of `initialize`, or the same facts from `server/discover`."""
    if session.initialize_result is not None:
        return session.initialize_result
    info = session.server_info or types.Implementation(name="unknown", version="unknown")
    return types.InitializeResult.model_construct(
        protocol_version=session.protocol_version,
        capabilities=session.server_capabilities,
        server_info=info,
        instructions=session.instructions,
    )


Invoke: TypeAlias = Callable[[Session, Any], Awaitable[Any]]
"""An operation: called with a session and a progress callback (or None)."""
