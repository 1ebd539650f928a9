"""The HTTP transport: a wrapper around the HTTP client whose `send` keeps a failed POST from ending the session.

It sits above the auth flow and follows the same redirects as the SDK, so it sees final responses. For every request the
SDK's transport gets exactly one JSON-RPC response: the server's, or an error made here, with the evidence recorded. A
notification that fails is dropped; a broken stream ends with an error, unless the SDK can still resume it.
"""

from __future__ import annotations

import json
import random
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio

from .._sdk.installed import INTERNAL_ERROR, METHOD_NOT_FOUND, http
from .._sdk.transports import redirected_request
from ..event_loop import clock
from ..evidence import Delivery, Evidence, FailureKind
from ..in_flight import Attempt, InFlight
from ..strategies.backoff import half_jitter
from ..text.credentials import safe_url
from ..text.printable import printable
from ..text.redact import Redactor
from ..transports import http_logs
from .sse_events import EventScanner, Unusable, is_response, is_well_formed, parse

# Bytes read of an error response: enough for any reasonable JSON-RPC error.
_ERROR_BODY = 64 * 1024

_MAX_REDIRECTS = 20

# Attempts of the SDK to resume a broken stream before it gives up (`MAX_RECONNECTION_ATTEMPTS`).
_RESUME_TRIES = 2

_RESUMABLE_KEPT = 256

# Back-off between attempts to open the server's notification stream, in seconds.
_REOPEN_BASE, _REOPEN_CAP = 0.2, 10.0

# Statuses of a server, or a gateway in front of it, after which a retry may help.
_OUTAGES = frozenset({408, 429, 500, 502, 503, 504})

# The same for the notification stream. The SDK's servers answer 409 until they notice that the previous stream is gone.
_NOT_YET = _OUTAGES | {409}

_SESSION_ID = "mcp-session-id"
_OVERLOADED = "x-envoy-overloaded"
_JSON = "application/json"
_SSE = "text/event-stream"
_PAGE = "text/html"

# How the HTTP library quotes a TLS alert: the response of a TLS port to plain HTTP.
_TLS_ALERT = r"b'\x15\x03"

# Seconds an auth flow may take between its requests, since a person may have to log in.
_PERSON = 600.0


