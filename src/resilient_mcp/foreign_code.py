"""The boundary around foreign code: callbacks, hooks, auth flows, transports, listeners, and handlers of logs.

Inside `with calling(...)` or `with awaiting(...)`, foreign code can only raise an `Exception`. Whatever else it raises
(a `BaseException`, a `CancelledError` although nothing was cancelled, an error without a readable text) would end the
tasks of a client, and is raised as a `ForeignCodeError` that names the culprit. What passes unchanged: a real
cancellation, and `KeyboardInterrupt` and `SystemExit`, which are meant to end the program.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeAlias

import anyio

from .event_loop import in_trio
from .text.printable import first_leaf

Log: TypeAlias = Callable[[str, BaseException], object]
"""Logs an error: takes what happened, and the error."""


class ForeignCodeError(RuntimeError):
    """Raised in place of what foreign code must not raise, which is its cause."""


class calling:  # noqa: N801 - reads as a statement, like `suppress`
    """The boundary around a synchronous call of foreign code. Nothing can be cancelled in it.

    Args:
        culprit: What is called, as named in errors.
        log: Called with each error, which then ends here; None raises it.

    Raises:
        ForeignCodeError: It raised something other than a readable `Exception`.
    """

    __slots__ = ("_culprit", "_log")

    def __init__(self, culprit: str, log: Log | None = None) -> None:
        self._culprit = culprit
        self._log = log

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if exc is None or _ends_program(exc) or self._is_cancellation(exc):
            return False
        shown = _shown(exc)
        error = exc
        if shown is None or not isinstance(exc, Exception):
            error = ForeignCodeError(f"{self._culprit} raised {shown or type(exc).__name__}{self._remark(exc)}")
            error.__cause__ = exc
        if self._log is not None:
            self._log(f"{self._culprit} raised", error)
            return True
        if error is not exc:
            raise error
        return False

    def _is_cancellation(self, exc: BaseException) -> bool:  # noqa: ARG002 - for `awaiting`
        return False

    @staticmethod
    def _remark(exc: BaseException) -> str:
        return ", although nothing was cancelled" if isinstance(exc, asyncio.CancelledError) else ""


class awaiting(calling):  # noqa: N801
    """The boundary around foreign code that is awaited.

    A trio cancellation is always real. On asyncio, any code can raise `CancelledError`, for example by awaiting a
    future that somebody else cancelled. It is real if a cancel scope around the boundary is cancelled or if the task is
    being cancelled (`Task.cancelling()`). Two limits: a caller's task that has swallowed an earlier cancellation
    without `uncancel()` counts as being cancelled; and Python 3.10 has no `cancelling()`, so there every
    `CancelledError` in the task of a caller counts as real, and none in a task of the client's own.

    Args:
        culprit: What is called, as named in errors.
        log: Called with each error, which then ends here; None raises it.
        by_caller: Whether this runs in the task of a caller, who may cancel it with `Task.cancel()`. The client's own
            tasks are cancelled by their scopes, or all together at the end of the event loop.

    Raises:
        ForeignCodeError: It raised something other than a readable `Exception` or a real cancellation.
    """

    __slots__ = ("_by_caller",)

    def __init__(self, culprit: str, log: Log | None = None, *, by_caller: bool = False) -> None:
        super().__init__(culprit, log)
        self._by_caller = by_caller

    def _is_cancellation(self, exc: BaseException) -> bool:
        if isinstance(exc, GeneratorExit):  # the coroutine that the boundary is in was closed
            return True
        return _consists_of(anyio.get_cancelled_exc_class(), exc) and (in_trio() or _is_cancelled(self._by_caller))


class running(awaiting):  # noqa: N801
    """The boundary around a whole task of the client's own, in which every cancellation counts as real.

    The end of the event loop cancels it, and a task group inside leaves no trace of that: anyio takes the count of
    `Task.cancelling()` back.
    """

    __slots__ = ()

    def _is_cancellation(self, exc: BaseException) -> bool:
        return isinstance(exc, GeneratorExit) or _consists_of(anyio.get_cancelled_exc_class(), exc)


def guarded(culprit: str, function: Callable[..., Awaitable[Any]], log: Log | None = None) -> Callable[..., Any]:
    """`function`, called inside the boundary, by a task of the client."""

    async def call(*args: Any, **options: Any) -> Any:
        with awaiting(culprit, log):
            return await function(*args, **options)

    return call


def guarded_logger(name: str) -> logging.Logger:
    """The logger of this name, whose filters and handlers, which are the application's, cannot fail a call.

    As by the handlers of the standard library, an error in them is printed to stderr, unless `logging.raiseExceptions`
    is false.
    """
    logger = logging.getLogger(name)
    # On the instance, since the application may have chosen the class, or created the logger already.
    if not hasattr(logger, "_resilient_mcp"):
        handle = logger.handle

        def handle_safely(record: logging.LogRecord) -> None:
            with calling("a logging filter or handler", lambda *_: logging.NullHandler().handleError(record)):
                handle(record)

        logger.handle = handle_safely  # type: ignore[method-assign]
        logger._resilient_mcp = True  # type: ignore[attr-defined] # noqa: SLF001
    return logger


def _ends_program(exc: BaseException) -> bool:
    if isinstance(exc, KeyboardInterrupt | SystemExit):
        return True
    return not isinstance(exc, Exception) and any(map(_ends_program, getattr(exc, "exceptions", ())))


def _consists_of(kind: type[BaseException], exc: BaseException) -> bool:
    """Whether `exc` is of this kind, or a group of nothing else."""
    if (members := getattr(exc, "exceptions", None)) is not None:
        return all(_consists_of(kind, member) for member in members)
    return isinstance(exc, kind)


def _is_cancelled(by_caller: bool) -> bool:
    """Whether the running asyncio task is being cancelled."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    cancelling = getattr(asyncio.current_task(), "cancelling", None)
    return by_caller if cancelling is None else cancelling() > 0


def _shown(exc: BaseException) -> str | None:
    """The type and the text of `exc`, neither cut nor cleaned; None if its text cannot be had."""
    try:
        exc = first_leaf(exc)
        text = str(exc)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # `__str__` of a foreign class
        return None
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


# Named here, so that each module gets the guarded one.
guarded_logger("resilient_mcp")
guarded_logger("resilient_mcp.server")
