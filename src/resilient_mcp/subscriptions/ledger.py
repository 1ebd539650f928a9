"""The ledger of what the next connection must have again: subscriptions, listen filters, the log level.

It holds the wishes of their holders, and what of them is in force on the newest connection. State is replayed, not
history: what was taken back while the server was away is gone from it. Sans-I/O: time and randomness are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeAlias

from ..strategies.backoff import half_jitter

BASE, CAP = 0.1, 10.0
"""The back-off between two tries to restore one part, in seconds."""

_MEMORY = 2
"""Failures that are remembered of what came into force: it may end at once, again and again."""

STABLE = 10.0
"""Seconds a part must have been in force for its next failure to count as the first."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Updates of one resource (`resources/subscribe`, up to 2025-11-25)."""

    uri: str

    def __str__(self) -> str:
        return f"resources/subscribe {self.uri}"


@dataclass(frozen=True, slots=True)
class Listen:
    """One `subscriptions/listen` stream (2026-07-28), by what it listens for."""

    resources: tuple[str, ...] = ()
    tools: bool = False
    prompts: bool = False
    resource_list: bool = False

    def capabilities(self) -> list[str]:
        """What a server must declare to honour it."""
        needed = {"tools": self.tools, "prompts": self.prompts, "resources": self.resource_list}
        paths = [f"{name}.listChanged" for name, on in needed.items() if on]
        return ["resources.subscribe", *paths] if self.resources else paths

    def __str__(self) -> str:
        named = {"tools": self.tools, "prompts": self.prompts, "resource_list": self.resource_list}
        return " ".join(["subscriptions/listen", *self.resources, *(name for name, on in named.items() if on)])


@dataclass(frozen=True, slots=True)
class LogLevel:
    """The level of log messages (`logging/setLevel`, up to 2025-11-25). It can be changed, never taken back."""

    def __str__(self) -> str:
        return "logging/setLevel"


Key: TypeAlias = Resource | Listen | LogLevel

Value: TypeAlias = str | bool
"""The log level, or True for what is either there or not."""


@dataclass(slots=True)
class _Part:
    """What the newest connection has of one key; `value` is None when it has nothing of it.

    `certain` says whether that was known when `asked` was last asked for: a refusal leaves things as they were.
    """

    value: Value | None = None
    known: bool = True
    certain: bool = True
    asked: Value | None = None
    since: float = math.inf
    failures: int = 0
    not_before: float = -math.inf


