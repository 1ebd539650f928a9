"""What happened, on disk, so that this process does not grow by keeping it: each call with its story, each connection.

A story is the events of one call; it is kept while the call runs and written with its outcome.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from resilient_mcp import CallFinished, Event
from resilient_mcp.observability.stats import Histogram

from ..promises import Told

_STORY = 100
_CONNECTION_EVENTS = 40


@dataclass
class Running:
    """One call under way."""

    key: str
    place: str
    began: float
    story: deque[str] = field(default_factory=lambda: deque(maxlen=_STORY))


current: ContextVar[Running | None] = ContextVar("soak_call", default=None)
"""The call of the running task: its events are its own."""


class Book:
    """Where everyone writes; read again when all is over.

    Attributes:
        folder: Where it is.
        calls: How many ended.
        told: How many were told what.
        latency: How long they took.
        lag: How late the event loop came to its work.
        running: The calls under way, by their keys.
        broken: The promises that were seen to be broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.began = time.monotonic()
        self.calls = 0
        self.told: Counter[str] = Counter()
        self.latency = Histogram()
        self.lag = Histogram()
        self.running: dict[str, Running] = {}
        self.broken: list[str] = []
        self._calls = (folder / "calls").open("w")
        self._connections: dict[str, TextIO] = {}

    def now(self) -> float:
        """Seconds of this run."""
        return time.monotonic() - self.began

    def break_promise(self, text: str) -> None:
        """Note a broken promise; the first hundred are enough."""
        if len(self.broken) < 100:
            self.broken.append(f"{self.now():.1f} {text}")

    # --- calls ---

    def begin(self, key: str, place: str) -> Running:
        running = self.running[key] = Running(key, place, self.now())
        return running

    def end(self, running: Running, told: Told) -> None:
        del self.running[running.key]
        took = self.now() - running.began
        self.calls += 1
        self.told[told.kind.value] += 1
        self.latency.add(Histogram.bucket(took))
        facts = [running.key, running.place, round(running.began, 3), round(took, 3), told.kind.value, told.text]
        json.dump([*facts, list(running.story)], self._calls)
        self._calls.write("\n")

    def finished(self) -> Iterator[tuple[str, str, float, float, str, str, list[str]]]:
        """Every call that ended: key, place, when it began, how long it took, what it was told, its story."""
        self._calls.flush()
        with (self.folder / "calls").open() as file:
            for line in file:
                yield tuple(json.loads(line))

    # --- events ---

    def listener(self, place: str) -> Any:
        """The `on_event` of one client."""
        file = self._connections[place] = (self.folder / f"{place}.connections").open("w")

        def listen(event: Event) -> None:
            if isinstance(event, CallFinished):
                return
            text = f"{self.now():.3f} {event}"
            if (running := current.get()) is not None:
                running.story.append(text)
            else:
                file.write(text + "\n")

        return listen

    def connection_events(self, place: str, since: float, until: float) -> list[str]:
        """What happened to a place's connections between two times of the run, the last of it if it was much."""
        self._connections[place].flush()
        with (self.folder / f"{place}.connections").open() as file:
            lines = [line.rstrip() for line in file if since <= float(line.partition(" ")[0]) <= until]
        return lines[-_CONNECTION_EVENTS:]
