"""Every number a user may set, with its default and its unit. All durations are seconds.

A policy is written in Python, as a dict or as JSON, where `"inf"` stands for infinity and an integer key is a string.
`Policy` is for one server. Policies are frozen, and strict: an unknown key or an impossible value is a
`pydantic.ValidationError` (a `ValueError`) that names the key, the value and what to write instead.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails
from typing_extensions import Self

from .text.configured import shown


def _spelled_infinity(value: Any) -> Any:
    """JSON has no infinity: `"inf"` and `"Infinity"` stand for it."""
    return math.inf if isinstance(value, str) and value.lower() in {"inf", "infinity"} else value


def _spelled_integer(value: Any) -> Any:
    """JSON has no integer keys."""
    return int(value) if isinstance(value, str) and re.fullmatch("-?[0-9]{1,18}", value) else value


Positive = Annotated[float, Field(gt=0), BeforeValidator(_spelled_infinity)]
"""Seconds, more than zero; `float("inf")`, in JSON `"inf"`, means no limit."""

Limit = Annotated[float, Field(ge=0), BeforeValidator(_spelled_infinity)]
"""Seconds, from zero; `float("inf")`, in JSON `"inf"`, means no limit."""

Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]

PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Count = Annotated[int, Field(ge=1)]


def _without_secret(fault: ErrorDetails) -> InitErrorDetails:
    place = tuple(shown(key) for key in fault["loc"])
    name = next((key for key in reversed(place) if isinstance(key, str) and key != "[key]"), "")
    return InitErrorDetails(type=fault["type"], loc=place, input=shown(fault["input"], name), ctx=fault.get("ctx", {}))


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values.keys() - cls.model_fields.keys():
                close = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"its keys are {', '.join(cls.model_fields)}"
                value = shown(values[key], str(key))
                raise ValueError(f"{cls.__name__} has no key {shown(key)!r} (value {value!r}): {hint}")
        return values

    @model_validator(mode="wrap")
    @classmethod
    def _without_secrets(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """What is refused is quoted by the error: a credential that was put in the wrong place must not be."""
        try:
            return validate(values)
        except ValidationError as exc:
            faults = [_without_secret(fault) for fault in exc.errors(include_url=False)]
        raise ValidationError.from_exception_data(cls.__name__, faults)

    def _at_least(self, key: str, other: str) -> None:
        """Refuse a `key` below `other`."""
        value, least = getattr(self, key), getattr(self, other)
        if value < least:
            raise ValueError(
                f"{type(self).__name__}: {key} is {value}, less than {other}, which is {least}: "
                f"write a {key} of at least {least}, or a smaller {other}"
            )


class RetryPolicy(_Frozen):
    """How often, and after what wait, a failed call that may be repeated is sent again."""

    attempts: Count = 6
    """How often one call is sent at most, the first time included; 1 means never again. Waiting for a server that is
    away, or for an open circuit, takes none; one more than `BreakerPolicy.failures` lets a call that meets an outage
    alone live until the circuit opens."""
    crashes: Count = 3
    """A call in whose course so many processes of the server ended is not sent again: it may be what ends them."""
    base: Finite = 0.2
    """Scale of the back-off: the wait before retry n is drawn from 0 to `base` * 2ⁿ (full jitter)."""
    throttled_base: Finite = 1.0
    """The scale when the server asked for less traffic (429, 503 with Retry-After)."""
    max_delay: Limit = 30.0
    """The longest back-off."""
    max_retry_after: Limit = 60.0
    """The longest wait that a server may ask for (`Retry-After` and the like). Who is asked for more is not sent again,
    but told; the other calls wait no longer than this."""
    wait: Callable[[Any], float] | None = None
    """A tenacity `wait` of your own instead of the back-off; what the server asks for still comes first."""
    stop: Callable[[Any], bool] | None = None
    """A tenacity `stop` of your own instead of `attempts`; the total deadline still holds."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._at_least("max_delay", "base")
        return self


