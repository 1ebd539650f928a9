"""Repairs of SDK sessions that would lose an answer, hang, or end because of one caller or one callback."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, cast

import anyio
import anyio.abc
from mcp import types
from mcp.shared.message import SessionMessage

from ..event_loop import Signal
from ..foreign_code import awaiting
from ..in_flight import current_attempt
from ..schemas import CompiledSchemas, text_of
from ..text.printable import printable
from .installed import INVALID_PARAMS, MAJOR
from .results import has_structured_content, structured_content

logger = logging.getLogger("resilient_mcp")

# Seconds that the first results of a connection wait for the list of tools, which only their validation needs.
_LISTING_PATIENCE = 1.0


def _listing_patience() -> float:
    """`_LISTING_PATIENCE` for the running attempt: at most half of the time it has left."""
    attempt = current_attempt.get()
    left = math.inf if attempt is None else attempt.scope.deadline - anyio.current_time()
    return min(_LISTING_PATIENCE, left / 2)


def keep_answers(session: Any) -> None:
    """Keep the SDK's validation of tool results from losing, replacing or delaying one; see `_ResultValidation`."""
    method = "_validate_tool_result" if MAJOR == 1 else "validate_tool_result"
    validation = _ResultValidation(session, getattr(session, method))
    session.list_tools = validation.list_tools
    setattr(session, method, validation.validate_if_possible)


class _ResultValidation:
    """The SDK's validation of tool results.

    The SDK lists the tools when it gets a result of a tool it has not seen listed. If that listing fails or is slow, or
    the schema is unusable, the result is delivered unvalidated, because the tool has run. Only content that does not
    conform raises the SDK's `RuntimeError`. A listing in progress, such as the catalog's, is waited for; only without
    one is another made, once per connection. Later results are validated once the catalog has listed the tools. A check
    that would block the event loop is not made.
    """

    def __init__(self, session: Any, validate: Callable[[str, Any], Awaitable[None]]) -> None:
        self._session = session
        self._list_tools = session.list_tools
        self._validate = validate
        self._schemas = CompiledSchemas()
        self._in_progress = 0
        self._progress = Signal()
        self._asked = self._listed = self._is_slow = False

    @property
    def _known(self) -> dict[str, Any]:
        """The schemas of the tools that were listed."""
        return cast("dict[str, Any]", self._session._tool_output_schemas)  # noqa: SLF001

    async def list_tools(self, *args: Any, **options: Any) -> Any:
        """The session's `list_tools`."""
        self._in_progress += 1
        try:
            return await self._list_tools(*args, **options)
        finally:
            self._in_progress -= 1
            self._progress.notify()

    async def _list(self, name: str) -> None:
        """List the tools, unless that is in progress or was tried before."""
        while self._in_progress and name not in self._known:
            await self._progress.wait()
        if name in self._known or self._asked:
            return
        self._asked = True
        # The listing runs in the task of a call that has its response already. Bound to that call's attempt, it would
        # be the attempt's latest request: if the connection ended now, the call would count as unanswered, and might
        # be repeated.
        token = current_attempt.set(None)
        try:
            await self.list_tools()
            self._listed = True
        except Exception as exc:
            logger.debug("the result of %s is not validated: %s", printable(name, 100), printable(str(exc)))
        finally:
            current_attempt.reset(token)

    async def validate_if_possible(self, name: str, result: Any) -> None:
        """Validate the result of the tool `name`, in place of the session's own method."""
        if name not in self._known and not self._is_slow:
            with anyio.move_on_after(_listing_patience()) as waiting:
                await self._list(name)
            self._is_slow = waiting.cancelled_caught
        known = self._known
        if self._listed and name not in known:
            logger.warning("the server does not list the tool %s: its result is not validated", printable(name, 100))
        schema = known.get(name)
        if schema is None:
            return
        if not has_structured_content(result):
            await self._validate(name, result)  # raises, without a look at the schema
            return
        _check(self._schemas, name, schema, structured_content(result))


def _check(schemas: CompiledSchemas, tool: str, schema: Any, content: Any) -> None:
    """Check the content of a result, if that is possible.

    The SDK's own check has no limit, and 1.x compiles the schema for every result, which takes 1.6 ms.

    Raises:
        RuntimeError: It does not conform, as raised by the SDK.
    """
    try:
        faults = schemas.errors(tool, schema, content)
    except Exception as exc:
        logger.debug("the result of %s cannot be validated: %s", printable(tool, 100), printable(str(exc)))
        return
    if faults:
        from jsonschema.exceptions import best_match  # noqa: PLC0415 - imported by now

        fault: Any = best_match(faults)
        raise RuntimeError(f"Invalid structured content returned by tool {tool}: {text_of(fault)}") from fault


# Seconds that a result waits for the callbacks of messages that arrived before it.
_CALLBACK_PATIENCE = 1.0


_in_callback: ContextVar[bool] = ContextVar("in_callback", default=False)


# Server messages that may queue behind slow user callbacks; beyond that the oldest are dropped.
_WAITING_MESSAGES = 1000


