"""Every setting of a server's client, with its default and its unit. All durations are in seconds.

Write a policy in Python, as a dict or as JSON, where `"inf"` means infinity and integer keys are strings. A `Policy`
covers one server. Policies are frozen and strict: an unknown key or an impossible value raises
`pydantic.ValidationError` (a `ValueError`) that names the key, the value and the remedy.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
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

from .bounded import LruDict
from .text.configured import shown


def _spelled_infinity(value: Any) -> Any:
    """Accept `"inf"` and `"Infinity"`, since JSON has no infinity."""
    return math.inf if isinstance(value, str) and value.lower() in {"inf", "infinity"} else value


def _spelled_integer(value: Any) -> Any:
    """Accept an integer written as a string, since JSON keys are strings."""
    return int(value) if isinstance(value, str) and re.fullmatch("-?[0-9]{1,18}", value) else value


Positive = Annotated[float, Field(gt=0), BeforeValidator(_spelled_infinity)]
"""Seconds, greater than zero; `float("inf")` (`"inf"` in JSON) means no limit."""

Limit = Annotated[float, Field(ge=0), BeforeValidator(_spelled_infinity)]
"""Seconds, zero or more; `float("inf")` (`"inf"` in JSON) means no limit."""

Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]

PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Count = Annotated[int, Field(ge=1)]


def _without_secret(fault: ErrorDetails) -> InitErrorDetails:
    place = tuple(shown(key) for key in fault["loc"])
    name = next((key for key in reversed(place) if isinstance(key, str) and key != "[key]"), "")
    return InitErrorDetails(type=fault["type"], loc=place, input=shown(fault["input"], name), ctx=fault.get("ctx", {}))


class _Frozen(BaseModel, frozen=True):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, ser_json_inf_nan="strings")

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
        """Mask credentials in validation errors, which quote the rejected input: one may be in the wrong place."""
        try:
            return validate(values)
        except ValidationError as exc:
            faults = [_without_secret(fault) for fault in exc.errors(include_url=False)]
        raise ValidationError.from_exception_data(cls.__name__, faults)

    def _at_least(self, key: str, other: str) -> None:
        """Reject a `key` that is less than `other`."""
        value, least = getattr(self, key), getattr(self, other)
        if value < least:
            raise ValueError(
                f"{type(self).__name__}: {key} is {value}, less than {other}, which is {least}: "
                f"set {key} to at least {least}, or lower {other}"
            )


class RetryPolicy(_Frozen, frozen=True):
    """How often a failed call is retried, and after what delay, if it may be repeated."""

    attempts: Count = 6
    """Maximum number of attempts per call, including the first; 1 disables retries. Waiting for an unavailable server
    or an open circuit does not use any. The default is one more than `BreakerPolicy.failures`, so that a lone call
    that hits an outage lasts until the circuit opens."""
    crashes: Count = 3
    """A call is not retried once this many server processes have exited while it was running: it may be what crashes
    them."""
    base: Finite = 0.2
    """Scale of the back-off: the delay before retry n, counted from 0, is drawn from 0 to `base` * 2ⁿ (full jitter)."""
    throttled_base: Finite = 1.0
    """The scale after the server asked for less traffic (429, 503 with Retry-After)."""
    max_delay: Limit = 30.0
    """Maximum back-off."""
    max_retry_after: Limit = 60.0
    """Maximum delay a server may ask for (`Retry-After` or its equivalents). A call that is asked to wait longer fails
    with the server's wait in its error; other calls wait at most this long."""
    wait: Callable[[Any], float] | None = None
    """A tenacity `wait` to use instead of the back-off; a delay the server asks for still takes precedence."""
    stop: Callable[[Any], bool] | None = None
    """A tenacity `stop` to use instead of `attempts`; the total deadline still applies."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._at_least("max_delay", "base")
        return self


class BudgetPolicy(_Frozen, frozen=True):
    """How many retries all callers of a server may spend together, so that retries never amplify an overload.

    The scheme is that of gRPC's retry throttling (proposal A6) and AWS's retry quota. The size follows AWS, since
    gRPC's 10 tokens would leave twenty callers without retries after one restart. The tokens are taken when a retry is
    sent. Retrying a request that was never sent is free, and so is the retry on the first new connection; once two
    connections have ended during a call, its retries are not.
    """

    tokens: PositiveFinite = 100.0
    """Initial and maximum number of tokens."""
    cost: PositiveFinite = 1.0
    """Tokens a retry takes; with fewer left, nothing is retried."""
    refund: Finite = 0.5
    """Tokens a successful call gives back."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._at_least("tokens", "cost")
        return self