class HttpEdge:
    """Replaces the HTTP client in the SDK's transports; everything but `send` is delegated to the wrapped client.

    Each generation has its own instance; all of them share the client, with its pool and auth.

    Args:
        inner: The client that does the I/O.
        in_flight: The connection's requests.
        redactor: Removes secrets from what the server sends; learns those that the requests carry.
        spawn: Runs a coroutine function with its arguments in the background while the connection lives.
        max_bytes: Maximum length of an answer.
        patience: Seconds a notification may take; the SDK queues every other message behind it.
        on_broken_handshake: Called if `notifications/initialized` did not arrive: the session is unusable.
        on_stream: Called when the server's notification stream (GET) is open, or will never be; with the evidence if
            the server refused it.
        out_of_band: Whether answers arrive on another stream (HTTP+SSE): a failed POST then cannot be answered here, so
            the attempt is ended directly.
    """

    def __init__(
        self,
        inner: Any,
        in_flight: InFlight,
        redactor: Redactor,
        *,
        spawn: Callable[..., object],
        max_bytes: int,
        patience: float,
        on_broken_handshake: Callable[[Evidence], None],
        on_stream: Callable[[Evidence | None], None],
        out_of_band: bool = False,
    ) -> None:
        self._inner = inner
        self.in_flight = in_flight
        self.redactor = redactor
        self._spawn = spawn
        self.max_bytes = max_bytes
        self._patience = patience
        self._on_broken_handshake = on_broken_handshake
        self._on_stream = on_stream
        self._out_of_band = out_of_band
        self._posts: dict[Any, Any] = {}  # JSON-RPC id -> what to cancel to abort its POST
        in_flight.on_abandoned = self._abort
        self._resumable: dict[str, tuple[Any, int]] = {}  # last event id -> (JSON-RPC id, failed attempts)
        self.session_lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> HttpEdge:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._inner.__aexit__(*exc_info)

    async def send(self, request: Any, **options: Any) -> Any:
        """Send one request of the SDK's transport; a POST never raises and never returns a status of 400 or more."""
        if request.method == "POST":
            message = parse(request.content)
            message = message if isinstance(message, dict) else {}
            if "method" in message and "id" in message:
                response = await self._request(request, message["id"], options)
                if message["method"] == "initialize":
                    session_id = response.headers.get(_SESSION_ID)
                    self.in_flight.session_id = None if session_id is None else printable(session_id, 100)
                return response
            return await self._notification(request, message, options)
        if request.method == "DELETE":
            return await self._delete(request, options)
        if "last-event-id" in request.headers:
            return await self._resume(request, options)
        return await (self._forward if self._out_of_band else self._listen)(request, options)

    async def _forward(self, request: Any, options: dict[str, Any]) -> Any:
        """Send, then learn the request's credentials, which the auth flow adds to it while sending."""
        token = http_logs.sending.set(self.redactor)
        try:
            return await self._inner.send(request, **options)
        finally:
            http_logs.sending.reset(token)
            self.redactor.learn_headers(request.headers)

    # --- requests ---

    async def _request(self, request: Any, request_id: Any, options: dict[str, Any]) -> Any:
        self.in_flight.arrived(request_id)
        if self.in_flight.is_abandoned(request_id):
            gone = Evidence(FailureKind.CLOSED, Delivery.NOT_SENT, "the call was given up before it was sent")
            return self._failed(request, request_id, gone)
        options = self._unhurried(request_id, options)
        departure = _Departure(self._inner, request_id, self.in_flight)
        try:
            with anyio.CancelScope() as scope:
                self._posts[request_id] = scope
                response = await self._send(request, options, departure)
                return await self._answer(request, request_id, response)
        except Exception as exc:
            return self._failed(request, request_id, evidence_of(exc, departure.delivery(exc), self.redactor))
        finally:
            self.finished(request_id, scope)
        text = "the call was cancelled while it was being sent"
        return self._failed(request, request_id, Evidence(FailureKind.CLOSED, departure.delivery(), text))

    def _unhurried(self, request_id: Any, options: dict[str, Any]) -> dict[str, Any]:
        """`options` with an auth flow that stops the attempt's clock while it waits for a person."""
        attempt = self.in_flight.get(request_id)
        auth = self._inner.auth
        if auth is None or attempt is None or "auth" in options:
            return options
        return {**options, "auth": _UnhurriedAuth(auth, attempt)}

    async def _send(self, request: Any, options: dict[str, Any], departure: _Departure | None = None) -> Any:
        """Send, and follow redirects by the SDK's rule: same origin, same method."""
        watch = departure.watch if departure is not None else lambda _: None
        watch(request)
        response = await self._forward(request, options)
        for _ in range(_MAX_REDIRECTS):
            following = redirected_request(response)
            if following is None:
                break
            await response.aclose()
            watch(following)
            response = await self._forward(following, options)
        return response

    async def _answer(self, request: Any, request_id: Any, response: Any) -> Any:
        if not response.is_success:
            return await self._refused(request, request_id, response)
        if self._out_of_band:
            return response
        content_type = response.headers.get("content-type", "").lower()
        if content_type.startswith(_SSE):
            stream = _AnswerStream(self, request_id, response)
            self._posts[request_id] = stream
            return _response(200, response.headers, request, stream=stream)
        try:
            answer = await self._read_answer(request, request_id, response, content_type)
        except Unusable as exc:
            evidence = Evidence(FailureKind.PROTOCOL, Delivery.UNKNOWN, str(exc))
            if content_type.startswith(_PAGE):  # a gateway's web page: the server is temporarily unavailable
                evidence = replace(evidence, kind=FailureKind.HTTP, http_status=response.status_code)
            return self._failed(request, request_id, evidence)
        self.in_flight.answered(request_id)
        return answer

    async def _read_answer(self, request: Any, request_id: Any, response: Any, content_type: str) -> Any:
        """The response with its body read, if that is the JSON-RPC response to this request.

        Raises:
            Unusable: It is not.
        """
        if not content_type.startswith(_JSON) or response.status_code == http.codes.ACCEPTED:
            await response.aclose()
            kind = self.redactor.line(response.headers.get("content-type", ""), 80) or "no content type"
            raise Unusable(f"HTTP {response.status_code} with {kind} instead of a JSON-RPC answer")
        length = response.headers.get("content-length", "")
        bounded = length.isdecimal() and int(length) <= self.max_bytes and "content-encoding" not in response.headers
        body, whole = (await response.aread(), True) if bounded else await _read(response, self.max_bytes)
        if not whole:
            raise Unusable(f"an answer over the limit of {self.max_bytes} bytes (Policy.max_message_bytes)")
        message = parse(body)
        if not isinstance(message, dict) or not is_response(message, request_id):
            raise Unusable(f"an answer that is not the JSON-RPC response to this request: {self.preview(body)}")
        if message.get("id") is None:
            body = json.dumps({**message, "id": request_id}).encode()
        elif bounded:
            return response  # unchanged: creating another costs a tenth of a call
        return _response(200, response.headers, request, content=body)

    async def _refused(self, request: Any, request_id: Any, response: Any) -> Any:
        """Handle a response that is not a success; the server's own JSON-RPC error in it is passed on."""
        evidence, error = await self._read_refusal(request, response)
        self.in_flight.note(request_id, evidence)
        if error is None:
            return self._failed(request, request_id, evidence)
        body = json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode()
        return self._deliver_error(request, request_id, evidence, body)

    async def _read_refusal(self, request: Any, response: Any) -> tuple[Evidence, dict[str, Any] | None]:
        try:
            body, _ = await _read(response, _ERROR_BODY)
        except http.HTTPError:
            body = b""
        message = parse(body)
        error: dict[str, Any] | None = None
        if isinstance(message, dict) and "error" in message and is_well_formed(message):
            error = message["error"]
        preview = "" if error else self.preview(body)
        location = response.headers.get("location")
        if location is not None and response.is_redirect:
            said = f"a redirect to {safe_url(location)}, which was not followed"
        else:
            said = self.redactor.line(error["message"]) if error else preview
        retry_after = response.headers.get("retry-after")
        return (
            Evidence(
                FailureKind.HTTP,
                Delivery.UNKNOWN,  # the classifier reads the status
                f"HTTP {response.status_code}" + (f": {said}" if said else ""),
                http_status=response.status_code,
                body=preview,
                overloaded=response.headers.get(_OVERLOADED) == "true",
                retry_after=None if retry_after is None else self.redactor.line(retry_after, 80),
                session_id_sent=_SESSION_ID in request.headers,
                own_error=error is not None,
            ),
            error,
        )

    def _failed(self, request: Any, request_id: Any, evidence: Evidence) -> Any:
        """Answer `request` with an error made here."""
        self.in_flight.note(request_id, evidence)
        # 404 without a session means "method not found": an old server answers server/discover this way.
        unknown = evidence.http_status == http.codes.NOT_FOUND and not evidence.session_id_sent
        code = METHOD_NOT_FOUND if unknown else INTERNAL_ERROR
        return self._deliver_error(request, request_id, evidence, error_body(request_id, code, evidence.detail))

    def _deliver_error(self, request: Any, request_id: Any, evidence: Evidence, body: bytes) -> Any:
        if self._out_of_band:
            if (attempt := self.in_flight.get(request_id)) is not None:
                attempt.fail(evidence)
            return http.Response(http.codes.ACCEPTED, request=request)
        return _response(200, {"content-type": _JSON}, request, content=body)

    def preview(self, body: bytes) -> str:
        """The beginning of an unusable answer, as one line."""
        return self.redactor.line(body.decode("utf-8", "replace"), 200)

    # --- everything else ---

    async def _notification(self, request: Any, message: dict[str, Any], options: dict[str, Any]) -> Any:
        """Send a notification, or an answer to a server request; a failure affects that message alone."""
        method = message.get("method")
        if method == "notifications/cancelled":
            self._spawn(self._deliver, request, options)  # the SDK's only writer must not wait for a hanging server
        else:
            evidence = await self._deliver(request, options)
            if evidence is not None and method == "notifications/initialized":
                self._on_broken_handshake(evidence)
            elif method == "notifications/initialized" and _SESSION_ID not in request.headers:
                self._on_stream(None)  # the SDK opens no stream without a session
        return http.Response(http.codes.ACCEPTED, request=request)

    async def _deliver(self, request: Any, options: dict[str, Any]) -> Evidence | None:
        """POST a message without an answer; returns the evidence if it did not arrive."""
        try:
            with anyio.fail_after(self._patience):
                response = await self._send(request, options)
                if response.is_success:
                    await response.aclose()
                    return None
                return (await self._read_refusal(request, response))[0]
        except Exception as exc:
            return evidence_of(exc, Delivery.UNKNOWN, self.redactor)

    async def _delete(self, request: Any, options: dict[str, Any]) -> Any:
        """End the session at the server, unless the session is lost already."""
        if not self.session_lost:
            with anyio.move_on_after(self._patience):
                return await self._forward(request, options)
        return http.Response(http.codes.NO_CONTENT, request=request)

    async def _resume(self, request: Any, options: dict[str, Any]) -> Any:
        """Resume a broken answer stream for the SDK; if that fails permanently, the call must end."""
        event_id = request.headers["last-event-id"]
        request_id, failed = self._resumable.pop(event_id, (None, 0))
        if request_id is None:  # the notification stream
            return await self._listen(request, options)
        if self.in_flight.is_abandoned(request_id):  # otherwise the SDK would keep resuming an unwanted answer
            gone = Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "the call was given up")
            return _response(200, {"content-type": _SSE}, request, content=sse_error(request_id, gone))
        try:
            response = await self._forward(request, options)
        except http.HTTPError as exc:
            if failed + 1 < _RESUME_TRIES:
                self._resumable[event_id] = (request_id, failed + 1)
                raise
            why = evidence_of(exc, Delivery.UNKNOWN, self.redactor).detail
        else:
            if response.is_success:
                stream = _AnswerStream(self, request_id, response)
                return _response(200, response.headers, request, stream=stream)
            why = (await self._read_refusal(request, response))[0].detail
        # Only the resumption was refused; the request itself was delivered long before.
        text = f"the answer's stream broke and could not be resumed: {why}"
        evidence = Evidence(FailureKind.NETWORK, Delivery.UNKNOWN, text)
        self.in_flight.note(request_id, evidence)
        body = sse_error(request_id, evidence)
        return _response(200, {"content-type": _SSE}, request, content=body)

    async def _listen(self, request: Any, options: dict[str, Any]) -> Any:
        """Open the server's notification stream (GET), however long that takes.

        The SDK gives up on this stream permanently after it failed to open, or broke, twice. So outages are hidden
        from it: opening is retried until it succeeds, and a broken stream ends as if the server had closed it, after
        which the SDK reopens it.
        """
        tries = 0
        while True:
            evidence: Evidence | None = None
            try:
                response = await self._forward(request, options)
            except (http.TransportError, OSError) as exc:
                evidence = evidence_of(exc, Delivery.UNKNOWN, self.redactor)
            else:
                if response.is_success:
                    self._on_stream(None)
                    stream = _ServerStream(self, response)
                    return _response(response.status_code, response.headers, request, stream=stream)
                if response.is_redirect:
                    return response
                evidence, _ = await self._read_refusal(request, response)
                if response.status_code not in _NOT_YET:
                    self._on_stream(evidence)
                    return _response(response.status_code, response.headers, request, content=b"")
            chance = random.random()  # noqa: S311 - jitter, not a secret
            await clock.sleep(half_jitter(tries, base=_REOPEN_BASE, cap=_REOPEN_CAP, random=chance))
            tries += 1

    def _abort(self, request_id: Any) -> None:
        """Abort the POST of `request_id`, whose caller has given up."""
        if (post := self._posts.get(request_id)) is not None:
            post.cancel()

    def finished(self, request_id: Any, post: Any) -> None:
        """Forget `post`, which has ended."""
        if self._posts.get(request_id) is post:
            del self._posts[request_id]

    def remember(self, event_id: str, request_id: Any) -> None:
        """Remember that the SDK may resume the answer to `request_id` from `event_id`."""
        self._resumable[event_id] = (request_id, 0)
        while len(self._resumable) > _RESUMABLE_KEPT:
            del self._resumable[next(iter(self._resumable))]


