"""The options of the installed SDK's session: their names, types and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, fields, replace
from importlib import import_module
from typing import Any, get_args

from mcp import ClientSession, types

from ..foreign_code import guarded
from ..text.printable import printable
from .installed import MAJOR, _mcp, http

_CALLBACKS = (
    "sampling_callback",
    "elicitation_callback",
    "list_roots_callback",
    "logging_callback",
    "message_handler",
    "client_info",
)


_SESSION_CLASS: Any = ClientSession if MAJOR == 1 else _mcp.Client


SESSION_OPTIONS = frozenset(inspect.signature(_SESSION_CLASS).parameters) - {
    "read_stream",
    "write_stream",
    "server",
    "dispatcher",
    "read_timeout_seconds",
    *_CALLBACKS,
}
"""Options that `ResilientClient(**session_options)` may pass on to the installed SDK's session."""

if MAJOR != 1:  # options of `ClientSession`, which `mcp.Client` takes only as part of its extensions
    SESSION_OPTIONS |= {"result_claims", "notification_bindings"}


_OPTION_TYPES: dict[str, Any] = {
    "client_info": types.Implementation,
    "sampling_capabilities": types.SamplingCapability,
    "raise_exceptions": bool,
    "input_required_max_rounds": int,
    "prior_discover": getattr(types, "DiscoverResult", None),
    "experimental_task_handlers": MAJOR == 1
    and import_module("mcp.client.experimental.task_handlers").ExperimentalTaskHandlers,
    "extensions": (Sequence, Mapping),
}


def check_options(options: Mapping[str, Any], url: str | None) -> None:
    """Reject options that the installed SDK's session would reject when it connects, or fail on later.

    Args:
        options: Callbacks and options.
        url: The server's, which identifies it in a shared cache; None if it has none.

    Raises:
        TypeError: An option is of the wrong type.
        ValueError: An option has an invalid value.
    """
    for name, value in options.items():
        if value is None:
            continue
        if (wanted := _OPTION_TYPES.get(name)) and not isinstance(value, wanted):
            kind = getattr(wanted, "__name__", "sequence of ClientExtension")
            raise TypeError(f"{name} is {printable(repr(value), 100)}: pass a {kind}")
        if name.endswith(("_callback", "_handler")) and not callable(value):
            raise TypeError(f"{name} is {printable(repr(value), 100)}: pass a coroutine function")
        if name == "log_level" and value not in get_args(types.LoggingLevel):
            levels = ", ".join(map(repr, get_args(types.LoggingLevel)))
            raise ValueError(f"log_level is {printable(repr(value), 100)}: pass one of {levels}")
    if MAJOR != 1:  # constructed only for its own checks
        client_of(nullcontext() if url is None else url, options)


def with_target_id(cache: Any, url: str | None) -> Any:
    """A cache configuration that names the server whose responses it stores: the store may be shared."""
    if cache is None or cache.target_id is not None or url is None:
        return cache
    return replace(cache, target_id=str(http.URL(url).copy_with(userinfo=b"")))


def default_option(option: str) -> Any:
    """The installed SDK's default for a session option; None if there is no such option."""
    if MAJOR == 1:
        return None  # the default of every option of `ClientSession`
    declared = next((field for field in fields(_mcp.Client) if field.name == option), None)
    if declared is None:
        return None
    return declared.default if declared.default_factory is MISSING else declared.default_factory()


def client_of(target: Any, options: Mapping[str, Any]) -> Any:
    """The `mcp.Client` of 2.x for these options, including those of its `ClientSession`.

    Raises:
        TypeError, ValueError: It rejects them.
    """
    options = dict(options)
    bindings = options.pop("notification_bindings", None)
    claims: Mapping[str, Any] = options.pop("result_claims", None) or {}
    extensions = options.get("extensions")
    if isinstance(extensions, Mapping) or claims:
        settings: Mapping[str, Any] = extensions if isinstance(extensions, Mapping) else {}
        if strangers := claims.keys() - settings.keys():
            raise ValueError(f"result_claims names {min(strangers)!r}, which extensions= does not name: add it there")
        options["extensions"] = [_extension(name, said, claims.get(name, ())) for name, said in settings.items()]
    client = _mcp.Client(target, **options)
    folded = client._folded_extensions  # noqa: SLF001 - the client takes bindings from extensions only
    if bindings := (*(folded.bindings or ()), *(bindings or ())):
        client._folded_extensions = replace(folded, bindings=tuple(map(_guarded, bindings)))  # noqa: SLF001
    return client


def _guarded(binding: Any) -> Any:
    return replace(binding, handler=guarded(f"the notification binding of {binding.method}", binding.handler))


def _extension(identifier: str, settings: Mapping[str, Any], claims: Sequence[Any]) -> Any:
    """An extension as `mcp.Client` takes it, from the settings and claims that a 2.x `ClientSession` takes."""
    extension = import_module("mcp.client.extension").advertise(identifier, dict(settings))
    extension.claims = lambda: tuple(claims)
    return extension
