"""Imports every exported name; `__init__` loads this module on first use."""

import inspect
from typing import get_origin

from .calls.fallbacks import Fallback
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
from .explanation import explain
from .group import NameHook, ResilientClientGroup
from .observability.hub import EventStream, Listener
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
from .session import Session
from .strategies.breaker import BreakerState
from .subscriptions.watcher import Change
from .transports.http.headers import HeadersFunction
from .verdicts.classifier import Classify
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
    "Classify",
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
    "Fallback",
    "GarbageOnStdout",
    "HeadersFunction",
    "Health",
    "HealthPolicy",
    "InvalidArguments",
    "Latency",
    "Listener",
    "LoopGuard",
    "NameHook",
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
    "Session",
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

# Users see `resilient_mcp.Policy` in tracebacks, pickles and documentation, wherever the class is defined. Aliases
# (`Classify`) have no module of their own.
for _export in [globals()[name] for name in __all__]:
    if get_origin(_export) is None and (inspect.isclass(_export) or inspect.isfunction(_export)):
        _export.__module__ = __package__
