"""Health checks: probes a connection while it is idle, and while the circuit is open.

An idle connection to a remote server is probed from time to time; `HealthPolicy.misses` misses in a row end it, so that
the next generation is ready before the next call. While the circuit is open, the server is probed more often, and any
message from it half-opens the circuit. Any JSON-RPC reply is a sign of life, even an error; a gateway's status is not.
"""

from __future__ import annotations

import math
import random
import time

import anyio

from .._sdk.requests import SignOfLife
from ..connection.generation import Connection
from ..evidence import Delivery, Evidence, FailureKind
from ..observability.hub import logger
from ..policy import HealthPolicy, Policy
from ..strategies.backoff import half_jitter
from ..verdicts.classifier import Classifier
from ..verdicts.verdict import AttemptError, Category, Failure
from .gate import Gate

# Back-off before a probe while the circuit is open, in seconds. It starts longer with each opening in a row.
_BASE, _CAP = 0.5, 30.0
# The cap while calls wait for the circuit: they must be sent soon after the server is back.
_AWAITED_CAP = 2.0


class HealthCheck:
    """Checks the connections of one server, one after another.

    Args:
        policy: The server's policy.
        gate: Its circuit is half-opened by a sign of life.
        classifier: Recognises a lost session.
        idle: Whether to probe idle connections, too; not needed for a process, whose exit is noticed.
    """

    def __init__(self, policy: Policy, gate: Gate, classifier: Classifier, *, idle: bool) -> None:
        self._gate = gate
        self._classifier = classifier
        self._idle = policy.health if idle else None
        self._timeout = (policy.health or HealthPolicy()).timeout

    async def watch(self, connection: Connection) -> None:
        """Check `connection` until it is lost. One task does both, as a client that is idle must cost little."""
        self._gate.probing = True
        try:
            misses = 0
            while self._idle is None or misses < self._idle.misses:
                began = anyio.current_time()
                with anyio.move_on_after(self._pause(connection, misses)) as pause:
                    await self._gate.wait_open()
                if not pause.cancelled_caught:
                    await self._while_open(connection)
                    misses = 0
                elif connection.is_busy or connection.answered_at > began:
                    misses = 0
                else:
                    misses = 0 if await self._is_alive(connection) else misses + 1
        finally:
            self._gate.probing = False
        text = f"{misses} health checks in a row went unanswered"
        connection.lose(Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, text))

    def _pause(self, connection: Connection, misses: int) -> float:
        """Seconds until an idle connection is probed."""
        if self._idle is None:
            return math.inf
        if misses:
            return self._idle.timeout
        quiet = 0.0 if connection.is_busy else anyio.current_time() - connection.answered_at
        return _spread(self._idle.idle) - quiet

    async def _while_open(self, connection: Connection) -> None:
        """Half-open the open circuit as soon as the server sends anything."""
        connection.in_flight.on_message = self._heard
        await self._probe(connection)
        connection.in_flight.on_message = None

    def _heard(self) -> None:
        self._gate.readmit("the server sent a message")

    async def _probe(self, connection: Connection) -> None:
        """Probe the server until the circuit is closed.

        The probes go on during a trial call: if the server is heard meanwhile, a trial that times out was only slow and
        does not count as a failure.
        """
        tries = max(0, self._gate.openings - 1)
        while not self._gate.is_closed:
            chance = random.random()  # noqa: S311 - jitter, not a secret
            soon, late = (half_jitter(tries, base=_BASE, cap=cap, random=chance) for cap in (_AWAITED_CAP, _CAP))
            await anyio.sleep(soon)
            # A call that comes to wait for the circuit cuts the rest of the back-off short.
            with anyio.move_on_after(late - soon):
                await self._gate.wait_asked()
            tries += 1
            if self._gate.is_closed:
                return
            if await self._is_alive(connection, answered=False):
                self._gate.readmit("the server answered a probe")
            else:
                self._gate.probe_failed()

    async def _is_alive(self, connection: Connection, *, answered: bool = True) -> bool:
        """Whether the server replied. If the session turns out to be lost, end the connection.

        Args:
            connection: The connection to probe.
            answered: Whether a refusal of the credentials counts as a reply.
        """
        try:
            await connection.call(SignOfLife(), timeout=self._timeout)
        except AttemptError as failed:
            evidence = failed.evidence
            if evidence is None:
                return True
            logger.debug("a health check failed: %s", evidence.detail)
            verdict = self._classifier.judge(Failure("ping", None, failed.cause, evidence), now=time.time())
            if verdict.reconnect:
                connection.lose(evidence)
                return False
            return evidence.own_error or (answered and verdict.category is Category.AUTH)
        return True


def _spread(seconds: float) -> float:
    """`seconds`, give or take 10 %, so that many clients do not probe at the same moment."""
    return seconds * (0.9 + random.random() / 5)  # noqa: S311 - jitter, not a secret
