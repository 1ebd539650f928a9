"""The read stream that transports fill: order, end, back-pressure, and the turn of a notification's handler."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from resilient_mcp._sdk.messages import error_message, message_from_json, response_id
from resilient_mcp.transports.inbox import Inbox

pytestmark = pytest.mark.anyio

NOTE = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}


async def test_messages_come_in_order_and_then_the_end():
    """What was put before the end is still delivered; a reader that waits is woken by both."""
    inbox = Inbox()
    seen: list[object] = []

    async def read() -> None:
        async for message in inbox:
            seen.append(response_id(message))

    async with anyio.create_task_group() as tg:
        tg.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        for n in range(3):
            inbox.put(error_message(n, 1, "m"))
        await anyio.wait_all_tasks_blocked()
        inbox.put(error_message(3, 1, "m"))
        await inbox.aclose()
    assert seen == [0, 1, 2, 3]
    with pytest.raises(anyio.EndOfStream):
        await inbox.receive()


async def test_a_session_that_reads_slowly_holds_the_server_back():
    """Whoever fills it waits while a thousand messages wait, until there is room or the session is over."""
    inbox = Inbox()
    added = 0

    async def fill() -> None:
        nonlocal added
        for _ in range(1000):
            await inbox.room()
            inbox.put(error_message(added, 1, "m"))
            added += 1

    async with anyio.create_task_group() as tg:
        for _ in range(4):
            tg.start_soon(fill)
        await anyio.wait_all_tasks_blocked()
        assert 1000 <= added <= 1004
        for n in range(1500):
            assert response_id(await inbox.receive()) == n
            if n % 100 == 0:
                await anyio.wait_all_tasks_blocked()
        await anyio.wait_all_tasks_blocked()
        assert 2500 <= added <= 2504
        await inbox.aclose()
    assert added == 4000


async def test_the_handler_of_a_notification_runs_before_the_next_message_is_read():
    """mcp 2.x starts a task for it: without a turn, a caller could go on before the last progress was reported."""
    inbox = Inbox()
    for message in (NOTE, {"jsonrpc": "2.0", "id": 1, "result": {}}):
        inbox.put(message_from_json(message))
    seen = []

    async def handle() -> None:
        seen.append("handled")

    async with anyio.create_task_group() as tg:
        async with inbox:
            async for message in inbox:
                if response_id(message) is None:
                    tg.start_soon(handle)
                else:
                    seen.append("answered")
                    break
    assert seen == ["handled", "answered"]
