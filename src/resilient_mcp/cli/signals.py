"""Ctrl-C and SIGTERM end a command at any moment: no traceback, the exit status a shell would give, no process left.

While nothing needs closing (imports, parsing, interpreter shutdown), a signal ends the process immediately. While a
coroutine runs, it is cancelled instead, so that it closes what it opened. An exception raised by a signal handler, such
as `KeyboardInterrupt`, would surface in whatever code happens to be running.

This is the first module that the command imports, so it imports nothing slow.
"""

import os
import signal

TYPE_CHECKING = False  # `typing` takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """What a signal does to this process.

    Attributes:
        on_signal: Called with the signal's number; None to end the process immediately.
    """

    def __init__(self) -> None:
        self.on_signal: Callable[[int], object] | None = None

    def install(self) -> None:
        """Handle SIGINT and SIGTERM from now on."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    # `os._exit` is bound as a default: a signal may still arrive at interpreter shutdown, when module globals are gone.
    def _handle(self, number: int, _frame: object, _exit: "Callable[[int], object]" = os._exit) -> None:
        if self.on_signal is None:
            _exit(128 + number)
        else:
            self.on_signal(number)


signals = Signals()
"""The signal handling of this process."""
