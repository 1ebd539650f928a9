"""The two sides: a session of the plain SDK, which is never reopened, and `ResilientClient` with its default policy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

import anyio
import mcp
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from resilient_mcp import Event, ResilientClient, Throttled
from resilient_mcp._sdk.installed import MAJOR

from ..support import LEGACY
from .load import Load

ERAS: dict[str, dict[str, Any]] = {"legacy": LEGACY} if MAJOR == 1 else {"legacy": LEGACY, "default": {}}
Side: TypeAlias = Callable[[str, str, Load], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def plain(url: str, era: str, _load: Load) -> AsyncIterator[Any]:
    """As in the SDK's documentation: `ClientSession` up to 2025-11-25, `mcp.Client` at 2026-07-28."""
    async with AsyncExitStack() as stack:
        transport = streamable_http_client(url)
        if era != "legacy":
            yield await stack.enter_async_context(mcp.Client(transport))
            return
        read, write, *_ = await stack.enter_async_context(transport)
        session = await stack.enter_async_context(ClientSession(read, write))
        await session.initialize()
        yield session


@asynccontextmanager
async def ours(url: str, era: str, load: Load) -> AsyncIterator[Any]:
    """`ResilientClient` with its defaults."""

    def obey(event: Event) -> None:
        if isinstance(event, Throttled):
            load.paused_until = max(load.paused_until, anyio.current_time() + event.delay)

    async with ResilientClient(url, on_event=obey, **ERAS[era]) as client:
        yield client


SIDES: dict[str, Side] = {"plain": plain, "ours": ours}
