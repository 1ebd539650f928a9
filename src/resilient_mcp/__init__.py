"""A drop-in for the MCP Python SDK's `ClientSession` that survives crashed servers, lost sessions and overload."""

# ruff: noqa: F403, F405 - `__all__` says what the star brings

TYPE_CHECKING = False  # to import `typing` takes longer than all of this
if TYPE_CHECKING:
    from ._api import *

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

if not TYPE_CHECKING:  # or a type checker would take every misspelt name for one that is made here

    def __getattr__(name: str) -> object:
        """Import everything when the first name is used: a command must be able to handle Ctrl-C before that second."""
        if name not in __all__:  # such as a module that is just being imported: it must not wait for all the others
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import _api  # noqa: PLC0415

        globals().update({exported: getattr(_api, exported) for exported in __all__})
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
