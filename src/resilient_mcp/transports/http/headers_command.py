"""HTTP headers from a command: `headersHelper` in a file of servers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

import anyio
from pydantic_core import from_json

# Seconds that the command may take (as in Claude Code).
_LIMIT = 10.0

# Characters of its output and its error output that are read and shown.
_READ, _SHOWN = 64 * 1024, 200


class HeadersCommand:
    """Runs a command that prints headers, as a JSON object of strings. An instance is a `HeadersFunction`.

    The command runs in a shell, in this process's directory and environment, with `CLAUDE_CODE_MCP_SERVER_NAME` and
    `CLAUDE_CODE_MCP_SERVER_URL` in addition, so that a helper written for Claude Code works unchanged.

    Args:
        command: The command.
        name: The server's name.
        url: The server's URL.
    """

    def __init__(self, command: str, *, name: str, url: str) -> None:
        self._command = command
        self._server = {"CLAUDE_CODE_MCP_SERVER_NAME": name, "CLAUDE_CODE_MCP_SERVER_URL": url}

    def __repr__(self) -> str:
        return "HeadersCommand(...)"  # a command may contain a secret

    async def __call__(self) -> Mapping[str, str]:
        """The headers that the command prints now.

        Raises:
            RuntimeError: It fails, or takes longer than 10 seconds.
            TypeError: It prints something else.
        """
        try:
            with anyio.fail_after(_LIMIT):
                done = await anyio.run_process(
                    self._command, stdin=subprocess.DEVNULL, env={**os.environ, **self._server}, check=False
                )
        except TimeoutError:
            raise RuntimeError(f"headersHelper took longer than {_LIMIT:g} s") from None
        if done.returncode:
            said = done.stderr[-_SHOWN:].decode("utf-8", "replace").strip()
            raise RuntimeError(f"headersHelper ended with exit status {done.returncode}: {said or 'no error output'}")
        try:
            headers = from_json(done.stdout[:_READ])
        except ValueError:
            headers = None
        if not isinstance(headers, dict):  # what it printed is not quoted: it may be a token
            raise TypeError('headersHelper did not print a JSON object: print one such as {"Authorization": "..."}')
        return headers
