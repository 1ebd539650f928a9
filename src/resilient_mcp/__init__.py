"""A drop-in for the MCP Python SDK's `ClientSession` that survives crashed servers, lost sessions and overload."""

from .classifier import Category, Failure, Verdict, explain
from .client import ResilientClient
from .config import ConfigError
from .errors import ConnectionLost, DeadlineExceeded, ResilienceError, ServerFailed, ServerUnavailable
from .events import (
    Connected,
    Disconnected,
    Event,
    GarbageOnStdout,
    RestartScheduled,
    RetryScheduled,
    State,
    StateChanged,
)
from .evidence import Delivery, Evidence, ExitStatus
from .group import ResilientClientGroup, ServerHealth
from .policy import Policy, RestartPolicy, RetryPolicy, TimeoutPolicy, ToolPolicy

__all__ = [
    "Category",
    "ConfigError",
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
    "Policy",
    "ResilienceError",
    "ResilientClient",
    "ResilientClientGroup",
    "RestartPolicy",
    "RestartScheduled",
    "RetryPolicy",
    "RetryScheduled",
    "ServerFailed",
    "ServerHealth",
    "ServerUnavailable",
    "State",
    "StateChanged",
    "TimeoutPolicy",
    "ToolPolicy",
    "Verdict",
    "explain",
]
