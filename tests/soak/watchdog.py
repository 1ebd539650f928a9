"""Ends a run that hangs: reports where, kills all child processes, and exits with status 1."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import sniffio

from ..support import children

_DEEPEST = 40


class Watchdog:
    """Runs in a thread, so that it works even if the event loop hangs.

    Args:
        patience: The time limit of the run, in seconds.
        report: Returns the lines to print about the run.
    """

    def __init__(self, patience: float, report: Callable[[], Iterable[str]]) -> None:
        self._report = report
        self._roots = _roots()
        self._patience = patience
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        if self._over.wait(self._patience):
            return
        try:
            print(f"\nBROKEN: the run did not end within {self._patience:.0f} s")
            for line in self._report():
                print(line)
            print("\nThreads:", flush=True)
            faulthandler.dump_traceback(sys.stdout, all_threads=True)
            print("\nTasks:")
            for stack, count in Counter(map(stack_of, self._roots())).most_common():
                print(f"\n{count} x\n{stack}")
        finally:
            sys.stdout.flush()
            kill_children()
            os._exit(1)


def kill_children() -> None:
    """Kill all descendants of this process."""
    found = children()
    for pid in found:
        try:
            found += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            continue
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _roots() -> Callable[[], list[Any]]:
    """A function, callable from any thread, that returns the coroutines of all tasks of the running event loop."""
    if sniffio.current_async_library() == "asyncio":
        loop = asyncio.get_running_loop()
        return lambda: [task.get_coro() for task in asyncio.all_tasks(loop)]
    import trio

    root = trio.lowlevel.current_root_task()

    def tasks(parent: Any) -> Iterator[Any]:
        yield parent.coro
        for nursery in parent.child_nurseries:
            for child in nursery.child_tasks:
                yield from tasks(child)

    return lambda: list(tasks(root))


def stack_of(coroutine: Any) -> str:
    """The stack of a suspended coroutine, outermost frame first."""
    lines = []
    while coroutine is not None and len(lines) < _DEEPEST:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        frame = frame or getattr(coroutine, "ag_frame", None)
        if frame is None:
            break
        path = "/".join(Path(frame.f_code.co_filename).parts[-3:])
        lines.append(f"  {path}:{frame.f_lineno} {frame.f_code.co_qualname if _HAS_QUALNAME else frame.f_code.co_name}")
        coroutine = (
            getattr(coroutine, "cr_await", None)
            or getattr(coroutine, "gi_yieldfrom", None)
            or getattr(coroutine, "ag_await", None)
        )
    return "\n".join(lines)


_HAS_QUALNAME = sys.version_info >= (3, 11)
