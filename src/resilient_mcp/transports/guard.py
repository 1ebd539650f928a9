"""A guard stops a server process if this process dies before it could, even by SIGKILL (POSIX)."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

# Waits until its stdin ends, which is when the process that holds the other end is gone, and any fork of it. The
# server's stdin has ended as well, so the guard gives the group two seconds to exit by itself, and two more after
# SIGTERM. It looks at the group in between and ends with it, since the number may be used for another group then.
_SCRIPT = """\
read -r _
for signal in TERM KILL; do
    for second in 1 2; do
        kill -s 0 -- "-$1" || exit
        sleep 1
    done
    kill -s "$signal" -- "-$1"
done"""


class Guard:
    """Stops a process group if this process is gone before it was dismissed, even by SIGKILL.

    Linux's `PR_SET_PDEATHSIG` does not do. It kills the server when the thread that started it ends, is not inherited
    by the children of `npx`, `uvx` or a shell, and leaves a server no time to exit at the end of its stdin. To set it
    takes Python code between fork and exec, which may deadlock and is slow in a large process.

    Args:
        group: The number of the group.
    """

    def __init__(self, group: int) -> None:
        self._shell: subprocess.Popen[bytes] | None = None
        with suppress(OSError):  # no shell, or no more processes or descriptors: the server runs without a guard
            reading, self._writing = os.pipe()
            try:
                # In a session of its own, Ctrl-C and the end of the terminal do not reach it.
                self._shell = subprocess.Popen(  # noqa: S603
                    ["/bin/sh", "-c", _SCRIPT, "resilient-mcp-guard", str(group)],
                    stdin=reading,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                    cwd="/",
                    start_new_session=True,
                )
            finally:
                os.close(reading)
                if self._shell is None:
                    os.close(self._writing)

    def dismiss(self) -> None:
        """End the guard; the group is gone."""
        if self._shell is not None:
            self._shell.kill()
            self._shell.wait()
            self._shell = None
            os.close(self._writing)
