"""The ledger of what must be restored on the next connection: subscriptions, listen filters, the log level.

It records what each holder wants, and what is in force on the newest connection. State is replayed, not history: a
wish that was withdrawn while the server was away is not sent. Sans-I/O: time and randomness are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeAlias

from ..strategies.backoff import half_jitter

# Back-off between attempts to restore one key, in seconds.
BASE, CAP = 0.1, 10.0
# Failures still counted once a key is in force: it may end immediately, again and again, and must keep backing off.
_MEMORY = 2
# Seconds that a key must have been in force for its next failure to count as the first.
STABLE = 10.0


@dataclass(frozen=True, slots=True)
class Resource:
    """A subscription to one resource (`resources/subscribe`, up to 2025-11-25)."""

    uri: str

    def __str__(self) -> str:
        return f"resources/subscribe {self.uri}"


@dataclass(frozen=True, slots=True)
class Listen:
    """One `subscriptions/listen` stream (2026-07-28), identified by its filter."""

    resources: tuple[str, ...] = ()
    tools: bool = False
    prompts: bool = False
    resource_list: bool = False

    def capabilities(self) -> list[str]:
        """The capabilities that a server must declare to honour it."""
        needed = {"tools": self.tools, "prompts": self.prompts, "resources": self.resource_list}
        paths = [f"{name}.listChanged" for name, on in needed.items() if on]
        return ["resources.subscribe", *paths] if self.resources else paths

    def __str__(self) -> str:
        named = {"tools": self.tools, "prompts": self.prompts, "resource_list": self.resource_list}
        return " ".join(["subscriptions/listen", *self.resources, *(name for name, on in named.items() if on)])


@dataclass(frozen=True, slots=True)
class LogLevel:
    """The level of log messages (`logging/setLevel`, up to 2025-11-25). It can be changed, but not unset."""

    def __str__(self) -> str:
        return "logging/setLevel"


Key: TypeAlias = Resource | Listen | LogLevel

Value: TypeAlias = str | bool
"""The log level, or True for a subscription."""


@dataclass(slots=True)
class _Part:
    """The state of one key on the newest connection.

    Attributes:
        value: The value in force, or None.
        known: Whether `value` is certain; it is not while a request is in flight or its outcome is unknown.
        certain: Whether the state was known before the latest request. A refusal changes nothing, so it is known again.
        asked: The value that the latest request asked for.
        since: When the value came into force; infinity if it is not in force.
        failures: Failures in a row.
        not_before: The earliest time of the next attempt.
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
    """What each holder wants, and what is in force.

    Holders of the same key share one subscription, which ends when the last of them releases it. If the outcome of a
    request is unknown, the key counts as neither in force nor absent: the request is repeated, or withdrawn, until the
    server answers.

    Attributes:
        generation: The newest connection passed to `begin`.
    """

    generation: int = 0
    _wishes: dict[Key, dict[object, Value]] = field(default_factory=dict)
    _parts: dict[Key, _Part] = field(default_factory=dict)
    _offered: Callable[[Key], bool] = lambda _: False

    # --- what is wanted ---

    def keys(self) -> set[Key]:
        """The keys that any holder wants."""
        return set(self._wishes)

    def want(self, key: Key, holder: object, value: Value = True) -> Value | None:
        """Record that `holder` wants `key`, now and on every later connection. Returns what it wanted before."""
        wishes = self._wishes.setdefault(key, {})
        before = wishes.pop(holder, None)
        wishes[holder] = value
        if key in self._parts:
            self._parts[key].not_before = -math.inf
        return before

    def release(self, key: Key, holder: object) -> None:
        """Record that `holder` no longer wants `key`."""
        wishes = self._wishes.get(key, {})
        wishes.pop(holder, None)
        if not wishes:
            self._wishes.pop(key, None)
            self._tidy(key)

    def desired(self, key: Key) -> Value | None:
        """The wanted value of `key`: the latest wish, or None."""
        return next(reversed(self._wishes[key].values())) if key in self._wishes else None

    def holders(self, key: Key) -> Collection[object]:
        """The holders that want `key`."""
        return self._wishes.get(key, {}).keys()

    # --- what is in force ---

    def begin(self, generation: int, offered: Callable[[Key], bool]) -> bool:
        """Start over for a new connection, on which nothing is in force. Does nothing for the same or an older one.

        Args:
            generation: The generation of the connection.
            offered: Whether its server declares what a key needs; a key that is not offered is never sent.

        Returns:
            Whether the connection was new.
        """
        if generation <= self.generation:
            return False
        self.generation = generation
        self._offered = offered
        self._parts.clear()
        return True

    def is_active(self, key: Key) -> bool:
        """Whether `key` is known to be in force with the wanted value."""
        part = self._parts.get(key)
        return part is not None and part.known and part.value is not None and part.value == self.desired(key)

    def active(self) -> list[Key]:
        """The keys that are in force."""
        return [key for key in self._parts if self.is_active(key)]

    def needs_request(self, key: Key) -> bool:
        """Whether a request is needed to bring `key` into the wanted state."""
        part, wanted = self._parts.get(key, _NOTHING), self.desired(key)
        if not self._offered(key) or (wanted is None and isinstance(key, LogLevel)):
            return False
        return not part.known or part.value != wanted

    def unsupported(self) -> list[Key]:
        """The keys that are wanted but not offered by the server."""
        return [key for key in self._wishes if not self._offered(key)]

    def due(self, now: float) -> list[Key]:
        """The keys to send a request for at `now`."""
        return [key for key in self._differing() if self._parts.get(key, _NOTHING).not_before <= now]

    def next_due(self, now: float) -> float:
        """When the next key falls due after `now`; infinity if none does."""
        times = (self._parts.get(key, _NOTHING).not_before for key in self._differing())
        return min((time for time in times if time > now), default=math.inf)

    def _differing(self) -> list[Key]:
        return [key for key in {**self._wishes, **self._parts} if self.needs_request(key)]

    # --- requests and their outcomes ---

    def sending(self, generation: int, key: Key, value: Value | None) -> None:
        """A request to set `key` to `value` is about to be sent: until its answer, the state of `key` is unknown."""
        if generation == self.generation:
            part = self._parts.setdefault(key, _Part())
            part.certain, part.asked = part.known, value
            part.known = part.known and part.value == value

    def settled(self, generation: int, key: Key, value: Value | None, now: float) -> bool:
        """The server answered: `key` is now `value`. Returns whether this brought it into force."""
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
        """A request failed, or what was in force ended; the next attempt backs off.

        Args:
            generation: The connection on which that happened; ignored unless it is the newest.
            key: The key.
            now: The time in seconds.
            random: A number from 0 to 1, for the jitter.
            gone: True if the server refused or ended it, False if the outcome is unknown.
            unknown: Whether the server does not know the method: on this connection, only a new wish is sent.
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
        """Forget a key that is neither wanted nor in force."""
        part = self._parts.get(key)
        if part is not None and part.known and part.value is None and key not in self._wishes:
            del self._parts[key]


_NOTHING = _Part()
