"""The reading end of a pipe: everything arrives, memory is bounded, and it can be woken."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import anyio
import pytest

from resilient_mcp.transports.pipe import pipe_of

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")]


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe that does not block."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


async def test_everything_arrives_and_then_the_end(ends: tuple[int, int]):
    """What is written before, during and after a wait; the end is reported again and again."""
    reading, writing = ends
    pipe = pipe_of(reading)
    os.write(writing, b"before")
    assert await pipe.receive() == b"before"
    seen = []

    async def read() -> None:
        while chunk := await pipe.receive():
            seen.append(chunk)

    async with anyio.create_task_group() as tg:
        tg.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        os.write(writing, b"during")
        await anyio.wait_all_tasks_blocked()
        os.write(writing, b"after")
        os.close(writing)
    assert b"".join(seen) == b"duringafter"
    assert await pipe.receive() == b""
    pipe.wake()


async def test_a_reader_that_is_slow_holds_the_writer_back(ends: tuple[int, int]):
    """Not more than a megabyte or two waits in this process, and nothing of it is lost."""
    reading, writing = ends
    pipe = pipe_of(reading)
    written = received = 0

    async def write() -> None:
        nonlocal written
        while written < 20_000_000:
            try:
                written += os.write(writing, b"x" * 65536)
            except BlockingIOError:
                await anyio.wait_writable(writing)
        os.close(writing)

    async with anyio.create_task_group() as tg:
        tg.start_soon(write)
        received += len(await pipe.receive())
        with anyio.move_on_after(0.2):
            while True:
                await anyio.sleep(0.01)
        assert written - received < 3_000_000
        while chunk := await pipe.receive():
            received += len(chunk)
    assert received == written
    pipe.wake()


async def test_a_wait_that_is_cancelled_loses_nothing(ends: tuple[int, int]):
    """What comes afterwards is there for the next one."""
    reading, writing = ends
    pipe = pipe_of(reading)
    for n in range(20):
        with anyio.move_on_after(0.001):
            await pipe.receive()
        os.write(writing, b"%d" % n)
        assert await pipe.receive() == b"%d" % n
    pipe.wake()


async def test_waking_returns_what_is_there(ends: tuple[int, int]):
    """A reader that waits gets nothing more, one that comes later the rest of the pipe; it may be closed then."""
    reading, writing = ends
    pipe = pipe_of(reading)
    seen = []

    async def read() -> None:
        seen.append(await pipe.receive())

    async with anyio.create_task_group() as tg:
        tg.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        pipe.wake()
    assert seen == [b""]
    os.write(writing, b"rest")
    assert await pipe.receive() == b"rest"
    assert await pipe.receive() == b""
    os.close(reading)
    pipe.wake()