class BudgetPolicy(_Frozen):
    """How many retries a server's callers may spend together, so that retries never multiply an overload.

    The scheme is gRPC's retry throttling (proposal A6) and AWS's retry quota; the size is AWS's in spirit, since gRPC's
    10 tokens would leave twenty callers with nothing after one restart. A retry of a request that was never sent costs
    nothing.
    """

    tokens: PositiveFinite = 100.0
    """What is there at the start, and the most there ever is."""
    cost: PositiveFinite = 1.0
    """What a retry takes; with less than this left, nothing is retried."""
    refund: Finite = 0.5
    """What a success gives back."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._at_least("tokens", "cost")
        return self


class BreakerPolicy(_Frozen):
    """When calls to a failing server are refused without being sent, and for how long.

    Counted are lost connections, 5xx, and time limits during which the server was not heard at all; never throttling,
    a tool's own errors, permanent errors or a caller's cancellation. While the circuit is open the server is probed,
    and whatever it says lets one call through. The numbers are Envoy's (5 in a row, up to 300 s) and Finagle's (a share
    of 30 s).
    """

    failures: Count = 5
    """So many counted failures in a row open the circuit."""
    rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """So large a share of failures within `window` opens it too, from 0 to 1."""
    min_calls: Count = 10
    """A share of fewer outcomes than this says nothing."""
    window: PositiveFinite = 30.0
    """How far back `rate` looks."""
    open: PositiveFinite = 60.0
    """How long the circuit stays open at most the first time; it doubles with each reopening in a row."""
    max_open: Positive = 300.0
    """The longest that it stays open."""
    trial: PositiveFinite = 30.0
    """How long the one trial call of a half-open circuit keeps others out; then another may try."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._at_least("max_open", "open")
        return self


class RateLimit(_Frozen):
    """How many requests are sent per second: a token bucket. In any t seconds at most `burst` + `rate` * t."""

    rate: Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]
    """Requests per second in the long run."""
    burst: Annotated[int, Field(ge=1, le=1_000_000_000)]
    """So many may go at once after a rest."""


class Concurrency(_Frozen):
    """How many requests a server works on at once (a bulkhead)."""

    limit: Count
    """Requests in flight at once."""
    queue: Annotated[int, Field(ge=0)] = 100
    """How many calls may wait for their turn; one more is refused."""


class HealthPolicy(_Frozen):
    """When a silent server is asked whether it is alive: any JSON-RPC reply means yes.

    Never over stdio, where the process speaks for itself.
    """

    idle: PositiveFinite = 30.0
    """After so many seconds without traffic, and with nothing in flight, the server is asked."""
    timeout: PositiveFinite = 10.0
    """Seconds to wait for the reply."""
    misses: Count = 2
    """So many unanswered questions in a row mean that the connection is lost."""


class LoopGuard(_Frozen):
    """When a model that calls a tool in vain, again and again, is told so."""

    failures: Count = 5
    """So many `isError` answers of one tool in a row ..."""
    window: Positive = 120.0
    """... within so many seconds."""


class TimeoutPolicy(_Frozen):
    """Time limits, from the smallest to the largest."""

    connect: Positive = 120.0
    """To start or reach the server and finish the handshake; `npx` and `uvx` download first. A call waits as long for a
    server that is starting."""
    reach: Positive = 2.0
    """How long `start()` waits for a server that nobody has reached yet: nothing listens at its address, or its process
    ends at once. `start(wait=False)` goes on trying."""
    ready: Positive = 30.0
    """How long a call waits for a server that is not there, free retries included."""
    attempt: Positive = 300.0
    """From sending a tool call to its answer (the SDK's own limit over HTTP); it starts again with each progress if a
    `progress_callback` was passed. A call that ran into it is sent again only if you set it."""
    request: Positive = 60.0
    """The same for lists, reads, pings and all other requests."""
    total: Positive = 3600.0
    """One call with all its waits and attempts. Only the time that people and your callbacks take is added."""
    shutdown: Positive = 5.0
    """To close a connection and stop its process."""


