"""Pass on the stderr of a server process, line by line, to the log and to the user's `errlog`.

A process may write anything, in any amount: secrets are removed, long lines are cut, and an `errlog` that is a full
pipe or terminal never blocks the event loop. Output that it cannot take is dropped.
"""

from __future__ import annotations

import logging
import select
import sys
from typing import TextIO

from ..foreign_code import calling
from ..text.printable import printable
from ..text.redact import Redactor

logger = logging.getLogger("resilient_mcp.server")

LINE = 4096
"""Maximum bytes of one line; a writable pipe takes this many without blocking (`PIPE_BUF` on Linux)."""

# Bytes of a line without end that are awaited before it is cut: a secret that begins in the part that is shown then
# ends within them, or half of it would not be recognized.
_AWAITED = 4 * LINE


class StderrLines:
    """Splits stderr into lines and passes them on.

    Args:
        server: Name of the server.
        redactor: Removes secrets from the lines.
        errlog: Receives each line with its line break, or None.
    """

    def __init__(self, server: str, redactor: Redactor, errlog: TextIO | None) -> None:
        self._server = server
        self._redactor = redactor
        self._errlog = errlog
        self._begun = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> None:
        """Process the next bytes."""
        if self._errlog is None and not logger.isEnabledFor(logging.INFO):
            self._begun = b""
            return
        *whole, begun = (self._begun + chunk).split(b"\n")
        if whole and self._skipping:
            whole[0] = b""  # the rest of a line that was cut
            self._skipping = False
        if len(begun) > _AWAITED and not self._skipping:
            whole.append(begun)
            self._skipping = True
        self._begun = b"" if self._skipping else begun
        if whole:
            self._take(whole)

    def end(self) -> None:
        """Process the last line, if it has no line break."""
        if self._begun:
            self.feed(b"\n")

    def _take(self, lines: list[bytes]) -> None:
        # Cleaned together, which is cheaper, and before they are cut, since half a secret would not be recognized.
        text = self._redactor.clean(b"\n".join(lines).decode("utf-8", "replace"))
        shown = [_cut(line.rstrip("\r")) for line in text.split("\n") if line.strip()]
        if logger.isEnabledFor(logging.INFO):
            for line in shown:
                logger.info("%s: %s", self._server, printable(line, LINE), extra={"mcp_server": self._server})
        if self._errlog is not None:
            self._write(shown)

    def _write(self, lines: list[str]) -> None:
        """Write whole lines, as many at a time as are certain to fit."""
        pending, size = "", 0
        for line in lines:
            length = len(line.encode("utf-8", "replace")) + 1
            if size + length > LINE:
                self._write_now(pending)
                pending, size = "", 0
            pending, size = f"{pending}{line}\n", size + length
        self._write_now(pending)

    def _write_now(self, text: str) -> None:
        try:
            if text and self._errlog is not None:
                with calling("errlog"):
                    if _takes(self._errlog):
                        self._errlog.write(text)
                        self._errlog.flush()
        except Exception as exc:  # closed or broken: the server continues without it
            logger.warning("%s: stderr is no longer written to errlog: %s", self._server, type(exc).__name__)
            self._errlog = None


def _cut(line: str) -> str:
    """As much of a line as fits in `LINE` bytes with its line break."""
    return line.encode("utf-8", "replace")[: LINE - 1].decode("utf-8", "ignore")


def _takes(stream: TextIO) -> bool:
    """Whether writing one line to `stream` will not block: its reader may have stopped reading."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return True  # it is in memory
    if sys.platform == "win32":  # pragma: no cover - cannot be determined
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
