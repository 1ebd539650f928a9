"""Looks after a connection without a process: is anybody there while nobody calls, and while the circuit is open?

An idle connection is asked for a sign of life now and then; two misses in a row end it, so that the next generation is
ready before the next call. While the circuit is open because the server was not heard of, it is asked more often: an
answer lets a trial call through. Any JSON-RPC reply is a sign of life, an error too.
"""

from __future__ import annotations

import math
import time

import anyio

from . import _sdk
from .classifier import Classifier, Failure
from .connection import Connection, Failed
from .events import logger
from .evidence import Delivery, Evidence, Kind
from .gate import Gate
from .policy import HealthPolicy
from .strategies.backoff import exponential

_BASE, _CAP = 0.5, 30.0
"""The back-off before a probe while the circuit is open, in seconds; it grows with each opening in a row, too."""


class HealthCheck:
    """Checks the connections of one server, one after the other.

    Args:
        policy: Its numbers.
        gate: Its circuit, which an answer may half-open.
        classifier: Knows a lost session when it sees one.
    """

    def __init__(self, policy: HealthPolicy, gate: Gate, classifier: Classifier) -> None:
        self._policy = policy
        self._gate = gate
        self._classifier = classifier

    async def watch(self, connection: Connection) -> None:
        """Check `connection` until it is lost."""
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._while_idle, connection)
            tg.start_soon(self._while_open, connection)
            await connection.lost.wait()
            tg.cancel_scope.cancel()

    async def _while_idle(self, connection: Connection) -> None:
        policy, misses = self._policy, 0
        while misses < policy.misses:
            now = anyio.current_time()
            quiet = 0.0 if connection.is_busy else now - connection.answered_at
            wait = policy.timeout if misses else policy.idle - quiet
            if wait > 0:
                await anyio.sleep(wait)
                if connection.is_busy or connection.answered_at > now:
                    misses = 0
                    continue
            misses = 0 if await self._is_alive(connection) else misses + 1
        text = f"{misses} health checks in a row went unanswered"
        connection.lose(Evidence(Kind.CLOSED, Delivery.UNKNOWN, text))

    async def _while_open(self, connection: Connection) -> None:
        """Half-open a circuit that is open because the server was not heard of, as soon as it is."""
        tries = 0
        while True:
            await self._gate.unheard.wait()
            n = self._gate.openings - 1 + tries
            await anyio.sleep(exponential(n, base=_BASE, cap=_CAP))
            tries += 1
            if not self._gate.unheard.is_set():
                tries = 0
            elif await self._is_alive(connection):
                tries = 0
                self._gate.hint("the server answered a probe")

    async def _is_alive(self, connection: Connection) -> bool:
        """Whether the server replied; a session that turns out to be lost ends the connection."""
        try:
            await connection.call(_probe, timeout=self._policy.timeout, deadline=math.inf)
        except Failed as failed:
            evidence = failed.evidence
            if evidence is None:
                return True
            logger.debug("a health check failed: %s", evidence.detail)
            verdict = self._classifier.judge(Failure("ping", None, failed.cause, evidence), now=time.time())
            if verdict.reconnect:
                connection.lose(evidence)
            return evidence.own_error and not verdict.reconnect
        return True


async def _probe(session: _sdk.Session, _progress: object) -> None:
    await session.probe()
