"""`resilient-mcp explain`: how a failure is judged and handled under a policy, or the table of all failures."""

from __future__ import annotations

import json
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..explanation import NEVER, REPEATABLE, Explainer, Handling, grouped
from ..text.printable import printable
from .policies import policy_of

# Maximum columns used: longer lines are hard to read.
_WIDTH = 100
_NUMBER = re.compile(r"-?[0-9]{1,18}")
# The column of a fact's text, below the name of its failure.
_INDENT = 22
_MORE = "`resilient-mcp explain STATUS` (or `CODE`) shows when calls are sent again, and which rule decides."


def run(
    number: str | None,
    message: Mapping[str, Any] | None,
    *,
    policy: Mapping[str, Any],
    tool: str | None,
    as_json: bool,
) -> int:
    """Explain one failure, or print the table if none is given, and return the command's exit status.

    Args:
        number: An HTTP status or a JSON-RPC code, as the user wrote it.
        message: What was read from stdin.
        policy: The value of `--policy`.
        tool: The tool that was called.
        as_json: Whether to print JSON.

    Raises:
        ValueError: A value cannot be used; the error names it, and the remedy.
    """
    explainer = Explainer(policy_of(policy), tool)
    if number is not None:
        rows = explainer.number(_parsed(number))
    elif message is not None:
        rows = [_explained(explainer, message)]
    else:
        rows = explainer.table()
    console = Console(highlight=False)
    console.width = min(console.width, _WIDTH)
    notes = list(_notes(explainer, rows))
    if as_json:
        sys.stdout.write(json.dumps([row.to_json() for row in rows], indent=2) + "\n")
    elif number is None and message is None:
        console.print(_table(grouped(rows)))
        sys.stdout.write(_wrapped([*notes, _MORE], console.width))
    else:
        paragraphs = [_lines(row) for row in rows] + ([notes] if notes else [])
        sys.stdout.write("\n".join(_wrapped(lines, console.width) for lines in paragraphs))
    return 0


def read_stdin() -> str:
    """What is piped into this command; empty if stdin is a terminal, or closed."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    return sys.stdin.buffer.read().decode("utf-8-sig", "replace").strip()


def _parsed(number: str) -> int:
    if not _NUMBER.fullmatch(number):
        raise ValueError(
            f"{printable(number, 50)!r} is neither a number nor an option: give an HTTP status such as 503, a JSON-RPC "
            "code such as -32602, or a result on stdin ('resilient-mcp explain < result.json')"
        )
    return int(number)


def _explained(explainer: Explainer, message: Mapping[str, Any]) -> Handling:
    try:
        return explainer.message(message, now=time.time())
    except ValueError as exc:
        raise ValueError(f"stdin: {exc}") from None


def _lines(row: Handling) -> list[str]:
    """How one failure is handled, in plain English: its name, then one fact per line."""
    verdict = row.verdict
    facts = {
        "verdict": f"{verdict.category.value}: a retry {'may' if verdict.retryable else 'cannot'} help",
        "may it have run?": row.may_have_run,
        "sent again": (": " if row.again == NEVER else ", ").join(filter(None, [row.again, row.how])),
        "the caller gets": row.end if row.again == NEVER else f"{row.end}, if no retry succeeds",
        "rule": verdict.rule,
    }
    return [row.failure, *(f"    {name:{_INDENT - 4}}{text}" for name, text in facts.items())]


def _notes(explainer: Explainer, rows: Iterable[Handling]) -> Iterator[str]:
    """What a reader must know to understand `rows`."""
    again = {row.again.partition(",")[0] for row in rows}
    if REPEATABLE in again:
        yield explainer.repeatable()
    if again != {NEVER} and (limits := explainer.limits()):
        yield limits


def _wrapped(lines: Iterable[str], width: int) -> str:
    """`lines`, wrapped to `width` columns; the text of a fact continues in its own column."""
    indents = ((line, " " * _INDENT if line.startswith(" ") else "") for line in lines)
    return "".join(f"{textwrap.fill(line, width, subsequent_indent=indent)}\n" for line, indent in indents)


def _table(rows: Iterable[Handling]) -> Table:
    table = Table(box=box.ROUNDED, show_lines=True, expand=True)
    table.add_column("failure", ratio=1, overflow="fold")
    for name, width in (("category", 10), ("may it have run?", 9), ("sent again", 10), ("the caller gets", 17)):
        table.add_column(name, width=width, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, (row.failure, row.verdict.category.value, row.may_have_run, row.again, row.end)))
    return table
