"""Every number a user may set, with its default and its unit. All durations are seconds.

`Policy` is for one server. Policies are frozen, and strict: an unknown key or an impossible value is a
`pydantic.ValidationError` (a `ValueError`) that names the key, the value and what to write instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
"""Seconds, more than zero; `float("inf")` means no limit."""

Seconds = Annotated[float, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values.keys() - cls.model_fields.keys():
                close = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"its keys are {', '.join(cls.model_fields)}"
                raise ValueError(f"{cls.__name__} has no key {key!r} (value {values[key]!r}): {hint}")
        return values


class RetryPolicy(_Frozen):
    """How often, and after what wait, a failed call that may be repeated is sent again."""

    attempts: Annotated[int, Field(ge=1)] = 4
    """How often one call is sent at most, the first time included; 1 means never again."""
    base: Seconds = 0.2
    """Scale of the back-off: the wait before retry n is drawn from 0 to `base` * 2ⁿ (full jitter)."""
    throttled_base: Seconds = 1.0
    """The scale when the server asked for less traffic (429, 503 with Retry-After)."""
    max_delay: Seconds = 30.0
    """The longest back-off."""
    max_retry_after: Seconds = 300.0
    """A longer `Retry-After` is cut to this."""
    wait: Callable[[Any], float] | None = None
    """A tenacity `wait` of your own instead of the back-off; what the server asks for still comes first."""
    stop: Callable[[Any], bool] | None = None
    """A tenacity `stop` of your own instead of `attempts`; the total deadline still holds."""


class TimeoutPolicy(_Frozen):
    """Time limits, from the smallest to the largest."""

    connect: Positive = 30.0
    """To start or reach the server and finish the handshake."""
    ready: Positive = 30.0
    """How long a call waits for a server that is not there, transparent retries included."""
    attempt: Positive = 60.0
    """From sending a request to its answer; progress starts it anew when a `progress_callback` was passed."""
    total: Positive = 300.0
    """One call with all its waits and attempts; nothing extends it."""
    shutdown: Positive = 5.0
    """To close a connection and stop its process."""


class RestartPolicy(_Frozen):
    """When a lost connection is replaced. The first replacement is at once."""

    base: Seconds = 0.5
    """The wait before the second replacement in a row; it doubles from there, with jitter."""
    max_delay: Seconds = 30.0
    """The longest wait between two replacements."""
    intensity: Annotated[int, Field(ge=1)] = 5
    """More replacements than this within `period` suspend the server: calls fail at once (OTP's intensity)."""
    period: Positive = 60.0
    """The window of `intensity`."""
    suspend: Positive = 30.0
    """How long the first suspension lasts; it doubles with each one in a row."""
    max_suspend: Positive = 300.0
    """The longest suspension."""
    proven_after: Positive = 60.0
    """A session that lived this long, or answered a call, clears the count. A handshake alone never does."""


Meaning = Literal["transient", "throttled", "timeout", "auth", "permanent", "cancelled", "unknown"]
"""What a JSON-RPC error code says: the first three are worth another try."""


class ToolPolicy(_Frozen):
    """What differs for the tools whose names match a pattern."""

    repeatable: bool | None = None
    """Whether a call whose fate is unknown may be sent again; None asks the tool's annotations."""
    retry: RetryPolicy | None = None
    """Instead of the server's."""
    attempt_timeout: Positive | None = None
    """Instead of the server's `timeout.attempt`."""
    error_codes: dict[int, Meaning] = {}
    """What JSON-RPC codes mean for these tools, before the server's tables."""
    validate_arguments: bool = False
    """Whether arguments are checked against the tool's `inputSchema` before anything is sent."""


class Policy(_Frozen):
    """All numbers for one server.

    Example:
        >>> policy = Policy(retry=RetryPolicy(attempts=6), tools={"get_*": ToolPolicy(repeatable=True)})
        >>> policy.tool("get_weather").repeatable
        True
        >>> policy.tool("send_mail").repeatable is None
        True
    """

    retry: RetryPolicy = RetryPolicy()
    """Back-off and number of attempts."""
    timeout: TimeoutPolicy = TimeoutPolicy()
    """Time limits."""
    restart: RestartPolicy = RestartPolicy()
    """Replacing a lost connection."""
    tools: dict[str, ToolPolicy] = {}
    """Glob pattern to what differs for the tools it matches; the first pattern that matches decides."""
    dialect: Literal["chatforest-resilience", "chatforest-errors", "mcpcat"] | None = None
    """What this server means by the codes that every server uses differently; see the README."""
    error_codes: dict[int, Meaning] = {}
    """What JSON-RPC codes mean on this server, before its dialect and the default table."""
    send_operation_id: bool = False
    """Whether each request carries `resilient-mcp/operation-id`, the same for all attempts of a call, and
    `resilient-mcp/attempt` in its `_meta`, so that a server can tell a repeat from a new call."""
    trust_annotations: bool = True
    """Whether `readOnlyHint` and `idempotentHint` of a tool make its calls repeatable."""
    on_unavailable: Literal["raise", "result"] = "raise"
    """Whether a tool call that this library gives up raises its error, or returns it as a result with `isError` and
    text that a model can act on. The server's own errors are raised in any case."""
    serve_stale: bool = False
    """Whether lists and resources are answered from the last good copy while the server is unavailable, with their age
    in `_meta`, as `resilient-mcp/stale-age` (seconds)."""
    max_message_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    """A longer message from the server fails its call instead of filling this process's memory."""

    def tool(self, name: str) -> ToolPolicy:
        """The policy of the first pattern in `tools` that matches `name`, case-sensitively."""
        for pattern, policy in self.tools.items():
            if fnmatchcase(name, pattern):
                return policy
        return _NO_TOOL_POLICY


_NO_TOOL_POLICY = ToolPolicy()
