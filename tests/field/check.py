"""The steps that each server goes through, and the required outcomes."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import mcp
from mcp import StdioServerParameters
from mcp.client.stdio import stdio_client

from resilient_mcp import ConnectionLost, Disconnected, Event, GarbageOnStdout, ResilientClient, Starting
from resilient_mcp._sdk.installed import MAJOR, MCPError

from ..support import is_repeatable, listed
from .servers import Server

MARK = "RESILIENT_MCP_FIELD"
"""Names the folder of a server in its environment and in that of all that it starts."""
PATIENCE = 150.0
"""Seconds that a start, or one step after it, may take: more than the policy's own limits."""
AGAIN = "sent again"
# Seconds until the stopped processes are gone.
_SETTLED = 5.0
# Seconds after which a call to a server that does not read is surely in its pipe.
_SENT = 0.3
_KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "https://127.0.0.1:9"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {}}]
current-context: none
"""


@dataclass
class Row:
    """The measurements of a server, and its faults.

    Attributes:
        name: The server.
        cold: Seconds to the first start, with an empty cache.
        warm: Seconds to the second.
        plain: Seconds to a start by the plain SDK, after both; NaN when it does not connect.
        starting: The last report of the slow start, in one line.
        cold_version: The version that the first start negotiated, and how: on mcp 2.x one that takes longer than 10 s
            may find less than the server can do, with the plain SDK too.
        version: The same for the second start.
        plain_version: The same with the plain SDK, after both, or why it does not connect.
        lists: The numbers of tools, resources and prompts; None for an undeclared kind, or the server's error.
        plain_lists: The same with the plain SDK.
        call: The call, and how it ended.
        killed: How the call in flight ended when the server was killed, and the seconds until the next answer.
        orphaned: Seconds from the death of the wrapper to the next answer.
        garbage: Its output on stdout that is not an MCP message.
        faults: The broken promises.
    """

    name: str
    cold: float = math.nan
    warm: float = math.nan
    plain: float = math.nan
    starting: str = ""
    cold_version: str = ""
    version: str = ""
    plain_version: str = ""
    lists: tuple[int | str | None, ...] = ()
    plain_lists: tuple[int | str | None, ...] = ()
    call: str = "-"
    killed: str = ""
    orphaned: float = math.nan
    garbage: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def connected(self) -> bool:
        """Whether it starts with `ResilientClient`."""
        return not math.isnan(self.cold)

    @property
    def less(self) -> bool:
        """Whether a promise was broken; a server that does not start with the plain SDK either does not count."""
        return bool(self.faults) and (self.connected or not math.isnan(self.plain))


class Bench:
    """A server with its own working folder and empty cache."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.row = Row(server.package)
        self.place = folder / "place"
        self._cache = folder / "cache"
        self.place.mkdir()
        (self.place / "notes.txt").write_text("notes\n")
        (self.place / "code.js").write_text("let x = 1;\n")
        (self.place / "eslint.config.mjs").write_text("export default [];\n")
        (self.place / "kubeconfig").write_text(_KUBECONFIG)
        subprocess.run(["git", "init", "--quiet", str(self.place)], check=True)

    def filled(self, value: Any) -> Any:
        """`value` with `{folder}` replaced by the working folder."""
        if isinstance(value, str):
            return value.replace("{folder}", str(self.place))
        if isinstance(value, dict):
            return {name: self.filled(part) for name, part in value.items()}
        return [self.filled(part) for part in value] if isinstance(value, (list, tuple)) else value

    @property
    def parameters(self) -> StdioServerParameters:
        """The full environment, because it holds the registry settings, but with a private cache."""
        command, *args = self.server.command
        own = {
            MARK: str(self.place),
            "npm_config_cache": str(self._cache / "npm"),
            "UV_CACHE_DIR": str(self._cache / "uv"),
            "UV_TOOL_DIR": str(self._cache / "tools"),
            "UV_PYTHON_DOWNLOADS": "never",
            "DO_NOT_TRACK": "1",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE_"))}
        env = {**kept, **own, **self.filled(self.server.env)}
        return StdioServerParameters(
            command=found(command) or command, args=self.filled(args), env=env, cwd=str(self.place)
        )

    # --- the steps ---

    async def run(self) -> Row:
        """Run all steps. A step that fails is a fault, and the rest are skipped."""
        row = self.row
        try:
            async with self._client("cold start") as client:
                row.cold = self._took
                row.cold_version = _negotiated(client)
            async with self._client("warm start") as client:
                row.warm = self._took
                row.version = _negotiated(client)
                await self._look(client)
                await self._call(client)
                await self._kill(client)
                await self._orphan(client)
        except Exception as exc:
            row.faults.append(f"{self._step}: {_text(exc)}")
        await self._alone("after closing")
        await self._plain()
        if row.lists and row.plain_lists:
            ours, plain = (row.version, row.lists), (row.plain_version, row.plain_lists)
            if ours != plain:
                row.faults.append(f"version and lists are {ours}, with the plain SDK {plain}")
        return row

    @asynccontextmanager
    async def _client(self, step: str) -> AsyncIterator[ResilientClient]:
        """A client with the default policy."""
        self._step = step
        client = ResilientClient(self.parameters, on_event=self._hear)
        began = time.monotonic()
        try:
            with anyio.fail_after(PATIENCE):
                await client.start()
            self._took = time.monotonic() - began
            if client.generation != 1:
                self.row.faults.append(f"{step}: generation {client.generation}")
            yield client
        finally:
            await client.aclose()
        await self._alone(f"{step}, after closing")

    def _hear(self, event: Event) -> None:
        if isinstance(event, Starting) and self._step == "cold start":
            self.row.starting = f"{event.elapsed:.0f} s: {event.stderr or 'nothing on stderr'}"
        if isinstance(event, GarbageOnStdout):
            self.row.garbage = event.sample

    async def _look(self, client: ResilientClient) -> None:
        self._step = "lists"
        with anyio.fail_after(PATIENCE):
            self.row.lists = await _lists(client, client.server_capabilities)

    async def _call(self, client: ResilientClient) -> None:
        if self.server.call is not None:
            self._step = f"call of {self.server.call[0]}"
            with anyio.fail_after(PATIENCE):
                result = await self._ask(client)
            error = result.isError if MAJOR == 1 else result.is_error
            self.row.call = f"{self.server.call[0]}: {'isError' if error else 'result'}"

    async def _ask(self, client: ResilientClient) -> Any:
        """Make the call or, without one, list the tools."""
        if self.server.call is None:
            return await client.list_tools()
        tool, arguments = self.server.call
        return await client.call_tool(tool, self.filled(arguments))

    async def _kill(self, client: ResilientClient) -> None:
        """Kill the server during a call."""
        self._step = "kill -9 of the server in a call"
        await listed(client)
        repeatable = self.server.call is None or is_repeatable(client, self.server.call[0])
        before = marked(self.place)
        pid = server_of(self.place)
        ended_as: list[str] = []

        async def call() -> None:
            try:
                await self._ask(client)
                ended_as.append(AGAIN)
            except ConnectionLost as lost:
                ended_as.append("may have run" if lost.may_have_run else f"got {lost}")

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tg:
                os.kill(pid, signal.SIGSTOP)
                tg.start_soon(call)
                await anyio.sleep(_SENT)
                if ended_as:
                    self.row.faults.append(f"{self._step}: {ended_as} though the server was stopped")
                os.kill(pid, signal.SIGKILL)
                began = time.monotonic()
            took = await self._recovered(client, 2, before, began)
        if (ended_as == [AGAIN]) is not bool(repeatable):
            self.row.faults.append(f"{self._step}: {ended_as}, and it is {'' if repeatable else 'not '}repeatable")
        self.row.killed = f"{ended_as[0]}, {took:.1f} s"

    async def _orphan(self, client: ResilientClient) -> None:
        """Kill the wrapper (`npx` or `uvx`) and leave the server alone."""
        self._step = "kill -9 of the wrapper"
        before = marked(self.place)
        events = client.events()
        with anyio.fail_after(PATIENCE):
            os.kill(wrapper(self.place), signal.SIGKILL)
            began = time.monotonic()
            async for event in events:  # until then the server itself may still answer
                if isinstance(event, Disconnected):
                    break
            self.row.orphaned = await self._recovered(client, 3, before, began)

    async def _recovered(self, client: ResilientClient, generation: int, before: set[int], began: float) -> float:
        """The seconds from `began` to the next answer, with no process of `before` left."""
        tools = (await client.list_tools()).tools
        took = time.monotonic() - began
        if not tools:
            self.row.faults.append(f"{self._step}: no tools any more")
        if client.generation != generation:
            self.row.faults.append(f"{self._step}: generation {client.generation}, not {generation}")
        await self._alone(self._step, before)
        return took

    async def _alone(self, step: str, only: set[int] | None = None) -> None:
        """Check that no process is left (of `only`); those that are left are faults, and are killed."""
        with anyio.move_on_after(_SETTLED):
            while _of(marked(self.place), only):
                await anyio.sleep(0.05)
        for pid in _of(marked(self.place), only):
            self.row.faults.append(f"{step}: {_words(pid)} is left")
            _end(pid)

    async def _plain(self) -> None:
        """The plain SDK as in its documentation, with the warm cache."""
        row = self.row
        began = time.monotonic()
        try:
            with open(os.devnull, "w") as errlog, anyio.fail_after(PATIENCE):
                transport = stdio_client(self.parameters, errlog=errlog)
                if MAJOR == 1:
                    async with transport as streams, mcp.ClientSession(*streams) as session:
                        result = await session.initialize()
                        row.plain = time.monotonic() - began
                        row.plain_version = f"{result.protocolVersion}, legacy"
                        row.plain_lists = await _lists(session, result.capabilities)
                else:
                    async with mcp.Client(transport) as client:
                        row.plain = time.monotonic() - began
                        era = "modern" if client.session.initialize_result is None else "legacy"
                        row.plain_version = f"{client.session.protocol_version}, {era}"
                        row.plain_lists = await _lists(client, client.server_capabilities)
        except Exception as exc:
            row.plain_version = row.plain_version or _text(exc)
        for pid in marked(self.place):
            _end(pid)


def found(program: str) -> str | None:
    """The path of a program: on `PATH`, or beside this Python."""
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))