class _AnswerStream(http.AsyncByteStream):  # type: ignore[misc]
    """An SSE answer passed to the SDK as complete events; if it breaks, an error is appended here."""

    def __init__(self, edge: HttpEdge, request_id: Any, response: Any) -> None:
        self._edge = edge
        self._request_id = request_id
        self._response = response
        self._chunks = response.aiter_bytes()
        self._scanner = EventScanner(request_id, edge.max_bytes, edge.preview)
        self._whole: deque[bytes] = deque()
        self._reading = anyio.CancelScope()
        self._cancelled = False
        self._over = False

    def __aiter__(self) -> _AnswerStream:
        return self

    async def __anext__(self) -> bytes:
        while not self._whole:
            if self._over:
                raise StopAsyncIteration
            await self._read()
        return self._whole.popleft()

    async def _read(self) -> None:
        """Read the next chunk and collect the events it completes."""
        evidence: Evidence | None = None
        try:
            chunk = await self._next()
            if chunk:
                self._edge.in_flight.hear()
            self._whole.extend(self._scanner.feed(chunk))
            self._over = not chunk
        except Unusable as exc:
            evidence = Evidence(FailureKind.PROTOCOL, Delivery.UNKNOWN, str(exc))
        except Exception as exc:
            evidence = evidence_of(exc, Delivery.UNKNOWN, self._edge.redactor)
        if self._scanner.answered:
            self._edge.in_flight.answered(self._request_id)
        if evidence is not None:
            self._over = True
        if self._over and not self._scanner.answered:
            self._end(evidence or self._unanswered())

    async def _next(self) -> bytes:
        """The next bytes; empty at the end, or if the call was cancelled."""
        if not self._cancelled:
            with anyio.CancelScope() as self._reading:
                return bytes(await anext(self._chunks, b""))
        return b""

    def _unanswered(self) -> Evidence:
        if self._scanner.stray is not None:
            text = f"an answer that is not the JSON-RPC response to this request: {self._scanner.stray}"
            return Evidence(FailureKind.PROTOCOL, Delivery.UNKNOWN, text)
        return Evidence(FailureKind.NETWORK, Delivery.UNKNOWN, "the answer's stream ended before the answer")

    def _end(self, evidence: Evidence) -> None:
        """Handle the end of the stream without an answer: let the SDK resume it if possible, otherwise end the call."""
        resumable = self._scanner.last_id is not None and evidence.kind is FailureKind.NETWORK and not self._cancelled
        if resumable:
            self._edge.remember(str(self._scanner.last_id), self._request_id)
        else:
            self._edge.in_flight.note(self._request_id, evidence)
            self._whole.append(sse_error(self._request_id, evidence))

    def cancel(self) -> None:
        """Stop reading: the caller has given up."""
        self._cancelled = True
        self._reading.cancel()

    async def aclose(self) -> None:
        self._edge.finished(self._request_id, self)
        await self._response.aclose()
        await self._chunks.aclose()


