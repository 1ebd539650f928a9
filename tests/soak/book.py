"""Records each call with its story, and each connection's events, on disk, so that this process does not grow.

A story is the list of a call's events; it is kept in memory while the call runs and written with its outcome.
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

from ..promises import Outcome

_STORY = 100
_CONNECTION_EVENTS = 40


@dataclass
class Running:
    """A call in flight."""

    key: str
    place: str
    began: float
    story: deque[str] = field(default_factory=lambda: deque(maxlen=_STORY))


current: ContextVar[Running | None] = ContextVar("soak_call", default=None)
"""The call of the running task, whose story gets the events that the task emits."""


class Book:
    """The shared record of a run; read again at the end.

    Attributes:
        folder: Its folder.
        calls: The number of finished calls.
        outcomes: The number of calls by outcome.
        latency: The durations of the calls.
        lag: The lag of the event loop.
        running: The calls in flight, by key.
        broken: The broken promises found so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.began = time.monotonic()
        self.calls = 0
        self.outcomes: Counter[str] = Counter()
        self.latency = Histogram()
        self.lag = Histogram()
        self.running: dict[str, Running] = {}
        self.broken: list[str] = []
        self._calls = (folder / "calls").open("w")
        self._connections: dict[str, TextIO] = {}

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def break_promise(self, text: str) -> None:
        """Record a broken promise; only the first hundred are kept."""
        if len(self.broken) < 100:
            self.broken.append(f"{self.now():.1f} {text}")

    # --- calls ---

    def begin(self, key: str, place: str) -> Running:
        running = self.running[key] = Running(key, place, self.now())
        return running

    def end(self, running: Running, outcome: Outcome) -> None:
        del self.running[running.key]
        took = self.now() - running.began
        self.calls += 1
        self.outcomes[outcome.kind.value] += 1
        self.latency.add(Histogram.bucket(took))
        facts = [running.key, running.place, round(running.began, 3), round(took, 3), outcome.kind.value, outcome.text]
        json.dump([*facts, list(running.story)], self._calls)
        self._calls.write("\n")

    def finished(self) -> Iterator[tuple[str, str, float, float, str, str, list[str]]]:
        """Every finished call: key, place, start, duration, kind and text of its outcome, story."""
        self._calls.flush()
        with (self.folder / "calls").open() as file:
            for line in file:
                yield tuple(json.loads(line))

    # --- events ---

    def listener(self, place: str) -> Any:
        """The `on_event` callback of one client."""
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
        """The events of a place's connections between two times of the run; only the last ones if there are many."""
        self._connections[place].flush()
        with (self.folder / f"{place}.connections").open() as file:
            lines = [line.rstrip() for line in file if since <= float(line.partition(" ")[0]) <= until]
        return lines[-_CONNECTION_EVENTS:]
