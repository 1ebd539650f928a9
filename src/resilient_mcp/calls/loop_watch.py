"""Warns a model that keeps calling a failing tool."""

from __future__ import annotations

import anyio
from mcp.types import CallToolResult

from .._sdk.results import is_error_result, with_text_before
from ..bounded import LruDict
from ..policy import Policy
from ..strategies.loop_guard import RefusalCounter
from ..text.printable import printable

# Tools whose consecutive refusals are counted. Bounded, because a model may invent any number of names.
_TOOLS_KEPT = 1024


class LoopWatch:
    """Counts the refusals of each tool, and puts a warning in front of an answer that continues a loop.

    Args:
        policy: How many refusals trigger the warning, for all tools or for one.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._refusals: LruDict[str, RefusalCounter] = LruDict(_TOOLS_KEPT)
        self.is_on = bool(policy.loop_guard or any(tool.loop_guard for tool in policy.tools.values()))

    def checked(self, tool: str, result: CallToolResult) -> CallToolResult:
        """`result`, with a warning as its first content if the tool keeps refusing."""
        policy = self._policy.tool(tool).loop_guard or self._policy.loop_guard
        if policy is None:
            return result
        if (counter := self._refusals.get(tool)) is None:
            counter = self._refusals[tool] = RefusalCounter(policy)
        count = counter.record(anyio.current_time(), refused=is_error_result(result))
        if count is None:
            return result
        return with_text_before(
            result,
            f"The tool {printable(tool, 100)!r} is reachable, but it refused the last {count} calls: do not repeat the "
            "call unchanged. Read the answer below, then change the arguments or take a different approach.",
        )
