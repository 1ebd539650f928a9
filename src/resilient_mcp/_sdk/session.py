"""One negotiated session of the installed SDK, and the requests on which the two majors differ."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias, cast

import anyio
import anyio.abc
from mcp import ClientSession, types
from typing_extensions import Self

from .installed import MAJOR, VERSION, _types
from .options import client_of
from .repairs import CallbackRunner, keep_answers, survive_cancelled_callers
from .results import declares

Progress: TypeAlias = Callable[[float, float | None, str | None], Awaitable[None]]
"""A progress callback, as the SDK's `ProgressFnT`: progress, total, message."""

# Session options that negotiate by `initialize`.
LEGACY_SESSION: dict[str, Any] = {} if MAJOR == 1 else {"mode": "legacy"}
# The latest protocol version that is negotiated by `initialize`.
LATEST_LEGACY_VERSION = "2025-11-25"


class Session:
    """One negotiated session: an SDK `ClientSession`, on 2.x inside the `mcp.Client` that negotiated it.

    Create it with `Session.open`. `raw` is the `ClientSession`; `callback_runner` runs its callbacks (1.x only, else
    None).
    """

    def __init__(
        self,
        client: Any,
        raw: Any,
        result: Any,
        *,
        callback_runner: CallbackRunner | None = None,
        knows_capabilities: bool = True,
    ) -> None:
        self.client = client
        self.raw = raw
        self.initialize_result = result
        self.callback_runner = callback_runner
        self._knows_capabilities = knows_capabilities
        keep_answers(raw)
        if MAJOR == 1:
            survive_cancelled_callers(raw)

    @classmethod
    @asynccontextmanager
    async def open(cls, streams: Any, options: Mapping[str, Any], *, legacy: bool) -> AsyncIterator[Self]:
        """Negotiate a session over `streams`, a context manager of (read, write).

        Args:
            streams: The transport.
            options: Callbacks and options for the SDK's session.
            legacy: On 2.x, go straight to `initialize` (the era found by an earlier generation).
        """
        if MAJOR == 1:
            async with (
                streams as (read, write),
                ClientSession(read, write, **options) as raw,
                anyio.create_task_group() as beside,
            ):
                runner = CallbackRunner(raw, beside)
                yield cls(raw, raw, await raw.initialize(), callback_runner=runner)
                beside.cancel_scope.cancel()
            return
        options = {**options, "mode": "legacy"} if legacy else dict(options)
        pinned = options.get("mode", "auto") not in {"auto", "legacy"}
        async with client_of(streams, options) as client:
            result = _as_initialize_result(client.session)
            known = not pinned or options.get("prior_discover") is not None
            yield cls(client, client.session, result, knows_capabilities=known)

    @property
    def protocol_version(self) -> str:
        """The negotiated protocol version."""
        if MAJOR == 1:
            return str(self.initialize_result.protocolVersion)
        return str(self.raw.protocol_version)

    @property
    def is_legacy(self) -> bool:
        """Whether the session was negotiated by `initialize` (2025-11-25 and before)."""
        return MAJOR == 1 or self.raw.initialize_result is not None

    @property
    def capabilities(self) -> Any:
        """The server's declared capabilities."""
        return self.initialize_result.capabilities

    def offers(self, path: str) -> bool:
        """Whether the server may offer a capability, such as `tools` or `resources.subscribe`.

        If the protocol version was pinned, the server's capabilities were never requested, so it may offer anything.
        """
        return not self._knows_capabilities or declares(self.capabilities, path)

    @property
    def raw_initialize_result(self) -> Any:
        """The result of `initialize`; None if the session was negotiated by `server/discover`."""
        return self.initialize_result if MAJOR == 1 else self.raw.initialize_result

    @property
    def server_info(self) -> Any:
        """The server's name and version, or None if it did not send them."""
        return self.initialize_result.serverInfo if MAJOR == 1 else self.raw.server_info

    @property
    def instructions(self) -> str | None:
        """The server's instructions, if any."""
        return cast("str | None", self.initialize_result.instructions)

    async def invoke(self, method: str, *args: Any, **options: Any) -> Any:
        """Call a coroutine method of the SDK's session by name, without deprecation warnings."""
        return await _undecorated(method)(self.raw, *args, **options)

    async def cancel(self, request_id: Any, reason: str) -> None:
        """Notify the server that `request_id` is cancelled. Does nothing on 2.x, whose SDK does it itself."""
        if MAJOR == 1:
            params = _types.CancelledNotificationParams(requestId=request_id, reason=reason)
            notification = _types.CancelledNotification(method="notifications/cancelled", params=params)
            await self.raw.send_notification(_types.ClientNotification(notification))


def open_listen(session: Session, **filters: Any) -> AbstractAsyncContextManager[Any]:
    """The SDK's `listen()` on one session.

    Raises:
        RuntimeError: The installed SDK does not have it.
    """
    if MAJOR == 1:
        raise RuntimeError(f"listen() needs mcp 2.x and a server at 2026-07-28, but mcp {VERSION} is installed")
    return cast("AbstractAsyncContextManager[Any]", session.client.listen(**filters))


def _as_initialize_result(session: Any) -> Any:
    """The result of `initialize`, or the same facts from `server/discover`."""
    if session.initialize_result is not None:
        return session.initialize_result
    info = session.server_info or types.Implementation(name="unknown", version="unknown")
    return types.InitializeResult.model_construct(
        protocol_version=session.protocol_version,
        capabilities=session.server_capabilities,
        server_info=info,
        instructions=session.instructions,
    )


def _undecorated(method: str) -> Callable[..., Awaitable[Any]]:
    """The SDK's method without its deprecation warning: this library calls it only in the era it belongs to."""
    return cast("Callable[..., Awaitable[Any]]", inspect.unwrap(getattr(ClientSession, method)))
