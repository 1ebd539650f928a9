"""The output of `resilient-mcp demo`: each scene as it happens, side by side, and a table of all scenes at the end.

On a terminal the scenes are shown live; elsewhere each is printed when it is over, without escape codes.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
import textwrap
import time
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from resilient_mcp.errors import ResilienceError

from .._sdk.installed import VERSION
from .scenes import SCENES
from .stage import Outcome, Scene, Side, perform

# Maximum columns used: longer lines are hard to read.
_WIDTH = 100
# Characters of a third party's message shown in the table.
_SHORT = 72
_STYLES = {"call": "bold", "note": "dim", "answer": "green", "advice": "yellow", "error": "red"}
_NAMES = {"plain": "plain ClientSession", "resilient": "ResilientClient"}


async def show(console: Console | None = None) -> int:
    """Play and show all scenes.

    Args:
        console: Where to print; stdout by default.

    Returns:
        The command's exit status: 0 if `ResilientClient` kept its promise in every scene, else 1.
    """
    if console is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # messages may contain characters that the terminal cannot encode
        console = Console(highlight=False)
    console.width = min(console.width, _WIDTH)
    if not hasattr(signal, "SIGSTOP"):
        console.print("The demo kills and freezes processes with POSIX signals, which this system does not have.")
        return 1
    # The scenes provoke SDK and server warnings on purpose; the screen already shows what matters.
    logging.getLogger().addHandler(logging.NullHandler())
    return await _show(console)


async def _show(console: Console) -> int:
    began = time.monotonic()
    console.print(
        Text.assemble(
            "The same calls go through a plain ClientSession of the MCP Python SDK ",
            (f"(mcp {VERSION})", "dim"),
            " and through ResilientClient. Each has its own real server process on this machine, and every scene "
            "injects one fault. This takes about 20 seconds.",
        )
    )
    played: list[tuple[Scene, Side, Side]] = []
    for number, scene in enumerate(SCENES, 1):
        plain, ours = Side("plain"), Side("resilient")
        console.print()
        console.print(Text(f"{number}/{len(SCENES)}  {scene.title} ({scene.over})", style="bold cyan"))
        console.print(scene.story)
        console.print()
        view = _View((plain, ours))
        if console.is_terminal:
            with Live(console=console, get_renderable=view.render, refresh_per_second=10):
                await perform(scene, (plain, ours))
        else:
            await perform(scene, (plain, ours))
            console.print(view.render())
        played.append((scene, plain, ours))
    kept = [scene.promise(ours) for scene, _, ours in played]
    console.print()
    console.print(_table(played, kept))
    seconds = time.monotonic() - began
    text = f"ResilientClient kept its promise in {sum(kept)} of {len(kept)} scenes ({seconds:.0f} s in total)."
    console.print(Text(text, style="bold green" if all(kept) else "bold red"))
    return 0 if all(kept) else 1


class _View:
    """The current state of both sides of a scene."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides

    def render(self) -> RenderableType:
        grid = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline")
        for side in self._sides:
            grid.add_column(_NAMES[side.kind], ratio=1)
        grid.add_row(*[Group(*self._lines(side)) for side in self._sides])
        return grid

    @staticmethod
    def _lines(side: Side) -> list[RenderableType]:
        if not side.lines:
            return [Text("starting ...", style="dim")]
        shown: list[RenderableType] = []
        for line in side.lines:
            text = Text(line.text, style=_STYLES[line.kind])
            shown.append(text if line.kind == "call" else Padding(text, (0, 0, 0, 2)))
        if side.pending is not None:
            waited = time.monotonic() - side.pending[1]
            shown.append(Padding(Text(f"waiting ... {waited:.1f} s", style="dim"), (0, 0, 0, 2)))
        return shown


def _table(played: Sequence[tuple[Scene, Side, Side]], kept: Sequence[bool]) -> Table:
    table = Table(box=box.ROUNDED, show_lines=True, expand=True, title_justify="left")
    table.add_column("scene", ratio=3)
    table.add_column(f"{_NAMES['plain']} got", ratio=5)
    table.add_column(f"{_NAMES['resilient']} got", ratio=5)
    for (scene, plain, ours), as_promised in zip(played, kept, strict=True):
        verdict = [] if as_promised else [Text("not as promised", style="bold red")]
        table.add_row(scene.title, _cell(plain), Group(_cell(ours), *verdict))
    return table


def _cell(side: Side) -> Group:
    several = len(side.outcomes) > 1
    lines = []
    for outcome in side.outcomes:
        style = "green" if outcome.answer is not None else "red"
        if isinstance(outcome.error, ResilienceError):
            style = "yellow"
        label = f"{outcome.call}: " if several else ""
        lines.append(Text.assemble((label, "dim"), (_short(outcome), style), (outcome.timed, "dim")))
    lines += [Text(fact, style="dim") for fact in side.facts]
    return Group(*lines)


def _short(outcome: Outcome) -> str:
    """An outcome in a few words; for an error of this library, the last sentence of its advice."""
    if isinstance(outcome.error, ResilienceError):
        last = outcome.error.advice.rstrip(".").rpartition(". ")[2]
        return f"{type(outcome.error).__name__}: {last}."
    text = outcome.text
    return textwrap.shorten(text, _SHORT, placeholder=" ...")
