"""Signals that nobody misses, a clock whose waits can be skipped, and tasks that outlive the scope they began in."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio

from resilient_mcp import event_loop
from resilient_mcp.event_loop import Clock, Home, Pace, Signal, in_trio, loop_time, spawn, start_in

pytestmark = pytest.mark.anyio


async def waiting(tg: anyio.abc.TaskGroup, waits: list[Any]) -> list[int]:
    """Start to await each of `waits` in a task of its own; the list of those that are over."""
    over: list[int] = []

    async def one(number: int) -> None:
        await waits[number]
        over.append(number)

    for number in range(len(waits)):
        tg.start_soon(one, number)
    await anyio.wait_all_tasks_blocked()
    assert over == []
    return over


# --- signals ---


async def test_a_signal_wakes_everyone_who_waits():
    """One `notify` is enough, however they came to wait."""
    signal = Signal()
    async with anyio.create_task_group() as tg:
        over = await waiting(tg, [signal.wait(), signal.wait(), signal.upcoming.wait()])
        signal.notify()
        with anyio.fail_after(5):
            await anyio.wait_all_tasks_blocked()
        assert sorted(over) == [0, 1, 2]


async def test_who_took_the_upcoming_event_misses_nothing():
    """What happens after it was taken is not missed, however late the wait begins and however often it happens."""
    signal = Signal()
    upcoming = signal.upcoming
    signal.notify()
    signal.notify()
    with anyio.fail_after(5):
        await upcoming.wait()


async def test_waiters_of_earlier_events_are_woken():
    """Each event is set by the first `notify` after it was taken: none is left behind when it is replaced."""
    signal = Signal()
    taken = []
    for _ in range(5):
        taken.append(signal.upcoming)
        signal.notify()
    assert all(event.is_set() for event in taken)
    assert len(set(map(id, taken))) == 5
    assert not signal.upcoming.is_set()


async def test_what_happened_before_is_over():
    """A signal is not a flag: who begins to wait afterwards waits for the next time."""
    signal = Signal()
    signal.notify()
    async with anyio.create_task_group() as tg:
        over = await waiting(tg, [signal.wait(), signal.upcoming.wait()])
        signal.notify()
        await anyio.wait_all_tasks_blocked()
        assert sorted(over) == [0, 1]


async def test_a_waiter_that_waits_again_waits_for_the_next_time():
    """The event is replaced before it is set, so nobody who was woken finds the old one and spins."""
    signal = Signal()
    woken = []

    async def wait_twice() -> None:
        for number in range(2):
            await signal.wait()
            woken.append(number)

    async with anyio.create_task_group() as tg:
        tg.start_soon(wait_twice)
        await anyio.wait_all_tasks_blocked()
        signal.notify()
        await anyio.wait_all_tasks_blocked()
        assert woken == [0]
        signal.notify()


async def test_the_event_is_replaced_before_it_is_set():
    """Code that runs as soon as the old event is set already finds the next one."""
    signal, found = Signal(), []

    class Old:
        def set(self) -> None:
            found.append(signal.upcoming)

    old: Any = Old()
    signal.upcoming = old
    signal.notify()
    assert found == [signal.upcoming]
    assert signal.upcoming is not old


@pytest.mark.parametrize("consumers", [1, 7])
async def test_nothing_is_lost_between_looking_and_waiting(consumers: int):
    """Consumers that take `upcoming`, then look, then wait get every item, whatever runs in between."""
    signal, queue, got = Signal(), deque[int](), []

    async def consume() -> None:
        while len(got) < 300:
            upcoming = signal.upcoming
            if queue:
                got.append(queue.popleft())
                continue
            await anyio.lowlevel.checkpoint()  # the producer runs between the look and the wait
            await upcoming.wait()

    async def produce() -> None:
        for number in range(300):
            queue.append(number)
            signal.notify()
            if number % 3:
                await anyio.lowlevel.checkpoint()
        while len(got) < 300:
            await anyio.lowlevel.checkpoint()
        signal.notify()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tg:
            for _ in range(consumers):
                tg.start_soon(consume)
            tg.start_soon(produce)
    assert got == list(range(300))


# --- the clock ---


@pytest.fixture
def instant() -> Clock:
    """A clock of which somebody wants the waits to be skipped."""
    clock = Clock()
    clock.instant = 1
    return clock


async def test_the_loops_own_time():
    """`loop_time` is `anyio.current_time`, and a clock agrees with it until something is skipped."""
    before = anyio.current_time()
    assert before <= loop_time() <= Clock().now() <= anyio.current_time()


async def test_a_clock_can_be_moved_on():
    """Skipped time adds up, and is the clock's own: another one has its own time."""
    clock, other = Clock(), Clock()
    clock.advance(3600)
    clock.advance(60)
    assert clock.now() - other.now() == pytest.approx(3660, abs=1)