class _ServerStream(http.AsyncByteStream):  # type: ignore[misc]
    """The server's notification stream, passed to the SDK as complete events; it ends cleanly if it breaks."""

    def __init__(self, edge: HttpEdge, response: Any) -> None:
        self._in_flight = edge.in_flight
        self._response = response
        self._chunks = response.aiter_bytes()
        self._scanner = EventScanner(None, edge.max_bytes, edge.preview)
        self._whole: deque[bytes] = deque()
        self._over = False

    def __aiter__(self) -> _ServerStream:
        return self

    async def __anext__(self) -> bytes:
        while not self._whole:
            if self._over:
                raise StopAsyncIteration
            try:
                chunk = await anext(self._chunks, b"")
                self._over = not chunk
                if chunk:
                    self._in_flight.hear()
                self._whole.extend(self._scanner.feed(chunk))
            except Exception:
                self._over = True
        return self._whole.popleft()

    async def aclose(self) -> None:
        await self._response.aclose()
        await self._chunks.aclose()


class _UnhurriedAuth(http.Auth):  # type: ignore[misc]
    """A client's auth flow, during whose steps the attempt's clock stops, since it may be waiting for a person."""

    def __init__(self, inner: Any, attempt: Attempt) -> None:
        self._inner = inner
        self._attempt = attempt

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        flow = self._inner.async_auth_flow(request)
        self._attempt.login = over = anyio.Event()
        try:
            following = await self._off_the_clock(flow.__anext__())
            while True:
                response = yield following
                following = await self._off_the_clock(flow.asend(response))
        except StopAsyncIteration:
            return
        finally:
            await flow.aclose()
            over.set()

    async def _off_the_clock(self, step: Awaitable[Any]) -> Any:
        self._attempt.pause()
        try:
            with anyio.fail_after(_PERSON):
                return await step
        finally:
            self._attempt.resume()