@dataclass(slots=True)
class Ledger:
    """What is wanted, by whom, and what is in force.

    Several holders of one key cost one subscription, and the last to release it ends it. A part whose request met an
    unknown fate is neither in force nor not: it is sent again, or taken back, until the server has said which.

    Attributes:
        generation: The newest connection it was told of.
    """

    generation: int = 0
    _wishes: dict[Key, dict[object, Value]] = field(default_factory=dict)
    _parts: dict[Key, _Part] = field(default_factory=dict)
    _offered: Callable[[Key], bool] = lambda _: False

    # --- what is wanted ---

    def keys(self) -> set[Key]:
        """What is wanted by anyone."""
        return set(self._wishes)

    def want(self, key: Key, holder: object, value: Value = True) -> Value | None:
        """`holder` wants `key`, at once and on every connection to come; returns what it wanted before."""
        wishes = self._wishes.setdefault(key, {})
        before = wishes.pop(holder, None)
        wishes[holder] = value
        if key in self._parts:
            self._parts[key].not_before = -math.inf
        return before

    def release(self, key: Key, holder: object) -> None:
        """`holder` wants `key` no more."""
        wishes = self._wishes.get(key, {})
        wishes.pop(holder, None)
        if not wishes:
            self._wishes.pop(key, None)
            self._tidy(key)

    def wanted(self, key: Key) -> Value | None:
        """What `key` is to be: the latest wish, or None."""
        return next(reversed(self._wishes[key].values())) if key in self._wishes else None

    def holders(self, key: Key) -> Collection[object]:
        """Who wants `key`."""
        return self._wishes.get(key, {}).keys()

    # --- what is in force ---

    def begin(self, generation: int, offered: Callable[[Key], bool]) -> bool:
        """A new connection has nothing in force; told again of the same one, or of an older, this does nothing.

        Args:
            generation: The connection's.
            offered: Whether its server declares what a key needs; what is not offered is never sent.

        Returns:
            Whether it was new.
        """
        if generation <= self.generation:
            return False
        self.generation = generation
        self._offered = offered
        self._parts.clear()
        return True

    def in_force(self, key: Key) -> bool:
        """Whether the server has `key` as it is wanted, for certain."""
        part = self._parts.get(key)
        return part is not None and part.known and part.value is not None and part.value == self.wanted(key)

    def held(self) -> list[Key]:
        """What is in force."""
        return [key for key in self._parts if self.in_force(key)]

    def differs(self, key: Key) -> bool:
        """Whether a request must be sent to make the server have `key` as it is wanted."""
        part, wanted = self._parts.get(key, _NOTHING), self.wanted(key)
        if not self._offered(key) or (wanted is None and isinstance(key, LogLevel)):
            return False
        return not part.known or part.value != wanted

    def lacking(self) -> list[Key]:
        """What is wanted, and not offered by the server."""
        return [key for key in self._wishes if not self._offered(key)]

    def due(self, now: float) -> list[Key]:
        """What is to be sent at `now`."""
        return [key for key in self._differing() if self._parts.get(key, _NOTHING).not_before <= now]

    def next_due(self, now: float) -> float:
        """When something more is due, after `now`; infinity when nothing is."""
        times = (self._parts.get(key, _NOTHING).not_before for key in self._differing())
        return min((time for time in times if time > now), default=math.inf)

    def _differing(self) -> list[Key]:
        return [key for key in {**self._wishes, **self._parts} if self.differs(key)]

    # --- what becomes of a request ---

    def sending(self, generation: int, key: Key, value: Value | None) -> None:
        """A request to make `key` be `value` is about to leave: until its answer, nobody knows what is in force."""
        if generation == self.generation:
            part = self._parts.setdefault(key, _Part())
            part.certain, part.asked = part.known, value
            part.known = part.known and part.value == value

    def settled(self, generation: int, key: Key, value: Value | None, now: float) -> bool:
        """The server answered: `key` is `value`. Returns whether it came into force by that."""
        if generation != self.generation:
            return False
        part = self._parts.setdefault(key, _Part())
        came = value is not None and not (part.known and part.value == value)
        if came:
            part.since = now
            part.failures = min(part.failures, _MEMORY)
        part.known = part.certain = True
        part.value = value
        self._tidy(key)
        return came

    def failed(
        self, generation: int, key: Key, now: float, random: float, *, gone: bool, unknown: bool = False
    ) -> None:
        """A request failed, or what was in force ended; the next try waits.

        Args:
            generation: The connection it failed on; an older one says nothing.
            key: What failed.
            now: The time, in seconds.
            random: A number from 0 to 1, for the jitter.
            gone: Whether it is not in force for certain (the server refused, or ended it), or its fate is unknown.
            unknown: Whether the server does not know such requests: on this connection only a new wish is tried.
        """
        if generation != self.generation:
            return
        part = self._parts.setdefault(key, _Part())
        if now - part.since >= STABLE:
            part.failures = 0
        wait = half_jitter(part.failures, base=BASE, cap=CAP, random=random)
        part.not_before = math.inf if unknown else now + wait
        part.failures += 1
        part.since = math.inf
        part.known = gone and (part.certain or part.asked is None)
        part.value = None
        self._tidy(key)

    def _tidy(self, key: Key) -> None:
        """Forget what is neither wanted nor in force."""
        part = self._parts.get(key)
        if part is not None and part.known and part.value is None and key not in self._wishes:
            del self._parts[key]


_NOTHING = _Part()
