"""What a server process writes to stderr, line by line, for the log and for the user's `errlog`.

A process may write anything, and any amount: lines are cut, secrets taken out, and a terminal or pipe that nobody reads
never blocks the event loop. What it cannot take is dropped.
"""

from __future__ import annotations

import logging
import select
import sys
from typing import TextIO

from ..evidence import printable
from ..redact import Redactor

logger = logging.getLogger("resilient_mcp.server")

LINE = 4096
"""Bytes of one line that are kept; a pipe that can be written to takes so many at once (POSIX's `PIPE_BUF`)."""


class StderrLines:
    """Splits stderr into lines and hands them on.

    Args:
        server: The name of the server.
        redactor: Takes secrets out of the lines.
        errlog: Gets each line with its line break, or None.
    """

    def __init__(self, server: str, redactor: Redactor, errlog: TextIO | None) -> None:
        self._server = server
        self._redactor = redactor
        self._errlog = errlog
        self._begun = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        if self._errlog is None and not logger.isEnabledFor(logging.INFO):
            self._begun = b""
            return
        *whole, begun = (self._begun + chunk).split(b"\n")
        for line in whole:
            if not self._skipping:
                self._take(line)
            self._skipping = False
        if len(begun) > LINE and not self._skipping:
            self._take(begun)
            self._skipping = True
        self._begun = b"" if self._skipping else begun

    def end(self) -> None:
        """Nothing more will come: what was begun is a line, too."""
        if self._begun:
            self.feed(b"\n")

    def _take(self, line: bytes) -> None:
        text = self._redactor.head(line.decode("utf-8", "replace").rstrip("\r"), LINE)[:LINE]
        if not text.strip():
            return
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s: %s", self._server, printable(text, LINE), extra={"mcp_server": self._server})
        if self._errlog is not None:
            self._write(text)

    def _write(self, text: str) -> None:
        assert self._errlog is not None
        try:
            if _takes(self._errlog):
                self._errlog.write(f"{text}\n")
                self._errlog.flush()
        except Exception as exc:  # closed, or broken: the server goes on without it
            logger.warning("%s: its stderr goes to errlog no more: %s", self._server, type(exc).__name__)
            self._errlog = None


def _takes(stream: TextIO) -> bool:
    """Whether writing one line to `stream` will not block: who reads it may have stopped to."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return True  # it is in memory
    if sys.platform == "win32":  # pragma: no cover - there is no way to ask
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
