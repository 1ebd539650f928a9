"""The two sides: a session of the plain SDK and a `ResilientClient`, opened on a stage and used by the same code."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import mcp
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from resilient_mcp import (
    AttemptFailed,
    Disconnected,
    Event,
    Policy,
    ResilientClient,
    RestartPolicy,
    RestartScheduled,
    RetryPolicy,
    RetryScheduled,
    TimeoutPolicy,
)

from ..support import LEGACY
from .stages import RESTARTS, Stage

TOTAL = 8.0
"""Seconds within which every call of `ResilientClient` has an outcome: the policy's `timeout.total`."""


@dataclass(frozen=True)
class Side:
    """One side.

    Attributes:
        tools: The tools called under the fault, once each: one that is repeatable and one that is not.
        patience: Seconds after which a call without an outcome counts as hung.
        open: How a session is opened.
    """

    tools: tuple[str, ...]
    patience: float
    open: Callable[[Stage], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def _plain(stage: Stage) -> AsyncIterator[Any]:
    """As in the SDK's documentation: `ClientSession` up to 2025-11-25, `mcp.Client` at 2026-07-28."""
    async with AsyncExitStack() as stack:
        if isinstance(stage.target, StdioServerParameters):
            transport = stdio_client(stage.target, errlog=subprocess.DEVNULL)
        else:
            options = await _http_client(stage, stack)
            transport = streamable_http_client(stage.target, **options)
        if stage.place.modern:
            client = mcp.Client(transport, message_handler=stage.hear)
            yield await stack.enter_async_context(client)
        else:
            read, write, *_ = await stack.enter_async_context(transport)
            session = ClientSession(read, write, message_handler=stage.hear)
            await stack.enter_async_context(session)
            await session.initialize()
            yield session


@asynccontextmanager
async def _ours(stage: Stage) -> AsyncIterator[Any]:
    def notice(event: Event) -> None:
        if isinstance(event, (AttemptFailed, RetryScheduled, RestartScheduled, Disconnected)):
            stage.noticed.set()

    async with AsyncExitStack() as stack:
        options = {} if stage.place.modern else LEGACY
        if isinstance(stage.target, str):
            options = {**options, **await _http_client(stage, stack)}
        client = ResilientClient(
            stage.target, policy=policy(stage), on_event=notice, message_handler=stage.hear, **options
        )
        yield await stack.enter_async_context(client)


async def _http_client(stage: Stage, stack: AsyncExitStack) -> dict[str, Any]:
    if stage.fault.http_client is None:
        return {}
    return {"http_client": await stack.enter_async_context(stage.fault.http_client(stage))}


def policy(stage: Stage) -> Policy:
    """Short waits, plus the fault's own limits."""
    limits = {"attempt": TOTAL, "ready": TOTAL, "connect": TOTAL, "shutdown": 1.0, "total": TOTAL}
    usual = {
        "retry": RetryPolicy(base=0.01, throttled_base=0.01),
        "restart": RestartPolicy(base=0.01, max_delay=0.05, intensity=RESTARTS),
        "timeout": TimeoutPolicy(**{**limits, **stage.fault.limits}),
    }
    return Policy(**{**usual, **stage.fault.policy})


PLAIN = Side(("echo",), 10, _plain)
OURS = Side(("echo", "order"), TOTAL + 4, _ours)
SIDES = {"plain": PLAIN, "ours": OURS}
