"""The Streamable HTTP transport: each message is a POST, and the answers are JSON or server-sent events.

A request is sent in the task that writes it, so cancelling its caller aborts the POST, and none waits behind another.
Every request gets exactly one JSON-RPC response: the server's, or an error made here, with the evidence recorded. A
notification that fails is dropped. An answer that breaks off is resumed where the server gave its events ids, and the
server's own stream (GET, up to 2025-11-25) is reopened for as long as the connection lives.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
from mcp.shared.message import SessionMessage

from ..._sdk.installed import INTERNAL_ERROR, METHOD_NOT_FOUND, http
from ..._sdk.messages import (
    Hints,
    add_meta,
    cancelled_id,
    clean_error_response,
    decode,
    encode,
    error_message,
    hints_of,
    message_from_json,
    method_and_id,
    negotiated_version,
    response_id,
)
from ..._sdk.session import LATEST_LEGACY_VERSION
from ...event_loop import Pace, clock
from ...evidence import Delivery, Evidence, FailureKind
from ...foreign_code import awaiting
from ...in_flight import current_attempt
from ...text.printable import printable
from ..inbox import Inbox, is_admitted
from ..jsonrpc import Unusable
from ..server import Channel
from . import bodies
from .answers import AnswerEvents, response_in
from .delivery import Departure
from .endpoint import JSON, SESSION_ID, SSE, VERSION, Endpoint
from .evidence import HTTP_CLIENT, evidence_of, preview, read_refusal
from .server_stream import ServerStream
from .sse_events import REOPEN, SseParser

logger = logging.getLogger("resilient_mcp")

# Attempts to resume a broken answer before its call fails.
_RESUME_TRIES = 2
# Replies to the server that are sent at the same time.
_REPLIES = 16
# Answered streams that are read to their end at the same time, which makes their connections usable again; the bytes
# and the seconds that this may take.
_ENDING, _ENDING_BYTES, _ENDING_SECONDS = 64, 64 * 1024, 1.0
# Bytes read of the empty body that accepts a message.
_UNREAD = 4096
_NO_HEADERS: Mapping[str, str] = {}
_PAGE = "text/html"


class HttpWriter:
    """The session's write stream.

    Args:
        endpoint: The session at the server.
        channel: The connection that it carries.
        reader: Gets what the server sends.
        background: Runs what no caller waits for.
    """

    def __init__(self, endpoint: Endpoint, channel: Channel, reader: Inbox, background: anyio.abc.TaskGroup) -> None:
        self._channel = channel
        self._in_flight = channel.in_flight
        self._redactor = channel.redactor
        self._max_bytes = channel.policy.max_message_bytes
        self._patience = channel.policy.timeout.shutdown
        self._reader = reader
        self._background = background
        self._endpoint = endpoint
        self._posts: dict[Any, anyio.CancelScope] = {}  # JSON-RPC id -> cancelled to abort its POST
        self._replying = anyio.Semaphore(_REPLIES)
        self._ending = 0
        self._closed = False

    async def send(self, item: SessionMessage) -> None:
        """Send one message. A request has been answered, or has failed, when this returns.

        Raises:
            UnencodableError: It cannot be encoded as JSON; nothing was sent.
            anyio.ClosedResourceError: The transport is closed; nothing was sent.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        method, request_id = method_and_id(item)
        if method is None:
            # In the background: no message waits for another one's POST.
            self._background.start_soon(self._reply, request_id, encode(item))
        elif request_id is None:
            await self._notify(method, item)
        else:
            await self._request(method, request_id, item)

    # --- requests ---

    async def _request(self, method: str, request_id: Any, item: SessionMessage) -> None:
        attempt = current_attempt.get()
        if attempt is not None and attempt.login is not None:
            await attempt.login_over()
        add_meta(item, self._in_flight.sending(method, request_id))
        body, hints = encode(item), hints_of(item)
        if method == "initialize":
            self._endpoint.negotiated(None)  # the version that `server/discover` was sent with does not belong here
        elif (version := hints.headers.get(VERSION)) is not None:
            self._endpoint.negotiated(version)
        if method == "server/discover":
            # Its time limit is the SDK's own, which starts once it is sent.
            self._background.start_soon(self._exchange, method, request_id, body, hints)
        else:
            await self._exchange(method, request_id, body, hints)

    async def _exchange(self, method: str, request_id: Any, body: bytes, hints: Hints) -> None:
        """Send a request and deliver its answer, or an error."""
        departure = Departure(self._endpoint.client, partial(self._in_flight.reached, request_id))
        with anyio.CancelScope() as scope:
            self._posts[request_id] = scope
            try:
                with awaiting(HTTP_CLIENT, by_caller=True):
                    if hints.token is None:
                        attempt = self._in_flight.get(request_id)
                        response = await self._endpoint.post(body, hints.headers, departure, attempt)
                        await self._answer(method, request_id, response, hints)
                    else:
                        await self._read_answer(self._events_of(request_id, hints), None)
            except Unusable as exc:
                self._fail(request_id, Evidence(FailureKind.PROTOCOL, Delivery.UNKNOWN, str(exc)))
            except Exception as exc:
                self._fail(request_id, evidence_of(exc, departure.delivery(exc), self._redactor))
            except BaseException:
                # A connect that trio cancels raises a group of cancellations; this raises one, as callers expect it.
                await anyio.lowlevel.checkpoint_if_cancelled()
                raise
            finally:
                if self._posts.get(request_id) is scope:
                    del self._posts[request_id]

    def _events_of(self, request_id: Any, hints: Hints) -> AnswerEvents:
        parser = SseParser(self._max_bytes)
        parser.last_id = hints.token or ""
        return AnswerEvents(request_id, parser, hints, self._redactor)

    async def _answer(self, method: str, request_id: Any, response: Any, hints: Hints) -> None:
        """Deliver what the server answered to a POST."""
        if not response.is_success:
            await self._refused(request_id, response)
            return
        if method == "initialize":
            self._endpoint.begin_session(response.headers.get(SESSION_ID))
            session_id = self._endpoint.session_id
            self._in_flight.session_id = None if session_id is None else printable(session_id, 100)
        content_type = response.headers.get("content-type", "").lower()
        if content_type.startswith(SSE):
            await self._read_answer(self._events_of(request_id, hints), response)
        elif content_type.startswith(JSON) and response.status_code != http.codes.ACCEPTED:
            self._deliver_answer(request_id, await self._body(response))
        else:
            await response.aclose()
            kind = self._redactor.line(response.headers.get("content-type", ""), 80) or "no content type"
            text = f"HTTP {response.status_code} with {kind} instead of a JSON-RPC answer"
            evidence = Evidence(FailureKind.PROTOCOL, Delivery.UNKNOWN, text)
            if content_type.startswith(_PAGE):  # a gateway's web page: the server is temporarily unavailable
                evidence = replace(evidence, kind=FailureKind.HTTP, http_status=response.status_code)
            self._fail(request_id, evidence)

    async def _body(self, response: Any) -> bytes:
        """The body of an answer.

        Raises:
            Unusable: It is longer than `Policy.max_message_bytes`, or cannot be decompressed.
        """
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length[:18]) <= self._max_bytes and "content-encoding" not in response.headers:
            return await bodies.read_plain(response)
        body, whole = await bodies.read(response, self._max_bytes)
        if not whole:
            raise Unusable(f"an answer over the limit of {self._max_bytes} bytes (Policy.max_message_bytes)")
        return body

    def _deliver_answer(self, request_id: Any, data: bytes) -> None:
        """Deliver the response to a request.

        Raises:
            Unusable: `data` is not that.
        """
        try:
            message = decode(data)
        except ValueError:
            message = None
        answer = response_in(message, data, request_id, any_id=False)
        if answer is None:
            quoted = preview(data, self._redactor)
            raise Unusable(f"an answer that is not the JSON-RPC response to this request: {quoted}")
        self._deliver(answer)

    def _received(self, item: SessionMessage) -> None:
        """Deliver a message of the server's own stream; a response there is lenient, and its POST is over."""
        if (post := self._posts.get(response_id(item))) is not None:
            post.cancel()
        self._deliver(item)

    def _deliver(self, item: SessionMessage) -> None:
        """Pass a message from the server to the session."""
        answered = response_id(item)
        if answered is None:
            self._in_flight.hear_message()
            if not is_admitted(item, self._in_flight):
                return
        else:
            self._in_flight.answered(answered)
            clean_error_response(item, self._redactor.cleaned)
            if self._endpoint.version is None:
                self._endpoint.negotiated(negotiated_version(item))
        self._reader.put(item)

    async def _refused(self, request_id: Any, response: Any) -> None:
        """Handle a response that is not a success; the server's own JSON-RPC error in it is passed on."""
        evidence, error = await read_refusal(response, self._redactor)
        if error is None:
            self._fail(request_id, evidence)
            return
        self._in_flight.note(request_id, evidence)
        self._deliver(message_from_json({"jsonrpc": "2.0", "id": request_id, "error": error}))

    def _fail(self, request_id: Any, evidence: Evidence) -> None:
        """Answer a request with an error made here."""
        self._in_flight.note(request_id, evidence)
        # 404 without a session means "method not found": an old server answers server/discover this way.
        unknown = evidence.http_status == http.codes.NOT_FOUND and not evidence.session_id_sent
        code = METHOD_NOT_FOUND if unknown else INTERNAL_ERROR
        self._in_flight.answered(request_id)
        self._reader.put(error_message(request_id, code, evidence.detail))

    # --- answers as server-sent events ---

    async def _read_answer(self, answer: AnswerEvents, response: Any) -> None:
        """Deliver the messages of an answer, from as many streams as it takes; `response` is None to resume one.

        Raises:
            Unusable: The answer has come and cannot be used.
        """
        while True:
            response = response or await self._resume(answer)
            if response is None:
                return
            ended = Evidence(FailureKind.NETWORK, Delivery.UNKNOWN, "the answer's stream ended before the answer")
            try:
                if await self._read_stream(answer, response):
                    return
            except Unusable:
                raise
            except Exception as exc:
                ended = evidence_of(exc, Delivery.UNKNOWN, self._redactor)
            if answer.stray:
                raise Unusable(answer.stray)
            if answer.parser.resume_from is None:
                self._fail(answer.request_id, ended)
                return
            response = None
            answer.parser.restart()

    async def _read_stream(self, answer: AnswerEvents, response: Any) -> bool:
        """Deliver the messages of one stream; returns whether the response was among them.

        Raises:
            Unusable: The response has come and cannot be used.
        """
        chunks = bodies.pieces(response)
        answered = False
        pace = Pace()
        try:
            async for chunk in chunks:
                self._in_flight.hear()
                for event in answer.parser.feed(chunk):
                    await pace.step(len(event.data))
                    if (message := answer.take(event)) is not None:
                        self._deliver(message)
                    if answer.hints.on_token is not None and answer.parser.last_id:
                        await answer.hints.on_token(answer.parser.last_id)
                    if answer.is_complete and not self._closed:
                        answered = True
                        self._background.start_soon(self._read_to_end, response, chunks)
                    if answer.is_complete:
                        return True
                await self._reader.room()
        finally:
            if not answered:
                await response.aclose()
                await chunks.aclose()
        return False

    async def _read_to_end(self, response: Any, chunks: AsyncGenerator[bytes, None]) -> None:
        """Read a stream that has brought its answer to its end, so that its connection can be used again."""
        self._ending += 1
        size = 0
        try:
            with awaiting(HTTP_CLIENT), anyio.move_on_after(_ENDING_SECONDS if self._ending <= _ENDING else 0):
                async for chunk in chunks:
                    size += len(chunk)
                    if size > _ENDING_BYTES:
                        break
        except Exception as exc:
            logger.debug("a stream broke after its answer: %s", self._redactor.line(str(exc)))
        finally:
            self._ending -= 1
            await response.aclose()
            await chunks.aclose()

    async def _resume(self, answer: AnswerEvents) -> Any:
        """Open the next stream of an answer; if that fails for good, its call fails, and this returns None."""
        parser, why = answer.parser, ""
        for n in range(_RESUME_TRIES):
            if n or answer.hints.token != parser.last_id:
                await clock.sleep(REOPEN if parser.retry is None else parser.retry)
            try:
                response = await self._endpoint.get(parser.resume_from)
            except http.HTTPError as exc:
                why = evidence_of(exc, Delivery.UNKNOWN, self._redactor).detail
                continue
            if response.is_success:
                return response
            why = (await read_refusal(response, self._redactor))[0].detail
            break
        # Only the resumption was refused; the request itself was delivered long before.
        text = f"the answer's stream broke and could not be resumed: {why}"
        self._fail(answer.request_id, Evidence(FailureKind.NETWORK, Delivery.UNKNOWN, text))
        return None

    # --- notifications and replies ---

    async def _notify(self, method: str, item: SessionMessage) -> None:
        """Send a notification; a failure affects that message alone, or the handshake that it completes."""
        body, hints = encode(item), hints_of(item)
        if method == "notifications/cancelled":
            if (post := self._posts.get(cancelled_id(item))) is not None:
                post.cancel()
            if (self._endpoint.version or "") <= LATEST_LEGACY_VERSION:  # later, the end of the POST says it
                self._background.start_soon(self._post, body)  # who gives up must not wait for a hanging server
            return
        evidence = await self._post(body, hints.headers)
        if method == "notifications/initialized":
            if evidence is not None:
                self._channel.on_end(evidence)
            elif self._endpoint.session_id is None:
                self._channel.on_stream(None)  # without a session there is no stream
            else:
                stream = ServerStream(self._endpoint, self._channel, self._reader, self._received)
                self._background.start_soon(stream.run)

    async def _reply(self, request_id: Any, body: bytes) -> None:
        """Send the answer to a request of the server; the number of those is limited."""
        try:
            async with self._replying:
                await self._post(body)
        finally:
            self._in_flight.replied(request_id)

    async def _post(self, body: bytes, headers: Mapping[str, str] = _NO_HEADERS) -> Evidence | None:
        """POST a message without an answer; returns the evidence if it did not arrive."""
        try:
            with awaiting(HTTP_CLIENT, by_caller=True), anyio.fail_after(self._patience):
                response = await self._endpoint.post(body, headers)
                if not response.is_success:
                    return (await read_refusal(response, self._redactor))[0]
                if response.status_code == http.codes.ACCEPTED:
                    await bodies.read(response, _UNREAD)  # it is empty; its connection can be used again
                else:
                    await response.aclose()
        except Exception as exc:
            return evidence_of(exc, Delivery.UNKNOWN, self._redactor)
        return None

    # --- the end ---

    async def close(self, *, end_session: bool) -> None:
        """Send nothing more, except the end of the session if the server still knows it; abort what is in flight."""
        self._closed = True
        try:
            if end_session and self._endpoint.session_id is not None:
                with awaiting(HTTP_CLIENT), anyio.move_on_after(self._patience):
                    await self._endpoint.delete()
        except Exception as exc:
            logger.debug("the session could not be ended: %s", self._redactor.line(str(exc)))
        finally:
            for post in self._posts.values():
                post.cancel()

    async def aclose(self) -> None:
        """Do nothing: the transport ends with its context."""

    async def __aenter__(self) -> HttpWriter:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


@asynccontextmanager
async def streamable_http(
    endpoint: Endpoint, channel: Channel, *, terminate_on_close: bool
) -> AsyncIterator[tuple[Inbox, HttpWriter]]:
    """Connect to a server; on exit, end the session unless the server has lost it.

    Args:
        endpoint: The session at the server.
        channel: The connection that it carries.
        terminate_on_close: Whether to end the session at all.

    Raises:
        HeadersError: The user's function does not return headers.
    """
    await endpoint.open()
    reader = Inbox()
    async with anyio.create_task_group() as background:
        writer = HttpWriter(endpoint, channel, reader, background)
        try:
            yield reader, writer
        finally:
            reason = channel.reason()
            lost = reason is not None and reason.kind is not FailureKind.CLOSED
            await writer.close(end_session=terminate_on_close and not lost)
            await reader.aclose()
        background.cancel_scope.cancel()
