"""A drop-in for the MCP Python SDK's `ClientSession` that survives crashed servers, lost sessions and overload."""

from .classifier import Category, Failure, Verdict, explain
from .client import ResilientClient
from .errors import ConnectionLost, DeadlineExceeded, ResilienceError, ServerFailed, ServerUnavailable
from .event_stream import EventStream
from .events import (
    AttemptFailed,
    CallFinished,
    Connected,
    Disconnected,
    Event,
    GarbageOnStdout,
    Outcome,
    RestartScheduled,
    RetryScheduled,
    State,
    StateChanged,
)
from .evidence import Delivery, Evidence, ExitStatus
from .policy import Policy, RestartPolicy, RetryPolicy, TimeoutPolicy, ToolPolicy
from .stats import Health, Latency, Stats, ToolStats

__all__ = [
    "AttemptFailed",
    "CallFinished",
    "Category",
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
    "Latency",
    "Outcome",
    "Policy",
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
    "Stats",
    "TimeoutPolicy",
    "ToolPolicy",
    "ToolStats",
    "Verdict",
    "explain",
]
