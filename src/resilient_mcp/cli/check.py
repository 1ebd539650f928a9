"""`resilient-mcp check`: connects to all servers concurrently and reports each server's status.

On a terminal the table is updated live; elsewhere it is printed once, without escape codes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import anyio
from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..calls.catalog import pages
from ..client import ResilientClient
from ..config import ServerConfig
from ..text.printable import describe
from .run import run as run_until_signalled
from .servers import client_of
from .trouble import reason_and_stderr, unfinished

# Maximum columns used: longer lines are hard to read.
_WIDTH = 100


@dataclass(slots=True)
class Report:
    """The status of one server.

    Attributes:
        server: Its name in the file.
        ok: Whether it connected and, if it declares tools, listed them.
        state: The connection's state at the end of the check.
        protocol_version: The negotiated version, or None.
        tools: The number of tools listed; None if it declares no tools or did not get that far.
        start_seconds: Seconds from the start to a ready connection, or None.
        latency_seconds: Seconds that the first page of `tools/list` took, or None.
        error: What is wrong, or None.
        exit_status: The process's exit status (negative: the signal that ended it), or None.
        stderr: The end of the process's stderr output.
        remedy: What a person should check; empty if nothing is known.
    """

    server: str
    ok: bool | None = None
    state: str = "connecting"
    protocol_version: str | None = None
    tools: int | None = None
    start_seconds: float | None = None
    latency_seconds: float | None = None
    error: str | None = None
    exit_status: int | None = None
    stderr: str = ""
    remedy: str = ""


def run(servers: Mapping[str, ServerConfig], *, timeout: float, as_json: bool) -> int:
    """Check `servers`, print the result, and return the command's exit status."""
    # Without a handler, logging would print the SDK's warnings to stderr; the table has what matters.
    logging.getLogger().addHandler(logging.NullHandler())
    return run_until_signalled(_run(servers, timeout, Console(highlight=False), as_json=as_json))


async def _run(servers: Mapping[str, ServerConfig], timeout: float, console: Console, *, as_json: bool) -> int:
    console.width = min(console.width, _WIDTH)
    reports = {name: Report(name) for name in servers}
    began = time.monotonic()

    async def check_all() -> None:
        async with anyio.create_task_group() as tg:
            for name, server in servers.items():
                tg.start_soon(_check, server, reports[name], timeout)

    if as_json:
        await check_all()
        print(json.dumps([asdict(report) for report in reports.values()], indent=2))  # noqa: T201
    elif console.is_terminal:
        with Live(console=console, get_renderable=lambda: _table(reports, time.monotonic() - began)):
            await check_all()
    else:
        await check_all()
        console.print(_table(reports, 0))
    well = sum(bool(report.ok) for report in reports.values())
    if not as_json:
        text = f"{well} of {len(reports)} servers are healthy ({time.monotonic() - began:.1f} s)."
        console.print(Text(text, style="bold green" if well == len(reports) else "bold red"))
    return 0 if well == len(reports) else 1


async def _check(server: ServerConfig, report: Report, timeout: float) -> None:
    client = client_of(report.server, server)
    began = time.monotonic()
    try:
        with anyio.move_on_after(timeout) as limit:
            await client.start(wait=False)
            await client.wait_attempted()
            if client.error is None:
                report.start_seconds = time.monotonic() - began
                report.protocol_version = client.protocol_version
                await _count_tools(client, report)
                report.ok = True
        report.state = client.state.value
        error = client.error
        if error is not None:
            report.error = unfinished(client, timeout) if limit.cancelled_caught else error.reason
            report.exit_status, report.stderr, report.remedy = error.exit_status, error.stderr, error.remedy
        elif limit.cancelled_caught:
            report.error = f"did not list its tools within {timeout:g} s"
    except Exception as exc:  # one failing server must not end the check of the others
        report.state, report.error = client.state.value, describe(exc)
    finally:
        report.ok = report.error is None and bool(report.ok)
        await client.aclose()


async def _count_tools(client: ResilientClient, report: Report) -> None:
    if not client.offers("tools"):
        return
    began = time.monotonic()
    tools = 0
    async for page in pages(client.list_tools):
        if report.latency_seconds is None:
            report.latency_seconds = time.monotonic() - began
        tools += len(page.tools)
    report.tools = tools


def _table(reports: Mapping[str, Report], elapsed: float) -> RenderableType:
    table = Table(box=box.ROUNDED, show_lines=True, expand=True)
    table.add_column("server", ratio=2, overflow="fold")
    table.add_column("state", width=10)
    table.add_column("details", ratio=5, overflow="fold")
    for report in reports.values():
        if report.ok is None:
            state = Text("connecting", style="dim")
            facts = Text(f"{elapsed:.1f} s", style="dim")
        elif report.ok:
            state, facts = Text("ready", style="green"), Text(_facts(report))
        else:
            state, facts = Text("failed", style="bold red"), _trouble(report)
        table.add_row(Text(report.server), state, facts)
    return table


def _facts(report: Report) -> str:
    facts = [f"MCP {report.protocol_version}"]
    if report.tools is not None:
        facts.append(f"{report.tools} tool{'' if report.tools == 1 else 's'}")
    facts.append(f"started in {report.start_seconds or 0:.1f} s")
    if report.latency_seconds is not None:
        facts.append(f"answers in {1000 * report.latency_seconds:.0f} ms")
    return ", ".join(facts)


def _trouble(report: Report) -> Text:
    reason, lines = reason_and_stderr(report.error or "", report.stderr)
    text = Text(f"{reason.rstrip('.')}. {report.remedy}" if report.remedy else reason)
    if lines:
        text.append("\nstderr: ", style="dim")
        text.append("\n".join(lines))
    return text