async def test_a_sleep_takes_its_time():
    """Where nothing is skipped, the clock moves with the loop's."""
    clock = Clock()
    clock_before, before = clock.now(), anyio.current_time()
    await clock.sleep(0.02)
    assert anyio.current_time() - before >= 0.02
    assert clock.now() - clock_before == pytest.approx(anyio.current_time() - before, abs=0.01)


async def test_a_skipped_sleep_takes_a_moment(instant: Clock):
    """The clock has moved on by an hour and the loop has not, but other tasks had a moment to run."""
    clock_before, before = instant.now(), anyio.current_time()
    with anyio.fail_after(5):
        await instant.sleep(3600)
    assert 3600 <= instant.now() - clock_before < 3605
    assert 0.005 < anyio.current_time() - before < 5


async def test_a_short_sleep_is_not_made_longer(instant: Clock, monkeypatch: pytest.MonkeyPatch):
    """A wait that is shorter than the moment a skipped one takes stays as it is."""
    monkeypatch.setattr(event_loop, "_TICK", 60.0)
    clock_before = instant.now()
    with anyio.fail_after(5):
        await instant.sleep(0.001)
    assert instant.now() - clock_before >= 0.001


@pytest.mark.parametrize("kind", [anyio.Event, Signal])
async def test_waiting_for_what_happens(kind: Any, instant: Clock):
    """A wait without a limit ends when it happens, not earlier, and no time is skipped."""
    something = kind()
    clock_before, before = instant.now(), anyio.current_time()
    async with anyio.create_task_group() as tg:
        over = await waiting(tg, [instant.wait(something, math.inf)])
        await anyio.sleep(5 * event_loop._TICK)
        assert over == []
        something.set() if isinstance(something, anyio.Event) else something.notify()
        with anyio.fail_after(5):
            await anyio.wait_all_tasks_blocked()
        assert over == [0]
    assert instant.now() - clock_before == pytest.approx(anyio.current_time() - before, abs=0.5)


@pytest.mark.parametrize("kind", [anyio.Event, Signal])
async def test_waiting_for_what_does_not_happen(kind: Any, instant: Clock):
    """A wait with a limit ends at the limit, which is skipped."""
    clock_before = instant.now()
    with anyio.fail_after(5):
        await instant.wait(kind(), 3600)
    assert 3600 <= instant.now() - clock_before < 3605


async def test_a_limit_that_is_not_skipped_takes_its_time():
    """The limit of a wait is real where nothing is skipped."""
    clock = Clock()
    before = anyio.current_time()
    await clock.wait(anyio.Event(), 0.02)
    assert anyio.current_time() - before >= 0.02
    assert clock.now() - loop_time() == pytest.approx(0, abs=0.01)


async def test_work_of_unknown_amount_lets_others_run():
    """After some pieces of work, or fewer large ones; not after each."""
    for size, most in ((0, 80), (1024 * 1024, 2)):  # twice as many as it says: trio may run the same task twice
        pace, turns, pieces = Pace(), 0, 0

        async def other() -> None:
            nonlocal turns
            turns += 1

        async with anyio.create_task_group() as tg:
            tg.start_soon(other)
            while not turns:
                await pace.step(size)
                pieces += 1
        assert 1 <= pieces <= most
        assert (pieces > 2) is (size == 0)


# --- tasks ---