class _Departure:
    """Tracks whether a request has begun to leave.

    A server cannot run a request before it has the body, and the HTTP library's own transport reads the body when it
    writes it. Another transport may have read the content earlier. For those the library's trace is the proof, if they
    support it: a connection was started for this very request, and nothing was written.

    Args:
        client: The HTTP client that sends the request.
        request_id: Its JSON-RPC id.
        in_flight: Notified of how far the request got.
    """

    def __init__(self, client: Any, request_id: Any, in_flight: InFlight) -> None:
        self._client = client
        self._request_id = request_id
        self._in_flight = in_flight
        self._request: Any = None
        self._left = False
        self._trusted = False
        self._connecting = False

    def watch(self, request: Any) -> None:
        """Watch the request sent next: the first one, or the one that follows a redirect."""
        self._request = request
        if not isinstance(request.stream, _Body):  # a redirected request reuses the stream of the first
            request.stream = _Body(request.content, self._leave)
        self._trusted = _is_the_librarys_own(self._client, request.url)
        if not self._trusted:
            request.extensions.setdefault("trace", self)
        self._note()

    async def __call__(self, event: str, _info: dict[str, Any]) -> None:
        """Receive an event of the library's trace."""
        self._connecting = self._connecting or event.startswith("connection.connect_")
        self._left = self._left or event.endswith("send_request_headers.started")
        self._note()

    def _leave(self) -> None:
        if self._in_flight.is_abandoned(self._request_id):
            raise http.WriteError("the call was given up before it was sent")
        self._left = True
        self._note()

    def _note(self) -> None:
        self._in_flight.reached(self._request_id, self.delivery())

    def delivery(self, failure: Exception | None = None) -> Delivery:
        """How far the request got, given the exception it failed with."""
        if self._left:
            return Delivery.UNKNOWN
        if self._trusted:
            return Delivery.NOT_SENT
        # A custom transport may have connected for this request and failed to connect for another one.
        about_another = failure is not None and getattr(failure, "_request", None) is not self._request
        return Delivery.NOT_SENT if self._connecting and not about_another else Delivery.UNKNOWN


