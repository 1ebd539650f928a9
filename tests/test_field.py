"""Servers from npm and PyPI started with `npx` and `uvx`, as users do; `python -m tests.field` covers many more."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest

from .field import check
from .field.check import Bench, found
from .field.servers import SERVERS, Server
from .support import ROOT, every_pair

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"),
]
SMALL = ["@modelcontextprotocol/server-sequential-thinking", "mcp-server-time", "mcp-server-calculator"]
needs_npx_and_uvx = pytest.mark.skipif(
    None in (found("npx"), found("uvx")) and os.environ.get("CI") != "true", reason="needs npx and uvx"
)


class Careless(Server):
    """A server outside any package that leaves a process behind, out of reach of a signal to its group."""

    @property
    def command(self) -> list[str]:
        serve = f"exec {sys.executable} -m tests.servers.raw_server"
        return ["sh", "-c", f"setsid sleep 60 < /dev/null > /dev/null 2>&1 & {serve}"]


@needs_npx_and_uvx
@pytest.mark.timeout(60)  # each one is downloaded
@every_pair("package", SMALL)
async def test_a_packaged_server_is_replaced_and_leaves_nothing(package: str, tmp_path: Path):
    """Started cold and warm, killed in a call, its wrapper killed: one generation each time, and nothing is left."""
    [server] = [server for server in SERVERS if server.package == package]
    row = await Bench(server, tmp_path).run()
    assert row.faults == []
    assert row.connected


async def test_processes_left_behind_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The check can fail: it names and ends each process that outlived its server."""
    monkeypatch.setattr(check, "_SETTLED", 0.2)
    server = Careless("careless", "0", env={"PYTHONPATH": str(ROOT)}, call=("echo", {"text": "hi"}))
    bench = Bench(server, tmp_path)
    row = await bench.run()
    assert row.less
    assert len(row.faults) == 4
    assert all("sleep 60 is left" in fault for fault in row.faults)
    with anyio.fail_after(3):  # a killed process takes a moment to disappear
        while check.marked(bench.place):
            await anyio.sleep(0.02)
