"""Explains the verdict on a failure, for people who debug a policy."""

from __future__ import annotations

import time

from .errors import ResilienceError
from .policy import Policy
from .verdicts.classifier import Classifier
from .verdicts.verdict import Failure, Verdict


def explain(failure: object, *, policy: Policy | None = None, tool: str | None = None) -> Verdict:
    """Explain how a failure is judged, and by which rule, to help debug a policy.

    Args:
        failure: An error raised by a call, or an `isError` result.
        policy: The policy to judge it by; the default policy if None.
        tool: The tool that was called, for its `ToolPolicy`.

    Returns:
        The verdict; `str()` makes it readable. For an error of this library, the verdict it was raised for.

    Raises:
        TypeError: `failure` is neither an exception nor a tool result, or it is an error without a verdict.

    Example:
        >>> from mcp.types import CallToolResult, TextContent
        >>> text = TextContent(type="text", text="rate limit: try again in 30 seconds")
        >>> print(explain(CallToolResult(content=[text], isError=True)))
        throttled (a retry may help, in 30 s); answered; isError: rate limit: try again in 30 seconds \
[its text says 'rate limit']
    """
    if isinstance(failure, ResilienceError):
        if failure.verdict is None:
            raise TypeError(f"{type(failure).__name__} has no verdict: it was not raised because an attempt failed")
        return failure.verdict
    classifier = Classifier(policy or Policy())
    if isinstance(failure, BaseException):
        return classifier.judge(Failure("tools/call", tool, failure), now=time.time())
    if not hasattr(failure, "content"):
        raise TypeError(f"explain() takes an exception or a tool result, not {type(failure).__name__}")
    return classifier.judge(Failure("tools/call", tool, result=failure), now=time.time())