class BreakerPolicy(_Frozen, frozen=True):
    """When calls to a failing server are refused without being sent, and for how long.

    Lost connections, 5xx and timeouts without any sign of life from the server count as failures; twenty calls hit by
    one outage count as one. Not counted are throttling, refusals such as 401, JSON-RPC errors without an HTTP error
    status, `isError` results, cancellation by the caller, and a 503 while the server answers other calls.

    While the circuit is open the server is probed. Any message from it, or a new connection, admits one trial call,
    whose outcome closes or reopens the circuit. For `timeout.ready` after it first opened, calls wait for the circuit
    as for an unavailable server; later they wait one second for a probe, unless one has just failed. `client.circuit`
    operates it by hand.

    The numbers are Envoy's (5 in a row, up to 300 s) and Finagle's (a failure rate over 30 s).
    """

    failures: Count = 5
    """Consecutive failures that open the circuit."""
    rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Failure rate within `window` that also opens it, from 0 to 1."""
    min_calls: Count = 10
    """Outcomes needed within `window` before `rate` applies."""
    window: PositiveFinite = 30.0
    """Period over which `rate` is measured."""
    open: PositiveFinite = 60.0
    """How long the circuit stays open at most the first time; doubles with each consecutive reopening."""
    max_open: Positive = 300.0
    """Upper bound of `open` as it doubles."""
    trial: PositiveFinite = 30.0
    """How long the trial call of a half-open circuit keeps others out; after that another one is admitted."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._at_least("max_open", "open")
        return self


class RateLimit(_Frozen, frozen=True):
    """Requests sent per second, as a token bucket: at most `burst` + `rate` * t in any t seconds."""

    rate: Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]
    """Sustained requests per second."""
    burst: Annotated[int, Field(ge=1, le=1_000_000_000)]
    """Requests allowed back to back after an idle period."""


class Concurrency(_Frozen, frozen=True):
    """How many requests may be in flight to a server at the same time (a bulkhead)."""

    limit: Count
    """Maximum requests in flight."""
    queue: Annotated[int, Field(ge=0)] = 100
    """Maximum calls waiting for a slot; any further call is refused."""


class HealthPolicy(_Frozen, frozen=True):
    """When an idle server is probed. Any JSON-RPC reply is a sign of life.

    The probe is `ping`, or `server/discover` at 2026-07-28. Has no effect over stdio, where the exit of the process is
    noticed directly.
    """

    idle: PositiveFinite = 30.0
    """Seconds without traffic, and with nothing in flight, after which the server is probed."""
    timeout: PositiveFinite = 10.0
    """Seconds to wait for the reply."""
    misses: Count = 2
    """Consecutive unanswered probes after which the connection counts as lost."""


class LoopGuard(_Frozen, frozen=True):
    """When to warn a model that keeps calling a failing tool."""

    failures: Count = 5
    """Consecutive `isError` results of one tool that trigger the warning, if they fall within `window`."""
    window: Positive = 120.0
    """Seconds within which they must fall."""