def _negotiated(client: ResilientClient) -> str:
    return f"{client.protocol_version}, {'legacy' if client._session.is_legacy else 'modern'}"


async def _lists(client: Any, capabilities: Any) -> tuple[int | str | None, ...]:
    """The numbers of tools, resources and prompts on all pages, or the server's error."""
    counts: list[int | str | None] = []
    for kind in ("tools", "resources", "prompts"):
        if getattr(capabilities, kind) is None:
            counts.append(None)
            continue
        try:
            counts.append(await _count(client, kind))
        except MCPError as error:
            counts.append(str(error))
    return tuple(counts)


async def _count(client: Any, kind: str) -> int:
    count = 0
    cursor = None
    while True:
        page = await getattr(client, f"list_{kind}")(**({} if cursor is None else {"cursor": cursor}))
        count += len(getattr(page, kind))
        cursor = page.nextCursor if MAJOR == 1 else page.next_cursor
        if cursor is None:
            return count


# --- processes ---


def marked(place: Path) -> set[int]:
    """The living processes that belong to a server."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environ = (path / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            continue
        if f"{MARK}={place}".encode() in environ:
            found.add(int(path.name))
    return found


def wrapper(place: Path) -> int:
    """The process that the client started."""
    [pid] = [pid for pid in marked(place) if _parent(pid) == os.getpid()]
    return pid


def server_of(place: Path) -> int:
    """The server itself: of the processes that read the client's pipe, the last one started by another of them."""
    pid = wrapper(place)
    pipe = os.readlink(f"/proc/{pid}/fd/0")
    readers = [reader for reader in marked(place) if pipe in _files(reader)]  # on mcp 2.x servers move it from fd 0
    while below := [reader for reader in readers if _parent(reader) == pid]:
        pid = min(below)
    return pid


def _files(pid: int) -> set[str]:
    """The files that a process has open."""
    names = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            names.add(os.readlink(path))
    return names


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _of(pids: set[int], only: set[int] | None) -> set[int]:
    return pids if only is None else pids & only


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return f"process {pid}"


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _text(exc: BaseException) -> str:
    """The first real error of a group, in one line."""
    while leaves := getattr(exc, "exceptions", None):
        exc = leaves[0]
    return " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
