"""A drop-in for the MCP Python SDK's `ClientSession` that survives crashed servers, lost sessions and overload."""

# ruff: noqa: F403, F405 - `__all__` lists what the star import brings in

TYPE_CHECKING = False  # importing `typing` would take longer than the rest of this module
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

if not TYPE_CHECKING:  # a type checker that saw `__getattr__` would accept every misspelled name

    def __getattr__(name: str) -> object:
        """Import everything on first use: the command line must handle Ctrl-C before that import, which is slow."""
        if name not in __all__:  # a submodule that is being imported, say, must not trigger importing all the others
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import _api  # noqa: PLC0415

        globals().update({exported: getattr(_api, exported) for exported in __all__})
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
