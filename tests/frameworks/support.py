"""What is proven for every framework: its example runs, its model gets the advice, cancelling reaches the server."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from mcp import StdioServerParameters

from resilient_mcp.demo.server import forecast_for
from tests.support import ROOT, nothing_left
from tests.test_examples import run_alone

EXAMPLES = ROOT / "examples" / "frameworks"
LOSE_AN_ORDER: list[Any] = [("place_order", {"item": "tea"})]
HANG: list[Any] = [("slow", {})]
ADVICE = re.compile(
    "tools/call place_order on MCP server 'tests.frameworks.server' got no answer: the server process .* ended: "
    "exit status 1. It was sent once. The server may have run it, and may still be running it: check before "
    "repeating it."
)

Main = Callable[..., Awaitable[str]]
"""An example's `main(server, script)`: runs an agent whose model follows the script, and returns its last words."""


class Journaled:
    """A server that records what reaches it.

    Attributes:
        parameters: How to start it.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = folder / "journal"
        module = "tests.frameworks.server"
        self.parameters = StdioServerParameters(
            command=sys.executable, args=["-m", module, str(self._journal)], cwd=ROOT
        )

    def journal(self) -> list[str]:
        return self._journal.read_text(encoding="utf-8").splitlines() if self._journal.exists() else []

    def ran(self) -> list[str]:
        """The journal without cancellations: a client also cancels when it closes while listing the tools."""
        return [line for line in self.journal() if line != "cancel received"]

    async def wait_for(self, line: str) -> None:
        with anyio.fail_after(40):  # a framework and its server start in 5 s, and take far longer on a busy machine
            while line not in self.journal():
                await anyio.sleep(0.01)


def check_example(name: str, home: Path) -> None:
    """The example is short, gets an answer after the kill as it stands, and leaves no process behind."""
    path = EXAMPLES / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    docstring = ast.parse(text).body[0]
    assert sum(bool(line.strip()) for line in text.splitlines()[docstring.end_lineno :]) <= 20
    done = run_alone(str(path), home=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"The tool says: {forecast_for('Bergen')}"
    assert "Traceback" not in done.stderr


async def check_advice(main: Main, folder: Path) -> None:
    """The model gets the advice for a call that may have run and must not run twice; and it did not run twice."""
    server = Journaled(folder)
    async with nothing_left():
        reply = await main(server.parameters, LOSE_AN_ORDER)
    assert server.ran() == ["ordered tea"]
    assert ADVICE.search(reply), reply
    assert "Traceback" not in reply


async def check_cancel(main: Main, folder: Path) -> None:
    """Cancelling the run during a call cancels the call on the server, and leaves nothing behind."""
    server = Journaled(folder)
    async with nothing_left():
        run = asyncio.ensure_future(main(server.parameters, HANG))
        await server.wait_for("slow began")
        run.cancel()
        await asyncio.wait([run], timeout=15)
        assert run.cancelled()
    assert server.journal()[:2] == ["slow began", "cancel received"]
    assert "slow was cancelled" in server.journal()
