"""A drop-in for the MCP Python SDK's `ClientSession` that survives crashed servers, lost sessions and overload."""

from .classifier import Category, Failure, Verdict, explain
from .client import ResilientClient
from .errors import (
    CircuitOpen,
    ConnectionLost,
    DeadlineExceeded,
    Overloaded,
    RateLimitExceeded,
    ResilienceError,
    ServerFailed,
    ServerUnavailable,
)
from .events import (
    BreakerChanged,
    Connected,
    Disconnected,
    Event,
    GarbageOnStdout,
    RestartScheduled,
    RetryScheduled,
    State,
    StateChanged,
    Throttled,
)
from .evidence import Delivery, Evidence, ExitStatus
from .gate import Circuit
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

__all__ = [
    "BreakerChanged",
    "BreakerPolicy",
    "BreakerState",
    "BudgetPolicy",
    "Category",
    "Circuit",
    "CircuitOpen",
    "Concurrency",
    "Connected",
    "ConnectionLost",
    "DeadlineExceeded",
    "Delivery",
    "Disconnected",
    "Event",
    "Evidence",
    "ExitStatus",
    "Failure",
    "GarbageOnStdout",
    "HealthPolicy",
    "LoopGuard",
    "Overloaded",
    "Policy",
    "RateLimit",
    "RateLimitExceeded",
    "ResilienceError",
    "ResilientClient",
    "RestartPolicy",
    "RestartScheduled",
    "RetryPolicy",
    "RetryScheduled",
    "ServerFailed",
    "ServerUnavailable",
    "State",
    "StateChanged",
    "Throttled",
    "TimeoutPolicy",
    "ToolPolicy",
    "Verdict",
    "explain",
]
