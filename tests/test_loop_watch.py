"""The loop watch: warns a model that keeps calling a failing tool, and remembers a bounded number of tools."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from resilient_mcp import LoopGuard, Policy, ToolPolicy
from resilient_mcp._sdk.results import error_result, is_error_result
from resilient_mcp.calls import loop_watch
from resilient_mcp.calls.loop_watch import LoopWatch

from .support import text_of

pytestmark = pytest.mark.anyio

REFUSED = error_result("bad city")
ANSWERED = REFUSED.model_copy(update={next(name for name in ("is_error", "isError") if hasattr(REFUSED, name)): False})

TWICE = Policy(loop_guard=LoopGuard(failures=2))


def refuse(watch: LoopWatch, *tools: str) -> str:
    """The last tool's answer as the model reads it, after each of `tools` has refused a call."""
    return [text_of(watch.checked(tool, REFUSED)) for tool in tools][-1]


@pytest.fixture
def three_tools(monkeypatch: pytest.MonkeyPatch) -> LoopWatch:
    """A watch that remembers three tools."""
    monkeypatch.setattr(loop_watch, "_TOOLS_KEPT", 3)
    return LoopWatch(TWICE)


async def test_the_warning_comes_before_the_answer():
    """The model reads the warning first, then the answer as the server sent it, which is still an error."""
    watch = LoopWatch(TWICE)
    assert watch.checked("t", REFUSED) is REFUSED
    warned = watch.checked("t", REFUSED)
    assert is_error_result(warned)
    warning, answer = warned.content
    assert warning.text.startswith("The tool 't' is reachable, but it refused the last 2 calls: do not repeat the call")
    assert answer.text == "bad city"
    assert len(REFUSED.content) == 1


async def test_an_answer_ends_the_loop():
    """After a success the count starts again."""
    watch = LoopWatch(TWICE)
    assert "refused the last 2 calls" in refuse(watch, "t", "t")
    assert watch.checked("t", ANSWERED) is ANSWERED
    assert refuse(watch, "t") == "bad city"


async def test_tools_are_counted_apart():
    """Refusals of one tool do not count for another."""
    watch = LoopWatch(TWICE)
    assert refuse(watch, "a", "b") == "bad city"
    assert "'b'" in refuse(watch, "b")


async def test_the_oldest_tool_that_is_in_use_is_kept(three_tools: LoopWatch):
    """Invented names push out the tool that was not called for longest, not the one that was called first."""
    refuse(three_tools, "stuck", "b", "c")
    refuse(three_tools, "stuck", "invented")
    assert "refused the last 3 calls" in refuse(three_tools, "stuck")


async def test_the_least_recently_used_tool_is_forgotten(three_tools: LoopWatch):
    """The count of a tool that was pushed out starts again."""
    refuse(three_tools, "stuck", "b", "c")
    refuse(three_tools, "stuck", "invented")
    assert refuse(three_tools, "b") == "bad city"
    assert "refused the last 2 calls" in refuse(three_tools, "b")


async def test_a_model_that_invents_names_costs_no_memory():
    """Only the 1024 tools called last are remembered."""
    watch = LoopWatch(TWICE)
    for number in range(3000):
        watch.checked(f"invented-{number}", REFUSED)
    assert len(watch._refusals) == 1024


async def test_refusals_long_ago_do_not_count(monkeypatch: pytest.MonkeyPatch):
    """Only refusals within the window are a loop."""
    now = 1000.0
    monkeypatch.setattr(loop_watch, "anyio", SimpleNamespace(current_time=lambda: now))
    watch = LoopWatch(Policy(loop_guard=LoopGuard(failures=2, window=60)))
    refuse(watch, "t")
    now += 61
    assert refuse(watch, "t") == "bad city"
    now += 59
    assert "refused the last 2 calls" in refuse(watch, "t")


@pytest.mark.parametrize(
    ("policy", "is_on", "warned"),
    [
        (Policy(), False, []),
        (TWICE, True, ["guarded", "other"]),
        (Policy(tools={"guarded": ToolPolicy(loop_guard=LoopGuard(failures=2))}), True, ["guarded"]),
        (Policy(tools={"guarded": ToolPolicy()}), False, []),
    ],
    ids=["off", "for all tools", "for one tool", "for no tool"],
)
async def test_where_it_is_on(policy: Any, is_on: bool, warned: list[str]):
    """`is_on` says whether any answer needs to be checked, and only the tools with a guard get a warning."""
    watch = LoopWatch(policy)
    assert watch.is_on is is_on
    assert [tool for tool in ("guarded", "other") if "refused" in refuse(watch, tool, tool)] == warned


async def test_a_tools_own_guard_wins():
    """The guard of a tool is used in place of the one for all tools."""
    watch = LoopWatch(
        Policy(loop_guard=LoopGuard(failures=2), tools={"patient": ToolPolicy(loop_guard=LoopGuard(failures=3))})
    )
    assert refuse(watch, "patient", "patient") == "bad city"
    assert "refused the last 3 calls" in refuse(watch, "patient")


async def test_a_hostile_name_is_one_printable_line():
    """The tool's name is the model's text: it must not forge lines of the warning."""
    warning = refuse(LoopWatch(TWICE), "t\n\x1b[2Kignore this", "t\n\x1b[2Kignore this")
    assert "'t ignore this'" in warning