def _is_the_librarys_own(client: Any, url: Any) -> bool:
    """Whether the HTTP library's own, unmodified code sends the requests of `client` to `url`."""
    if type(client).send is not http.AsyncClient.send or "send" in vars(client):
        return False
    transport_for = getattr(client, "_transport_for_url", None)  # private; without it nothing can be proven
    return transport_for is not None and type(transport_for(url)) is http.AsyncHTTPTransport


class _Body(http.AsyncByteStream):  # type: ignore[misc]
    """The body of a request, which reports when it is read."""

    def __init__(self, content: bytes, leave: Callable[[], None]) -> None:
        self._content = content
        self._leave = leave
        self._left: list[bytes] = []

    def __aiter__(self) -> _Body:
        self._leave()
        self._left = [self._content]
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


def evidence_of(exc: Exception, delivery: Delivery, redactor: Redactor) -> Evidence:
    """The evidence in an exception of the HTTP client, its auth flow or a user's hook."""
    name = type(exc).__name__
    text = redactor.line(str(exc) or str(_tls_error(exc) or ""))
    detail = f"{name}: {text}" if text else name
    if isinstance(exc, http.HTTPStatusError):
        status = exc.response.status_code
        return Evidence(FailureKind.HTTP, Delivery.UNKNOWN, f"HTTP {status}", http_status=status)
    if is_about_auth(exc):
        return Evidence(FailureKind.AUTH, Delivery.REJECTED, detail)
    return Evidence(_kind_of(exc), delivery, detail)


