"""Repairs of SDK sessions that would lose an answer, hang, or end because of one caller or one callback."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, cast

import anyio
import anyio.abc
from jsonschema.exceptions import ValidationError
from jsonschema.validators import validator_for
from mcp import types
from mcp.shared.message import SessionMessage
from referencing import Registry

from ..event_loop import Signal
from ..in_flight import current_attempt
from ..text.printable import printable
from .installed import INVALID_PARAMS, MAJOR, logger
from .results import structured_content


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


def keep_answers(session: Any) -> None:
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


class CallbackRunner:
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


def survive_cancelled_callers(session: Any) -> None:
    """Let a session of 1.x survive that a call is given up in the very moment its answer is handed over.

    1.x looks up who waits, yields once, and then writes to a stream that is closed by then: its reader would end, with
    the server alive, and every other call be told "Connection closed".
    """
    handle = session._handle_response  # noqa: SLF001

    async def handle_response(message: SessionMessage) -> None:
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await handle(message)

    session._handle_response = handle_response  # noqa: SLF001
