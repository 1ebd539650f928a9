"""Ctrl-C and SIGTERM end a command at any moment: no traceback, the status that a shell gives, no process left.

While nothing runs that has to be closed (imports, parsing, the interpreter's shutdown), a signal ends the process on
the spot. While a coroutine runs, it is cancelled instead, so that it closes what it opened. An exception raised by a
signal, as `KeyboardInterrupt` is, would surface in whatever code happens to run.

`signals` is the first thing that the command imports, so it imports nothing that takes time.
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
        on_signal: Called with the number of a signal; None to end the process on the spot.
    """

    def __init__(self) -> None:
        self.on_signal: Callable[[int], object] | None = None

    def install(self) -> None:
        """From now on SIGINT and SIGTERM are handled here."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    # When the interpreter shuts down, names of modules are gone before the last signal may come.
    def _handle(self, number: int, _frame: object, _exit: "Callable[[int], object]" = os._exit) -> None:
        if self.on_signal is None:
            _exit(128 + number)
        else:
            self.on_signal(number)


signals = Signals()
"""The handlers of this process."""
