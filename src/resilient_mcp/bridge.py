"""An MCP server in front of a `ResilientClient`, used by `as_transport()` and `resilient-mcp wrap`.

It forwards raw JSON-RPC: the client gets a request as the host sent it, and the host gets the result as the server sent
it, so both see what they would see without the bridge. It answers only a few requests itself: `initialize`, from the
real server's reply; `ping`; and a call that the client gave up, with a tool result or an error that explains why.

To the host it is a server up to 2025-11-25. A host that tries `server/discover` first gets "Method not found", as from
any such server, and continues with `initialize`.

A host that does not read delays only itself: its requests wait, and notifications for it that can be spared are
dropped. One that still goes on asking is cut off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel
from mcp import types

from ._sdk.installed import INTERNAL_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, MCPError, mcp_error
from ._sdk.messages import message_as_json, message_from_json, notification_as_json
from ._sdk.results import as_json, dump, implementation
from ._sdk.session import LATEST_LEGACY_VERSION, LEGACY_SESSION, Progress
from .errors import ResilienceError
from .event_loop import Signal, spawn
from .events import State
from .observability.hub import logger
from .text.printable import describe, printable
from .transports.host_requests import Link
from .transports.outbox import Host, Outbox

# Messages buffered for either end of an in-process transport.
_BUFFER = 64
# Notifications held until the host has sent `notifications/initialized`; beyond that the oldest are dropped.
_HELD = 256
# Notifications of a host that may wait for the server; beyond that, further ones are dropped.
_NOTICES = 256
# Requests that may be unanswered at the same time, each way.
_OPEN = 1000
# Characters of a method in a log message.
_METHOD = 100

_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

Params: TypeAlias = dict[str, Any] | None


class BridgedClient(Protocol):
    """The part of `ResilientClient` that a bridge uses."""

    name: str

    @property
    def state(self) -> State: ...
    async def start(self, *, wait: bool = True) -> None: ...
    async def wait_first(self) -> None: ...
    async def aclose(self) -> None: ...
    async def initialize(self) -> types.InitializeResult: ...
    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, progress_callback: Progress | None = None
    ) -> dict[str, Any]: ...
    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None: ...
    async def subscribe_resource(self, uri: Any) -> types.EmptyResult: ...
    async def unsubscribe_resource(self, uri: Any) -> types.EmptyResult: ...
    async def set_logging_level(self, level: types.LoggingLevel) -> types.EmptyResult: ...
    def _relay(self, on_message: Callable[[Any], Awaitable[None]]) -> None: ...
    def _unrelay(self, on_message: Callable[[Any], Awaitable[None]]) -> None: ...
    def _link(self, link: Link, options: dict[str, Any]) -> None: ...


class Bridge:
    """Serves one host.

    Args:
        client: The client to serve. One that was not started is started by the host's `initialize`, with the
            capabilities of the host (sampling, elicitation, roots), and closed at the end.
        host: The host.

    Attributes:
        capabilities: The capabilities that the host declared in its `initialize`.
    """

    def __init__(self, client: BridgedClient, host: Host) -> None:
        self._client = client
        self._outbox = Outbox(client.name, host)
        self._scopes: dict[Any, anyio.CancelScope] = {}
        self._asked: dict[int, _Question] = {}
        self._questions = 0
        self._open = 0
        self._notices: deque[tuple[str, Params]] = deque()
        self._noticed = Signal()
        self._owned = client.state is State.IDLE
        self._tg: anyio.abc.TaskGroup | None = None
        self._held: deque[dict[str, Any]] | None = deque(maxlen=_HELD)
        self.capabilities: dict[str, Any] = {}

    async def serve(self, messages: AsyncGenerator[dict[str, Any], None]) -> None:
        """Serve the host until `messages` ends, or it has too many unanswered requests and unread messages."""
        self._client._relay(self._on_message)  # noqa: SLF001 - made for this module
        try:
            async with aclosing(messages), anyio.create_task_group() as tg:
                self._tg = tg
                tg.start_soon(self._outbox.run)
                tg.start_soon(self._pass_on)
                async for message in messages:
                    if self._open >= _OPEN and self._outbox.is_full:
                        logger.error("%s: the host sends requests but does not read; it is cut off", self._client.name)
                        break
                    self._take(tg, message)
                tg.cancel_scope.cancel()
        finally:
            self._client._unrelay(self._on_message)  # noqa: SLF001 - made for this module
            if self._owned:
                await self._client.aclose()

    # --- from the host ---

    def _take(self, tg: anyio.abc.TaskGroup, message: dict[str, Any]) -> None:
        method, request_id = message.get("method"), message.get("id")
        params = message["params"] if isinstance(message.get("params"), dict) else None
        if not isinstance(method, str):
            self._take_answer(request_id, message)
        elif request_id is None:
            self._take_notification(method, params)
        elif not isinstance(request_id, str | int):
            text = "Invalid request: its id is neither a string nor an integer"
            self._outbox.offer({"id": None, **_error(INVALID_REQUEST, text)})
        elif self._open >= _OPEN:
            text = f"Too many requests: {_OPEN} are not answered yet"
            self._outbox.put({"id": request_id, **_error(INTERNAL_ERROR, text)})
        else:
            self._open += 1
            # Created here, not in the task: the host may cancel the request before the task has run.
            scope = self._scopes[request_id] = anyio.CancelScope()
            tg.start_soon(self._answer, scope, request_id, method, params)

    def _take_answer(self, request_id: Any, message: dict[str, Any]) -> None:
        question = self._asked.get(request_id) if isinstance(request_id, int) else None
        if question is not None:
            question.answer = message
            question.answered.set()

    def _take_notification(self, method: str, params: Params) -> None:
        if method == "notifications/cancelled":
            cancelled = (params or {}).get("requestId")
            if isinstance(cancelled, str | int) and cancelled in self._scopes:
                self._scopes[cancelled].cancel()
        elif method == "notifications/initialized":  # not forwarded: the client's session has sent its own
            self._release()
        elif len(self._notices) < _NOTICES:
            self._notices.append((method, params))
            self._noticed.notify()
        else:
            name = printable(method, _METHOD)
            logger.warning("%s does not take notifications; the host's %s is dropped", self._client.name, name)

    async def _pass_on(self) -> None:
        """Forward the host's notifications, in order; one that cannot be sent is ignored."""
        while True:
            while self._notices:
                method, params = self._notices.popleft()
                name = printable(method, _METHOD)
                try:
                    await self._client.notify(method, params)
                except MCPError as exc:
                    logger.debug("%s was not forwarded: %s", name, exc)
                except Exception as exc:
                    logger.warning("%s is ignored, it cannot be forwarded: %s", name, describe(exc))
            await self._noticed.wait()

    async def _answer(self, scope: anyio.CancelScope, request_id: str | int, method: str, params: Params) -> None:
        reply: dict[str, Any] = {}
        with scope:
            try:
                await self._outbox.room()
                reply = {"result": await self._result(method, params)}
            except ResilienceError as exc:
                if method == "tools/call":
                    reply = {"result": dump(exc.to_tool_result())}
                else:
                    reply = _error(exc.code, str(exc) if method == "initialize" else exc.advice)
            except MCPError as exc:
                reply = {"error": dump(exc.error)}
            except Exception as exc:
                logger.warning("%s could not be forwarded: %s", method, describe(exc))
                reply = _error(INTERNAL_ERROR, describe(exc))
        self._open -= 1
        if self._scopes.get(request_id) is scope:  # else the host has reused the id for a later request
            del self._scopes[request_id]
        if reply:  # empty if cancelled: a cancelled request is not answered
            self._outbox.put({"id": request_id, **reply})

    async def _result(self, method: str, params: Params) -> dict[str, Any]:
        given = params or {}
        if method == "initialize":
            return await self._initialize(given)
        if method == "server/discover":
            raise mcp_error(METHOD_NOT_FOUND, "Method not found")
        if method == "ping":
            return {}
        if (kept := self._kept(method, given)) is not None:
            return as_json(await kept)
        meta = given.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, dict) else None
        progress = None if token is None else self._progress(token)
        result = await self._client.request(method, params, progress_callback=progress)
        if progress is not None:
            await anyio.lowlevel.checkpoint()  # mcp 2.x runs callbacks in tasks: let the last one run before the reply
        return result

    def _kept(self, method: str, params: dict[str, Any]) -> Awaitable[Any] | None:
        """Run what must be restored on later connections through the client's own methods; None for the rest."""
        client, uri, level = self._client, params.get("uri"), params.get("level")
        if method == "resources/subscribe" and isinstance(uri, str):
            return client.subscribe_resource(uri)
        if method == "resources/unsubscribe" and isinstance(uri, str):
            return client.unsubscribe_resource(uri)
        if method == "logging/setLevel" and level in _LEVELS:
            return client.set_logging_level(level)
        return None

    async def _initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        """Start the client if it was not started, and answer as the real server did."""
        client = self._client
        if client.state is State.IDLE:
            capabilities, info = params.get("capabilities"), params.get("clientInfo")
            self.capabilities = capabilities if isinstance(capabilities, dict) else {}
            client._link(self, {**LEGACY_SESSION, "client_info": info and implementation(info)})  # noqa: SLF001 - made for this module
            await client.start(wait=False)
            await client.wait_first()
        result = dump(await client.initialize())
        latest = min(str(result["protocolVersion"]), LATEST_LEGACY_VERSION)
        # Versions are dates, so the older of two is the smaller string.
        wanted = params.get("protocolVersion")
        return {**result, "protocolVersion": min(wanted, latest) if isinstance(wanted, str) else latest}

    # --- from the server ---

    async def _on_message(self, message: Any) -> None:
        """Forward a server notification, except progress, which `_progress` sends with the host's own token."""
        notification = notification_as_json(message)
        if notification is None or notification["method"] == "notifications/progress":
            return
        if self._held is not None:  # the host is not initialized yet, and must not get notifications before
            self._held.append(notification)
        else:
            self._outbox.offer(notification)

    def _release(self) -> None:
        held, self._held = self._held, None
        for notification in held or ():
            self._outbox.offer(notification)

    def _progress(self, token: Any) -> Callable[[float, float | None, str | None], Awaitable[None]]:
        async def report(progress: float, total: float | None, message: str | None) -> None:
            facts = {"progressToken": token, "progress": progress, "total": total, "message": message}
            params = {key: value for key, value in facts.items() if value is not None}
            self._outbox.offer({"method": "notifications/progress", "params": params})

        return report

    def take(self, request: dict[str, Any], reply: Callable[[dict[str, Any]], Awaitable[None]]) -> Callable[[], object]:
        """Let the host answer a server request; call the returned function to cancel it."""
        scope = anyio.CancelScope()

        async def ask() -> None:
            answer: dict[str, Any] = {}
            with scope:
                answer = await self._ask({key: request[key] for key in ("method", "params") if key in request})
            if answer:
                await reply({**answer, "id": request["id"]})

        assert self._tg is not None
        self._tg.start_soon(ask)
        return scope.cancel

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send the host a request and return its raw answer; an error if too many already wait for it."""
        if len(self._asked) >= _OPEN or self._outbox.is_full:
            return _error(INTERNAL_ERROR, "The host does not answer")
        self._questions += 1
        number = self._questions
        question = self._asked[number] = _Question()
        try:
            self._outbox.put({"id": number, **request})
            await question.answered.wait()
        except anyio.get_cancelled_exc_class():
            cancelled = {"requestId": number, "reason": "the server no longer needs an answer"}
            self._outbox.put({"method": "notifications/cancelled", "params": cancelled})
            raise
        finally:
            del self._asked[number]
        return question.answer


class _Question:
    """A request that the host has yet to answer."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.answer: dict[str, Any] = {}


