"""Servers of npm and PyPI as people start them, by `npx` and `uvx`; `python -m tests.field` has many more."""

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
    """A server in no package, which leaves a process behind that no signal to its group reaches."""

    @property
    def command(self) -> list[str]:
        serve = f"exec {sys.executable} -m tests.servers.raw_server"
        return ["sh", "-c", f"setsid sleep 60 < /dev/null > /dev/null 2>&1 & {serve}"]


@needs_npx_and_uvx
@pytest.mark.timeout(60)  # each is downloaded
@every_pair("package", SMALL)
async def test_a_server_as_people_start_it(package: str, tmp_path: Path):
    """Cold and warm, killed in a call, and its wrapper killed: one generation each time, and nothing left."""
    [server] = [server for server in SERVERS if server.package == package]
    row = await Bench(server, tmp_path).run()
    assert row.faults == []
    assert row.connected


async def test_what_is_left_behind_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The check can fail: it names each process that outlived its server, and ends it."""
    monkeypatch.setattr(check, "_SETTLED", 0.2)
    server = Careless("careless", "0", env={"PYTHONPATH": str(ROOT)}, call=("echo", {"text": "hi"}))
    bench = Bench(server, tmp_path)
    row = await bench.run()
    assert row.less
    assert len(row.faults) == 4
    assert all("sleep 60 is left" in fault for fault in row.faults)
    with anyio.fail_after(3):  # what was killed is gone a moment later
        while check.marked(bench.place):
            await anyio.sleep(0.02)