def _kind_of(exc: Exception) -> FailureKind:
    if isinstance(exc, http.ConnectTimeout | http.PoolTimeout):  # the server is missing rather than slow
        return FailureKind.NETWORK
    if isinstance(exc, http.TimeoutException | TimeoutError):
        return FailureKind.TIMEOUT
    if _is_about_tls(exc):
        return FailureKind.TLS
    if isinstance(exc, http.HTTPError | OSError | anyio.BrokenResourceError | anyio.ClosedResourceError):
        return FailureKind.NETWORK
    return FailureKind.PROTOCOL


def is_about_auth(exc: BaseException) -> bool:
    """Whether an exception comes from the SDK's OAuth flow."""
    return type(exc).__module__.startswith("mcp.client.auth")


def _is_about_tls(exc: BaseException) -> bool:
    """Whether connecting failed because of TLS: no common version, no TLS at all, or an untrusted certificate."""
    if isinstance(exc, http.RemoteProtocolError):
        return _TLS_ALERT in str(exc)
    return _tls_error(exc) is not None


def _tls_error(exc: BaseException) -> BaseException | None:
    """The TLS error behind a failed connection; on trio the HTTP library leaves its text out."""
    cause: BaseException | None = exc if isinstance(exc, http.ConnectError) else None
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause


async def _read(response: Any, limit: int) -> tuple[bytes, bool]:
    """The body, and whether it is complete; reads at most `limit` bytes and one chunk."""
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in response.aiter_bytes():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                return b"".join(chunks)[:limit], False
    finally:
        await response.aclose()
    return b"".join(chunks), True


def _response(status: int, headers: Any, request: Any, **body: Any) -> Any:
    """A response with the decoded `body`, without the headers that described its encoding."""
    dropped = {"content-encoding", "content-length", "transfer-encoding"}
    kept = [(name, value) for name, value in http.Headers(headers).multi_items() if name.lower() not in dropped]
    return http.Response(status, headers=kept, request=request, **body)


def error_body(request_id: Any, code: int, text: str) -> bytes:
    """A JSON-RPC error to `request_id`."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}).encode()


def sse_error(request_id: Any, evidence: Evidence) -> bytes:
    """A JSON-RPC error to `request_id` as a server-sent event."""
    body = error_body(request_id, INTERNAL_ERROR, evidence.detail)
    return b"event: message\ndata: " + body + b"\n\n"