class TimeoutPolicy(_Frozen, frozen=True):
    """Time limits. With `inf` for `attempt`, `request` and `total`, a call that was sent may take forever."""

    connect: Positive = 120.0
    """To start or reach the server and finish the handshake; `npx` and `uvx` download first. Calls wait this long for
    a server that is still starting."""
    reach: Positive = 2.0
    """How long `start()` keeps trying a server that has never been reached: nothing listens at its address, or its
    process exits immediately. `start(wait=False)` keeps trying in the background."""
    ready: Positive = 30.0
    """How long a call waits for an unavailable server, including free retries."""
    attempt: Positive = 300.0
    """From sending a tool call to its answer (the SDK's own limit over HTTP). With a `progress_callback` it restarts at
    each progress notification. A call that exceeds it is retried only if you set the limit yourself."""
    request: Positive = 60.0
    """The same for lists, reads, pings and all other requests."""
    total: Positive = 3600.0
    """One call with all its waits and attempts, excluding time spent in your callbacks or waiting for a person."""
    shutdown: Positive = 5.0
    """To close a connection and stop its process."""


class RestartPolicy(_Frozen, frozen=True):
    """When a lost connection is replaced. The first replacement is immediate."""

    base: Finite = 0.5
    """Delay before the second consecutive replacement; doubles from there, with jitter."""
    max_delay: Limit = 30.0
    """Maximum delay between two replacements."""
    intensity: Count = 5
    """More replacements than this within `period` suspend the server: calls fail immediately (OTP's intensity)."""
    period: Positive = 60.0
    """The window of `intensity`."""
    suspend: Positive = 30.0
    """Length of the first suspension; doubles with each consecutive one."""
    max_suspend: Positive = 300.0
    """Maximum length of a suspension."""
    proven_after: Positive = 60.0
    """A session that lasts this long, or answers a call, resets the count. A handshake alone never does."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._at_least("max_delay", "base")
        self._at_least("max_suspend", "suspend")
        return self


Meaning = Literal["transient", "throttled", "timeout", "auth", "permanent", "cancelled", "unknown"]
"""The meaning of a JSON-RPC error code; the first three may be retried."""

ErrorCodes = dict[Annotated[int, BeforeValidator(_spelled_integer)], Meaning]

StatusMeaning = Meaning | Literal["refused"]
"""The meaning of an HTTP status: as for codes, plus "refused" for a request that was not run and may be retried."""

HttpStatuses = dict[Annotated[int, Field(ge=300, le=599), BeforeValidator(_spelled_integer)], StatusMeaning]


class ToolPolicy(_Frozen, frozen=True):
    """Settings for the tools whose names match a pattern."""

    repeatable: bool | None = None
    """Whether a call that may have run may be sent again; None uses the tool's annotations."""
    retry: RetryPolicy | None = None
    """Replaces the server's `retry`."""
    attempt_timeout: Positive | None = None
    """Replaces the server's `timeout.attempt`."""
    error_codes: ErrorCodes = {}
    """Meaning of JSON-RPC codes for these tools; takes precedence over the server's tables."""
    http_statuses: HttpStatuses = {}
    """Meaning of HTTP statuses for these tools; takes precedence over the server's tables."""
    rate_limit: RateLimit | None = None
    """Requests per second for these tools; the server's limit applies as well."""
    loop_guard: LoopGuard | None = None
    """Replaces the server's `loop_guard`."""
    validate_arguments: bool = False
    """Whether to check arguments against the tool's `inputSchema` before sending anything. A schema that cannot be used
    blocks no call, and remote references in it are never fetched."""