class RestartPolicy(_Frozen):
    """When a lost connection is replaced. The first replacement is at once."""

    base: Finite = 0.5
    """The wait before the second replacement in a row; it doubles from there, with jitter."""
    max_delay: Limit = 30.0
    """The longest wait between two replacements."""
    intensity: Count = 5
    """More replacements than this within `period` suspend the server: calls fail at once (OTP's intensity)."""
    period: Positive = 60.0
    """The window of `intensity`."""
    suspend: Positive = 30.0
    """How long the first suspension lasts; it doubles with each one in a row."""
    max_suspend: Positive = 300.0
    """The longest suspension."""
    proven_after: Positive = 60.0
    """A session that lived this long, or answered a call, clears the count. A handshake alone never does."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._at_least("max_delay", "base")
        self._at_least("max_suspend", "suspend")
        return self


Meaning = Literal["transient", "throttled", "timeout", "auth", "permanent", "cancelled", "unknown"]
"""What a JSON-RPC error code says: the first three are worth another try."""

ErrorCodes = dict[Annotated[int, BeforeValidator(_spelled_integer)], Meaning]

StatusMeaning = Meaning | Literal["refused"]
"""What an HTTP status says: the same words, and "refused" for a request that was not run and may be sent again."""

HttpStatuses = dict[Annotated[int, Field(ge=300, le=599), BeforeValidator(_spelled_integer)], StatusMeaning]


class ToolPolicy(_Frozen):
    """What differs for the tools whose names match a pattern."""

    repeatable: bool | None = None
    """Whether a call whose fate is unknown may be sent again; None asks the tool's annotations."""
    retry: RetryPolicy | None = None
    """Instead of the server's."""
    attempt_timeout: Positive | None = None
    """Instead of the server's `timeout.attempt`."""
    error_codes: ErrorCodes = {}
    """What JSON-RPC codes mean for these tools, before the server's tables."""
    http_statuses: HttpStatuses = {}
    """What HTTP statuses mean for these tools, before the server's tables."""
    rate_limit: RateLimit | None = None
    """Requests per second for these tools; the server's limit holds as well."""
    loop_guard: LoopGuard | None = None
    """Instead of the server's."""
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
    budget: BudgetPolicy | None = BudgetPolicy()
    """What retries may cost altogether; None: as much as they like."""
    breaker: BreakerPolicy | None = BreakerPolicy()
    """When calls fail at once instead of being sent; None: never."""
    rate_limit: RateLimit | None = None
    """Requests per second; None: no limit."""
    concurrency: Concurrency | None = None
    """Requests at once; None: no limit."""
    health: HealthPolicy | None = HealthPolicy()
    """Asking an idle server for a sign of life; None: never."""
    loop_guard: LoopGuard | None = None
    """Telling a model that a tool refuses every call; None: never."""
    tools: dict[str, ToolPolicy] = {}
    """Glob pattern to what differs for the tools it matches; the first pattern that matches decides."""
    dialect: Literal["chatforest-resilience", "chatforest-errors", "mcpcat"] | None = None
    """What this server means by the codes that every server uses differently; see the README."""
    error_codes: ErrorCodes = {}
    """What JSON-RPC codes mean on this server, before its dialect and the default table."""
    http_statuses: HttpStatuses = {}
    """What HTTP statuses mean on this server, or on the gateway in front of it, before the default table. By default a
    429 was not run, and a 5xx may have run: `{503: "refused"}` says that this server's 503s were not run either,
    `{429: "transient"}` that its 429s may have run."""
    send_operation_id: bool = False
    """Whether each request carries `resilient-mcp/operation-id`, the same for all attempts of a call, and
    `resilient-mcp/attempt` in its `_meta`, so that a server can tell a repeat from a new call."""
    trust_annotations: bool | Literal["read_only"] = True
    """Whether `readOnlyHint` and `idempotentHint` of a tool make its calls repeatable; `"read_only"`: only the first
    does. Real servers call `pods_delete` and `git_reset` idempotent."""
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
