"""A client's counters, latencies and health, in bounded memory, read as frozen snapshots (sans-I/O).

Latencies are kept in histograms whose buckets grow by 5 %, so that a percentile is at most 2.5 % off, from 10 µs to
three hours. A histogram takes at most 3 KiB; all tools beyond the first 256 share one.
"""

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ..events import AttemptFailed, BreakerChanged, Connected, Disconnected, Event, Outcome, State
from ..evidence import ExitStatus
from ..text.redact import Redactor

MAX_TOOLS = 256
"""Tools counted separately; a hostile server or caller could invent any number of names."""

OTHER = "other"

_NAME_LENGTH = 100

_RESULT, _TOOL_ERROR, _ERROR, _CANCELLED = Outcome  # looking up an enum member takes longer than counting it

_SHORTEST = 1e-5

_GROWTH = math.log(1.05)

_BUCKETS = 1 + math.ceil(math.log(1e4 / _SHORTEST) / _GROWTH)

_MIDDLE = math.exp(-_GROWTH / 2)


@dataclass(frozen=True, slots=True)
class Latency:
    """Duration of calls in seconds, including waits and retries; at most 2.5 % off.

    Attributes:
        count: Number of calls measured: those that were sent and not cancelled.
        p50: Median; None if there were no calls.
        p95: 95th percentile.
        p99: 99th percentile.
    """

    count: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStats:
    """Counters of one tool.

    Attributes:
        calls: Calls that ended.
        errors: Calls answered with an `isError` result.
        failed: Calls that raised an exception.
        retries: Attempts beyond the first of a call, not counting those that were never sent.
        latency: Duration of the calls.
    """

    calls: int
    errors: int
    failed: int
    retries: int
    latency: Latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counters of a client since it was created.

    Attributes:
        calls: Calls that ended, of any method.
        running: Calls in progress.
        outcomes: Number of ended calls by outcome.
        retries: Retries of requests that had been sent.
        transparent_retries: Retries that cost no attempt: the request was never sent, or named a lost session.
        failures: Failed attempts by the classifier's category.
        connections: Connections that became ready.
        reconnects: Those that replaced an earlier connection.
        disconnects: Connections that were lost; closing the client and `restart()` do not count.
        breaker: Last reported state of the circuit breaker; None if it has never changed.
        latency: Duration of calls, over all methods.
        tools: Counters per tool; at most 256, with all further tools together as `other`.
    """

    calls: int
    running: int
    outcomes: Mapping[Outcome, int]
    retries: int
    transparent_retries: int
    failures: Mapping[str, int]
    connections: int
    reconnects: int
    disconnects: int
    breaker: str | None
    latency: Latency
    tools: Mapping[str, ToolStats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Current state of the connection to a server.

    Attributes:
        server: Name of the server.
        state: State of the connection.
        generation: Number of connection attempts so far, successful or not.
        protocol_version: Protocol version of the newest connection, or None before the first.
        last_error: Why the last connection or connection attempt failed, in one line; kept after a reconnect.
        retry_in: Seconds until the next connection attempt, or None if none is scheduled.
        exit_status: How the server process last ended, with the end of its stderr; None for a URL, or if it has not.
        starting_for: Seconds for which the server has been starting, or None.
        last_line: Last line that a starting process wrote to stderr, printable; otherwise empty.
    """

    server: str
    state: State
    generation: int
    protocol_version: str | None
    last_error: str | None
    retry_in: float | None
    exit_status: ExitStatus | None
    starting_for: float | None = None
    last_line: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether the connection takes calls now."""
        return self.state is State.READY


class Histogram:
    """Durations in buckets that grow by 5 %, of which it keeps those from the shortest to the longest seen."""

    __slots__ = ("_buckets", "_first", "count")

    def __init__(self) -> None:
        self.count = 0
        self._first = 0  # the bucket that `_buckets` begins with
        self._buckets = array("Q")

    @staticmethod
    def bucket(seconds: float) -> int:
        """The index of the bucket for a duration."""
        return 0 if seconds <= _SHORTEST else min(_BUCKETS - 1, math.ceil(math.log(seconds / _SHORTEST) / _GROWTH))

    def add(self, bucket: int) -> None:
        """Count one duration, given its bucket."""
        self.count += 1
        if not self._buckets:
            self._first = bucket
        if (missing := self._first - bucket) > 0:
            self._buckets = array("Q", bytes(8 * missing)) + self._buckets
            self._first = bucket
        if (missing := bucket - self._first - len(self._buckets) + 1) > 0:
            self._buckets.extend([0] * missing)
        self._buckets[bucket - self._first] += 1

    def percentile(self, share: float) -> float | None:
        """The duration that a `share` (0 to 1) of the calls did not exceed, or None if there are none."""
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for bucket, count in enumerate(self._buckets, self._first):
            seen += count
            if seen >= rank:
                return _SHORTEST * math.exp(bucket * _GROWTH) * _MIDDLE
        return None

    def latency(self) -> Latency:
        """The snapshot."""
        return Latency(self.count, self.percentile(0.5), self.percentile(0.95), self.percentile(0.99))


class _Tally:
    """The counters of one tool."""

    __slots__ = ("calls", "errors", "failed", "histogram", "label", "retries")

    def __init__(self, label: str) -> None:
        self.label = label
        self.calls = self.errors = self.failed = self.retries = 0
        self.histogram = Histogram()

    def snapshot(self) -> ToolStats:
        return ToolStats(
            calls=self.calls,
            errors=self.errors,
            failed=self.failed,
            retries=self.retries,
            latency=self.histogram.latency(),
        )


class Recorder:
    """Keeps the counters of one client; a listener of its hub.

    Args:
        redactor: Removes secrets from tool names.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._tools: dict[str, _Tally] = {}
        self._other = _Tally(OTHER)
        self._histogram = Histogram()
        self._outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self._failures: Counter[str] = Counter()
        self._retries = self._transparent = 0
        self._connections = self._disconnects = 0
        self._breaker: str | None = None
        self.running = 0

    def label(self, tool: str | None) -> str | None:
        """A printable tool name of bounded variety: `other` beyond the first 256 tools."""
        return None if tool is None else self._tally(tool).label

    def _tally(self, tool: str) -> _Tally:
        tally = self._tools.get(tool)
        if tally is not None:
            return tally
        if len(self._tools) >= MAX_TOOLS or len(tool) > _NAME_LENGTH or tool == OTHER:
            return self._other
        tally = self._tools[tool] = _Tally(self._redactor.line(tool, _NAME_LENGTH))
        return tally

    def finished(self, tool: str | None, outcome: Outcome, attempts: int, elapsed: float) -> None:
        """Count a call that ended."""
        self._outcomes[outcome] += 1
        is_sent = attempts > 0 and outcome is not _CANCELLED
        bucket = Histogram.bucket(elapsed)
        if is_sent:
            self._histogram.add(bucket)
        if tool is None:
            return
        tally = self._tally(tool)
        tally.calls += 1
        if outcome is not _RESULT:
            tally.errors += outcome is _TOOL_ERROR
            tally.failed += outcome is _ERROR
        if attempts > 1:
            tally.retries += attempts - 1
        if is_sent:
            tally.histogram.add(bucket)

    def retried(self, *, transparent: bool) -> None:
        """Count a retry; a `transparent` one costs no attempt."""
        self._retries += not transparent
        self._transparent += transparent

    def __call__(self, event: Event) -> None:
        if isinstance(event, AttemptFailed):
            self._failures[event.category] += 1
        elif isinstance(event, Connected):
            self._connections += 1
        elif isinstance(event, Disconnected):
            self._disconnects += not event.expected
        elif isinstance(event, BreakerChanged):
            self._breaker = event.new.value

    def snapshot(self) -> Stats:
        """The counters so far."""
        tallies = [*self._tools.values(), *([self._other] if self._other.calls else [])]
        return Stats(
            calls=sum(self._outcomes.values()),
            running=self.running,
            outcomes=dict(self._outcomes),  # not a `MappingProxyType`, which can be neither pickled nor copied
            retries=self._retries,
            transparent_retries=self._transparent,
            failures=dict(self._failures),
            connections=self._connections,
            reconnects=max(0, self._connections - 1),
            disconnects=self._disconnects,
            breaker=self._breaker,
            latency=self._histogram.latency(),
            tools={tally.label: tally.snapshot() for tally in tallies},
        )
