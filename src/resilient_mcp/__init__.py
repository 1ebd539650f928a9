"""A drop-in for the MCP Python SDK's `ClientSession` that survives crashed servers, lost sessions and overload."""

TYPE_CHECKING = False  # to import `typing` takes longer than all of this
if TYPE_CHECKING:
    from ._api import *  # noqa: F403
    from ._api import __all__ as __all__
else:  # or a type checker would take every misspelt name for one that is made here

    def __getattr__(name: str) -> object:
        """Import everything when the first name is used: a command must be able to handle Ctrl-C before that second."""
        if name == "__all__" or not name.startswith("_"):
            from . import _api  # noqa: PLC0415

            exports = {exported: getattr(_api, exported) for exported in ("__all__", *_api.__all__)}
            globals().update(exports)
            if name in exports:
                return exports[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