def _error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


class _Session:
    """A host in this process, at the other end of a stream; `on_gone` is called when it has closed that."""

    def __init__(self, stream: Any, on_gone: Callable[[], object]) -> None:
        self._stream = stream
        self._on_gone = on_gone

    def encode(self, message: dict[str, Any]) -> Any:
        return message_from_json(message)

    def send_nowait(self, item: Any) -> bool:
        try:
            self._stream.send_nowait(item)
        except anyio.WouldBlock:
            return False
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._on_gone()
        return True

    async def send(self, item: Any) -> None:
        try:
            await self._stream.send(item)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._on_gone()
            await anyio.lowlevel.checkpoint()


class BridgeTransport:
    """`Bridge` as a transport for a session in this process: an async context manager that yields (read, write).

    It runs in its own task, so that different tasks may enter and leave it.
    """

    def __init__(self, client: BridgedClient) -> None:
        self._client = client
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()
        self._task: object = None
        self._ends: list[Any] = []

    async def __aenter__(self) -> tuple[Any, Any]:
        if self._task is not None:
            raise RuntimeError("this transport was already used: call as_transport() again")
        to_host, read = anyio.create_memory_object_stream[Any](_BUFFER)
        write, from_host = anyio.create_memory_object_stream[Any](_BUFFER)
        self._ends = [to_host, read, write, from_host]
        self._task = spawn(lambda: self._run(to_host, from_host))
        return read, write

    async def _run(self, to_host: Any, from_host: Any) -> None:
        async def messages() -> AsyncGenerator[dict[str, Any], None]:
            async for item in from_host:
                yield message_as_json(item)

        try:
            with self._scope:
                async with to_host, from_host:
                    await Bridge(self._client, _Session(to_host, self._scope.cancel)).serve(messages())
        except Exception:
            logger.exception("the bridge in front of %s failed", self._client.name)
        finally:
            self._done.set()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._done.wait()
        for end in self._ends:
            end.close()


__all__ = ["Bridge", "BridgeTransport"]
