"""The messages for a host: sent in order, without a wait for a host that does not read, and in bounded memory."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from .._sdk.installed import INTERNAL_ERROR
from ..event_loop import Signal
from ..observability.hub import logger
from ..text.printable import describe

# Messages that may wait for a host before it counts as one that does not read.
_WAITING = 256
# Notifications that are dropped from then on. Others, which report changes, are dropped if an equal one waits, or four
# times as many messages.
_SPARE = {"notifications/message", "notifications/progress"}


class Host(Protocol):
    """The way to a host."""

    def encode(self, message: dict[str, Any]) -> Any:
        """One JSON-RPC message in the form in which it is sent. Raises ValueError or RecursionError."""
        ...

    def send_nowait(self, item: Any) -> bool:
        """Send an encoded message if the host takes it without a wait; whether it did."""
        ...

    async def send(self, item: Any) -> None:
        """Send an encoded message once the host takes it."""
        ...


class Outbox:
    """The messages for one host, in order. Only the task of `run` waits for the host.

    Args:
        server: Name of the server, for the log.
        host: Where they go.
    """

    def __init__(self, server: str, host: Host) -> None:
        self._server = server
        self._host = host
        self._waiting: deque[Any] = deque()
        self._added, self._taken = Signal(), Signal()
        self._dropped = 0

    def put(self, message: dict[str, Any]) -> None:
        """Send a message that must not be lost."""
        try:
            item = self._host.encode({"jsonrpc": "2.0", **message})
        except (ValueError, RecursionError) as exc:
            logger.warning("%s: a message cannot be sent to the host: %s", self._server, describe(exc))
            if "method" in message:
                return
            error = {"code": INTERNAL_ERROR, "message": describe(exc)}
            item = self._host.encode({"jsonrpc": "2.0", "id": message["id"], "error": error})
        if self._waiting or not self._host.send_nowait(item):
            self._waiting.append(item)
            self._added.notify()

    def offer(self, message: dict[str, Any]) -> None:
        """Send a message, unless the host does not read and it can be spared."""
        if self.is_full and self._can_spare(message):
            if not self._dropped:
                logger.warning("%s: the host does not read: notifications for it are dropped", self._server)
            self._dropped += 1
        else:
            self.put(message)

    def _can_spare(self, message: dict[str, Any]) -> bool:
        if message.get("method") in _SPARE or len(self._waiting) >= 4 * _WAITING:
            return True
        return self._host.encode({"jsonrpc": "2.0", **message}) in self._waiting

    @property
    def is_full(self) -> bool:
        """Whether the host is so far behind that nothing should be done for it."""
        return len(self._waiting) >= _WAITING

    async def room(self) -> None:
        """Wait while it is full."""
        while self.is_full:
            await self._taken.wait()

    async def run(self) -> None:
        """Send what the host did not take immediately, until cancelled."""
        while True:
            while self._waiting:
                # It stays in the queue until the host has it, so that no other message overtakes it.
                await self._host.send(self._waiting[0])
                self._waiting.popleft()
                self._taken.notify()
            if self._dropped:
                logger.warning("%s: the host reads again; it missed %d notifications", self._server, self._dropped)
                self._dropped = 0
            await self._added.wait()