class CallbackLane:
    """Runs callbacks one after the other, in the order in which they are put, beside everything else."""

    def __init__(self, beside: anyio.abc.TaskGroup) -> None:
        self._beside = beside
        self._waiting: deque[tuple[Callable[..., Awaitable[None]], tuple[Any, ...]]] = deque(maxlen=_WAITING_MESSAGES)
        self._put_count = self._done_count = 0
        self._done = Signal()
        self._is_running = False

    @property
    def is_behind(self) -> bool:
        """Whether a callback has not run to its end yet."""
        return self._done_count < self._put_count

    def put(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run a callback after all earlier ones."""
        if self._beside.cancel_scope.cancel_called:
            return  # the session is over
        if len(self._waiting) == _WAITING_MESSAGES:  # the deque drops the oldest, which `caught_up` must not wait for
            self._count_done()
        self._waiting.append((function, arguments))
        self._put_count += 1
        if not self._is_running:
            self._is_running = True
            self._beside.start_soon(self._run)

    def later(self, function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """A coroutine function that only puts `function`."""

        async def put(*arguments: Any) -> None:
            self.put(function, *arguments)

        return put

    async def _run(self) -> None:
        _in_callback.set(True)
        try:
            while self._waiting:
                function, arguments = self._waiting.popleft()
                try:
                    with awaiting("a callback", _log):
                        await function(*arguments)
                finally:
                    self._count_done()
        finally:
            self._is_running = False

    def _count_done(self) -> None:
        self._done_count += 1
        self._done.notify()

    async def caught_up(self) -> None:
        """Wait until all callbacks put so far have run."""
        before = self._put_count
        while self._done_count < before:
            await self._done.wait()


def _log(what: str, exc: BaseException) -> None:
    logger.warning("%s while handling a server message: %s", what, printable(str(exc)))


class CallbackRunner:
    """Runs the callbacks of a 1.x session outside its reader task.

    1.x awaits them in the reader: while a callback runs no response is read, and one that calls the client deadlocks.
    Here server requests are answered concurrently, and notifications are handled in order.
    """

    def __init__(self, session: Any, beside: anyio.abc.TaskGroup) -> None:
        self._session = session
        self._beside = beside
        self._answer, self._handle = session._received_request, session._handle_incoming  # noqa: SLF001
        self._note = session._received_notification  # noqa: SLF001
        self._answering: dict[int, Any] = {}
        self._messages = CallbackLane(beside)
        session._received_request = self._received_request  # noqa: SLF001
        session._received_notification = self._received_notification  # noqa: SLF001
        session._handle_incoming = self._handle_incoming  # noqa: SLF001

    def lane(self) -> CallbackLane:
        """A lane for the progress callbacks of one call: a slow one delays neither other calls nor their callbacks."""
        return CallbackLane(self._beside)

    async def _received_request(self, responder: Any) -> None:
        self._answering[id(responder)] = responder
        self._beside.start_soon(self._answer_beside, responder)

    async def _answer_beside(self, responder: Any) -> None:
        _in_callback.set(True)
        try:
            with awaiting("a callback"):
                await self._answer(responder)
                if not responder._completed:  # noqa: SLF001 - the reader, too, passes these on to `message_handler`
                    await self._handle(responder)
        except Exception as exc:  # reply as the reader itself would
            logger.warning("a server request could not be answered: %s", printable(str(exc)))
            error = types.ErrorData(code=INVALID_PARAMS, message="Invalid request parameters", data="")
            with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                await self._session._send_response(responder.request_id, error)  # noqa: SLF001
        finally:
            del self._answering[id(responder)]

    async def _received_notification(self, notification: Any) -> None:
        self._messages.put(self._note, notification)

    async def _handle_incoming(self, message: Any) -> None:
        if id(message) not in self._answering:  # the reader passes on each open request; `_answer_beside` does that
            self._messages.put(self._handle, message)

    async def caught_up(self, lane: CallbackLane | None = None) -> None:
        """Wait until all earlier messages have been handled, at most `_CALLBACK_PATIENCE` seconds.

        Callers of 1.x may rely on that order. In a callback this returns immediately, or it would wait for itself.

        Args:
            lane: The lane of the caller's progress callbacks, or None.
        """
        behind = [each for each in (self._messages, lane) if each is not None and each.is_behind]
        if behind and not _in_callback.get():
            with anyio.move_on_after(_CALLBACK_PATIENCE):
                for each in behind:
                    await each.caught_up()


def survive_cancelled_callers(session: Any) -> None:
    """Keep a 1.x session alive if a call is abandoned at the moment its response is delivered.

    1.x looks up the waiting call, yields once, and then writes to a stream that may be closed by then. Its reader would
    end although the server is alive, and every other call would fail with "Connection closed".
    """
    handle = session._handle_response  # noqa: SLF001

    async def handle_response(message: SessionMessage) -> None:
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await handle(message)

    session._handle_response = handle_response  # noqa: SLF001
