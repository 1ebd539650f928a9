"""The server's own stream (GET, up to 2025-11-25), on which it sends what belongs to no request."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

from mcp.shared.message import SessionMessage

from ..._sdk.installed import http
from ...event_loop import Pace, clock
from ...evidence import Delivery, FailureKind
from ...foreign_code import awaiting
from ...strategies.backoff import half_jitter
from ..inbox import Inbox
from ..server import Channel
from . import bodies
from .answers import message_in
from .endpoint import Endpoint
from .evidence import HTTP_CLIENT, OUTAGES, evidence_of, read_refusal
from .sse_events import REOPEN, SseParser

logger = logging.getLogger("resilient_mcp")

# Back-off between attempts to open the stream, in seconds.
_REOPEN_BASE, _REOPEN_CAP = 0.2, 10.0

# Statuses after which the stream may still open. The SDK's servers answer 409 until they notice that the previous
# stream is gone.
_NOT_YET = OUTAGES | {409}


class ServerStream:
    """Keeps the stream open: waits until it opens, and opens it again whenever it ends.

    Args:
        endpoint: The session.
        channel: The connection that it belongs to.
        inbox: Where the messages wait for the session.
        deliver: Called with each message.
    """

    def __init__(
        self, endpoint: Endpoint, channel: Channel, inbox: Inbox, deliver: Callable[[SessionMessage], None]
    ) -> None:
        self._endpoint = endpoint
        self._channel = channel
        self._inbox = inbox
        self._deliver = deliver
        self._parser = SseParser(channel.policy.max_message_bytes)

    async def run(self) -> None:
        """Read the stream until the server says that it has none."""
        tries = 0
        while True:
            try:
                with awaiting(HTTP_CLIENT):
                    response = await self._endpoint.get(self._parser.resume_from)
            except (http.TransportError, OSError) as exc:
                logger.debug("the server's stream cannot be opened: %s", self._channel.redactor.line(str(exc)))
            except Exception as exc:
                evidence = evidence_of(exc, Delivery.UNKNOWN, self._channel.redactor)
                self._channel.on_stream(evidence)
                if evidence.kind is FailureKind.AUTH:  # another attempt could ask a person to log in again
                    return
            else:
                if response.is_success:
                    tries = 0
                    self._channel.on_stream(None)
                    await self._read(response)
                    await clock.sleep(REOPEN if self._parser.retry is None else self._parser.retry)
                    continue
                evidence, _ = await read_refusal(response, self._channel.redactor)
                if response.status_code not in _NOT_YET:
                    self._channel.on_stream(evidence)
                    return
            chance = random.random()  # noqa: S311 - jitter, not a secret
            await clock.sleep(half_jitter(tries, base=_REOPEN_BASE, cap=_REOPEN_CAP, random=chance))
            tries += 1

    async def _read(self, response: Any) -> None:
        """Deliver the messages until the stream ends or breaks."""
        chunks = bodies.pieces(response)
        pace = Pace()
        try:
            with awaiting(HTTP_CLIENT):
                async for chunk in chunks:
                    self._channel.in_flight.hear()
                    for event in self._parser.feed(chunk):
                        await pace.step(len(event.data))
                        if event.kind == b"message" and (message := message_in(event.data)) is not None:
                            self._deliver(message)
                    await self._inbox.room()
        except Exception as exc:
            logger.debug("the server's stream broke: %s", self._channel.redactor.line(str(exc)))
        finally:
            self._parser.restart()
            await response.aclose()
            await chunks.aclose()