class Policy(_Frozen, frozen=True):
    """All settings for one server.

    Every attempt passes the circuit breaker, the rate limit and the concurrency limit, in this order. One that is not
    admitted waits within the call's deadline or fails immediately, and is not sent.

    Example:
        >>> policy = Policy(retry=RetryPolicy(attempts=6), tools={"get_*": ToolPolicy(repeatable=True)})
        >>> policy.tool("get_weather").repeatable
        True
        >>> policy.tool("send_mail").repeatable is None
        True
    """

    retry: RetryPolicy = RetryPolicy()
    """Number of attempts and back-off."""
    timeout: TimeoutPolicy = TimeoutPolicy()
    """Time limits."""
    restart: RestartPolicy = RestartPolicy()
    """Replacement of a lost connection."""
    budget: BudgetPolicy | None = BudgetPolicy()
    """Retry budget shared by all calls; None: unlimited."""
    breaker: BreakerPolicy | None = BreakerPolicy()
    """Circuit breaker; None: off."""
    rate_limit: RateLimit | None = None
    """Requests per second; None: no limit."""
    concurrency: Concurrency | None = None
    """Requests in flight; None: no limit."""
    health: HealthPolicy | None = HealthPolicy()
    """Probing of an idle server; None: off."""
    loop_guard: LoopGuard | None = None
    """Warning to a model that keeps calling a failing tool; None: off."""
    tools: dict[str, ToolPolicy] = {}
    """Maps a glob pattern to the settings of the tools it matches; the first matching pattern wins."""
    dialect: Literal["chatforest-resilience", "chatforest-errors", "mcpcat"] | None = None
    """The published set of meanings that this server's error codes follow, since servers use -32000 to -32019 in
    different ways. `resilient-mcp explain CODE` shows the default."""
    error_codes: ErrorCodes = {}
    """Meaning of JSON-RPC codes on this server; takes precedence over its dialect and the default table."""
    http_statuses: HttpStatuses = {}
    """Meaning of HTTP statuses on this server or the gateway in front of it; takes precedence over the default table.
    By default a request answered 429 was not run and one answered 5xx may have run: `{503: "refused"}` says that this
    server does not run requests it answers 503 either, `{429: "transient"}` that it may run those it answers 429.
    Behind a HAProxy that resends requests (`retry-on`), use `{503: "transient"}`: there even its own 503 proves
    nothing."""
    send_operation_id: bool = False
    """Whether each request carries `resilient-mcp/operation-id`, the same for all attempts of a call, and
    `resilient-mcp/attempt` in its `_meta`, so that a server can tell a retry from a new call."""
    trust_annotations: bool | Literal["read_only"] = True
    """Whether a tool's `readOnlyHint` or `idempotentHint` makes its calls repeatable; `"read_only"` ignores
    `idempotentHint`. Real servers call `pods_delete` and `git_reset` idempotent."""
    on_unavailable: Literal["raise", "result"] = "raise"
    """Whether a tool call that this library gives up on raises its error, or returns it as an `isError` result with
    text that a model can act on. The server's own errors are always raised."""
    serve_stale: bool = False
    """Whether lists and resources are served from the last good copy while the server is unavailable, with their age
    in `_meta` as `resilient-mcp/stale-age` (seconds). At most 256 answers and 16 MiB are kept, and none is served when
    the server rejects the credentials."""
    max_message_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    """A longer server message fails its call instead of exhausting this process's memory."""

    def tool(self, name: str) -> ToolPolicy:
        """The policy of the first pattern in `tools` that matches `name`, case-sensitively."""
        if not self.tools:
            return _NO_TOOL_POLICY
        tools, known = self._known
        if tools is not self.tools:  # a copy with other tools has the memory of the original
            return _first(self.tools, name)
        if (policy := known.get(name)) is None:
            policy = _first(tools, name)
            if len(name) <= _LONGEST_NAME:
                known[name] = policy
        return policy

    @cached_property
    def _known(self) -> tuple[Mapping[str, ToolPolicy], LruDict[str, ToolPolicy]]:
        """`tools`, and what was found in it: with 500 patterns a search takes longer than the rest of a call."""
        return self.tools, LruDict(_NAMES_KEPT)


_NO_TOOL_POLICY = ToolPolicy()

# Names of tools whose policies are remembered, and how long such a name may be: models invent them.
_NAMES_KEPT, _LONGEST_NAME = 1024, 200


def _first(tools: Mapping[str, ToolPolicy], name: str) -> ToolPolicy:
    return next((policy for pattern, policy in tools.items() if fnmatchcase(name, pattern)), _NO_TOOL_POLICY)
