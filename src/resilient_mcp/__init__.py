"""A drop-in for the MCP Python SDK's `ClientSession` that survives crashed servers, lost sessions and overload."""

from .classifier import Category, Failure, Verdict, explain
from .client import ResilientClient
from .errors import ConnectionLost, DeadlineExceeded, InvalidArguments, ResilienceError, ServerFailed, ServerUnavailable
from .events import (
    CatalogChanged,
    Connected,
    Disconnected,
    Event,
    GarbageOnStdout,
    RestartScheduled,
    Restored,
    RetryScheduled,
    ServedStale,
    State,
    StateChanged,
)
from .evidence import Delivery, Evidence, ExitStatus
from .policy import Policy, RestartPolicy, RetryPolicy, TimeoutPolicy, ToolPolicy
from .watch import Change

__all__ = [
    "CatalogChanged",
    "Category",
    "Change",
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
    "InvalidArguments",
    "Policy",
    "ResilienceError",
    "ResilientClient",
    "RestartPolicy",
    "RestartScheduled",
    "Restored",
    "RetryPolicy",
    "RetryScheduled",
    "ServedStale",
    "ServerFailed",
    "ServerUnavailable",
    "State",
    "StateChanged",
    "TimeoutPolicy",
    "ToolPolicy",
    "Verdict",
    "explain",
]
