"""Imports every exported name; `__init__` loads this module on first use."""

from .calls.gate import Circuit
from .client import ResilientClient
from .config import ConfigError
from .errors import (
    CircuitOpen,
    ConnectionLost,
    DeadlineExceeded,
    InvalidArguments,
    Overloaded,
    RateLimitExceeded,
    ResilienceError,
    ServerFailed,
    ServerUnavailable,
)
from .events import (
    AttemptFailed,
    BreakerChanged,
    CallFinished,
    CatalogChanged,
    Connected,
    Disconnected,
    Event,
    GarbageOnStdout,
    Outcome,
    RestartScheduled,
    Restored,
    RetryScheduled,
    ServedStale,
    Starting,
    State,
    StateChanged,
    Throttled,
)
from .evidence import Delivery, Evidence, ExitStatus
from .explain import explain
from .group import ResilientClientGroup
from .observability.hub import EventStream
from .observability.stats import Health, Latency, Stats, ToolStats
from .policy import (
    BreakerPolicy,
    BudgetPolicy,
    Concurrency,
    HealthPolicy,
    LoopGuard,
    Policy,
    RateLimit,
    RestartPolicy,
    RetryPolicy,
    TimeoutPolicy,
    ToolPolicy,
)
from .strategies.breaker import BreakerState
from .subscriptions.watcher import Change
from .verdicts.verdict import Category, Failure, Verdict

__all__ = [
    "AttemptFailed",
    "BreakerChanged",
    "BreakerPolicy",
    "BreakerState",
    "BudgetPolicy",
    "CallFinished",
    "CatalogChanged",
    "Category",
    "Change",
    "Circuit",
    "CircuitOpen",
    "Concurrency",
    "ConfigError",
    "Connected",
    "ConnectionLost",
    "DeadlineExceeded",
    "Delivery",
    "Disconnected",
    "Event",
    "EventStream",
    "Evidence",
    "ExitStatus",
    "Failure",
    "GarbageOnStdout",
    "Health",
    "HealthPolicy",
    "InvalidArguments",
    "Latency",
    "LoopGuard",
    "Outcome",
    "Overloaded",
    "Policy",
    "RateLimit",
    "RateLimitExceeded",
    "ResilienceError",
    "ResilientClient",
    "ResilientClientGroup",
    "RestartPolicy",
    "RestartScheduled",
    "Restored",
    "RetryPolicy",
    "RetryScheduled",
    "ServedStale",
    "ServerFailed",
    "ServerUnavailable",
    "Starting",
    "State",
    "StateChanged",
    "Stats",
    "Throttled",
    "TimeoutPolicy",
    "ToolPolicy",
    "ToolStats",
    "Verdict",
    "explain",
]