@pytest.fixture
def without_trio(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On asyncio, as if trio had never been imported."""
    if anyio_backend == "asyncio":
        monkeypatch.delitem(sys.modules, "trio", raising=False)


@pytest.mark.parametrize("fixture", ["with_trio", "without_trio"])
async def test_a_task_outlives_its_maker(fixture: str, request: pytest.FixtureRequest):
    """What `spawn` runs is not cancelled with the scope that it was started in, and any task can wait for it."""
    if fixture == "without_trio":
        request.getfixturevalue(fixture)
    begun, go_on, done = anyio.Event(), anyio.Event(), anyio.Event()

    async def run() -> None:
        begun.set()
        await go_on.wait()
        done.set()

    tasks = []
    async with anyio.create_task_group() as tg:

        async def start() -> None:
            with anyio.CancelScope() as scope:
                tasks.append(spawn(run))
                await begun.wait()
                scope.cancel()
                await anyio.lowlevel.checkpoint()

        tg.start_soon(start)
    assert not done.is_set()
    go_on.set()
    with anyio.fail_after(5):
        await done.wait()
    assert tasks != [None]
    for task in tasks:
        if isinstance(task, asyncio.Task):
            await task


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_the_end_of_the_event_loop_before_a_task_has_run():
    """Waiting for the start of a task that asyncio cancels before it runs ends; `TaskGroup.start` would hang."""

    async def parent() -> None:
        async with anyio.create_task_group() as tg:
            await start_in(tg, child)

    async def child(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        raise AssertionError

    async def main() -> None:
        task = asyncio.create_task(parent())
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(main())
    gc.collect()


async def test_what_a_task_starts_with():
    """`start_in` returns it while the task goes on."""
    done = anyio.Event()

    async def child(first: int, *, task_status: anyio.abc.TaskStatus[int]) -> None:
        task_status.started(first + 1)
        await anyio.sleep(0.01)
        done.set()

    async with anyio.create_task_group() as tg:
        assert await start_in(tg, child, 1) == 2
        assert not done.is_set()
    assert done.is_set()


# --- where a client belongs ---


def test_each_library_has_its_own_clock_and_loop():
    """A guest run of trio differs from the asyncio around it; code outside of both has a clock as well."""

    async def guest() -> tuple[bool, float, Home]:
        return in_trio(), loop_time() - trio.current_time(), Home()

    async def host() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
        )
        is_trio, difference, home = (await done).unwrap()
        assert is_trio
        assert abs(difference) < 5
        assert not in_trio()
        assert loop_time() == pytest.approx(loop.time(), abs=5)
        assert not home.is_here()
        assert Home().is_here()

    asyncio.run(host())
    assert loop_time() == pytest.approx(time.monotonic(), abs=5)


async def test_another_thread_runs_something_in_the_event_loop():
    """`run` returns when it is done; in the event loop itself, and after its end, it is done immediately."""
    home, done = Home(), list[bool]()
    home.run(lambda: done.append(home.is_here()))
    assert done == [True]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(home.run, lambda: done.append(home.is_here()))
        while not future.done():
            await anyio.sleep(0.01)
        future.result()
    assert done == [True, True]
    assert home.now() == pytest.approx(event_loop.clock.now(), abs=5)


def test_nothing_waits_for_an_event_loop_that_has_ended(anyio_backend: str):
    """What was to run in it runs in the caller's thread."""

    async def here() -> Home:
        return Home()

    home, done = anyio.run(here, backend=anyio_backend), list[bool]()
    home.run(lambda: done.append(home.is_here()))
    assert done == [False]
    assert home.time() > 0


async def test_a_call_elsewhere_is_refused():
    """Another process is recognised by its number; the errors name the server and the remedy."""
    home = Home()
    home.check("weather")
    home.pid += 1  # as in a fork
    with pytest.raises(RuntimeError, match=r"'weather' was started in process \d+, of which this is a fork: create"):
        home.check("weather")
    assert not home.is_here()
    home.pid -= 1
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(RuntimeError, match="'weather' was started in another event loop"),
    ):
        pool.submit(home.check, "weather").result()
