"""The HTTP edge: a client around the user's, whose `send` never lets a failed POST tear the session down.

It sits above the auth flow and follows the redirects that the SDK would, so it sees final answers. Whatever becomes of
a request, the SDK's transport gets one JSON-RPC response for it: the server's, or an error of ours with the evidence
noted beside it. Notifications that fail are noted and dropped; streams that break are ended with an error, unless the
SDK can still resume them.
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

_ERROR_BODY = 64 * 1024
"""Bytes of an error answer that are read: enough for any JSON-RPC error worth reading."""
_MAX_REDIRECTS = 20
_RESUME_TRIES = 2
"""How often the SDK asks to resume a broken stream before it gives up (`MAX_RECONNECTION_ATTEMPTS`)."""
_RESUMABLE_KEPT = 256
_REOPEN_BASE, _REOPEN_CAP = 0.2, 10.0
"""The back-off between two tries to open the stream of what the server says unasked, in seconds."""
_OUTAGES = frozenset({408, 429, 500, 502, 503, 504})
"""What a server, or a gateway before it, answers when asking again may help."""
_NOT_YET = _OUTAGES | {409}
"""The same for the stream of what a server says unasked.

409 is what the SDK's servers answer as long as they have not noticed that the stream before is gone.
"""
_SESSION_ID = "mcp-session-id"
_OVERLOADED = "x-envoy-overloaded"
_JSON = "application/json"
_SSE = "text/event-stream"
_PAGE = "text/html"
_TLS_ALERT = r"b'\x15\x03"
"""How the HTTP library quotes a TLS alert: the answer to plain HTTP at a port for TLS."""
_PERSON = 600.0
"""Seconds that an auth flow may take between its requests: a person may have to log in."""


class HttpEdge:
    """Stands in for an HTTP client in the SDK's transports; everything but `send` is the user's client.

    One edge serves one generation; the client, with its pool and its auth, serves them all.

    Args:
        inner: The client that talks to the network.
        in_flight: The connection's requests.
        redactor: Takes secrets out of what the server says; learns those that the requests carry.
        spawn: Runs a coroutine function with its arguments in the background, as long as the connection lives.
        max_bytes: The longest answer accepted.
        patience: Seconds a notification may take; the SDK sends everything else behind it.
        on_broken_handshake: Told when `notifications/initialized` did not arrive: the session is dead.
        on_stream: Told when the stream of what the server says unasked (GET) was opened, or will not be; with the
            evidence when the server refused it.
        out_of_band: Answers come on another stream (HTTP+SSE), so a failed POST cannot be answered here: the
            attempt is ended directly.
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
        self._resumable: dict[str, tuple[Any, int]] = {}  # last event id -> (JSON-RPC id, failed tries)
        self.session_lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> HttpEdge:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._inner.__aexit__(*exc_info)

    async def send(self, request: Any, **options: Any) -> Any:
        """Send one request of the SDK's transport; a POST never raises and never answers 400 or more."""
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
        """Send. The auth flow puts its headers on the request below: only afterwards they can be seen."""
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
        """`options` for a request whose clock stops while its auth flow waits for a person."""
        attempt = self.in_flight.get(request_id)
        auth = self._inner.auth
        if auth is None or attempt is None or "auth" in options:
            return options
        return {**options, "auth": _UnhurriedAuth(auth, attempt)}

    async def _send(self, request: Any, options: dict[str, Any], departure: _Departure | None = None) -> Any:
        """Send, and follow redirects by the SDK's own rule: same origin, same method."""
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
            if content_type.startswith(_PAGE):  # of a gateway, for people: the server is away for a while
                evidence = replace(evidence, kind=FailureKind.HTTP, http_status=response.status_code)
            return self._failed(request, request_id, evidence)
        self.in_flight.answered(request_id)
        return answer

    async def _read_answer(self, request: Any, request_id: Any, response: Any, content_type: str) -> Any:
        """The response with its body read, once that is known to be the JSON-RPC response to this request."""
        if not content_type.startswith(_JSON) or response.status_code == http.codes.ACCEPTED:
            await response.aclose()
            kind = self.redactor.line(response.headers.get("content-type", ""), 80) or "no content type"
            raise Unusable(f"HTTP {response.status_code} with {kind} where a JSON-RPC answer belongs")
        length = response.headers.get("content-length", "")
        bounded = length.isdecimal() and int(length) <= self.max_bytes and "content-encoding" not in response.headers
        body, whole = (await response.aread(), True) if bounded else await _read(response, self.max_bytes)
        if not whole:
            raise Unusable(f"an answer over the bound of {self.max_bytes} bytes (Policy.max_message_bytes)")
        message = parse(body)
        if not isinstance(message, dict) or not is_response(message, request_id):
            raise Unusable(f"an answer that is not the JSON-RPC response to this request: {self.preview(body)}")
        if message.get("id") is None:
            body = json.dumps({**message, "id": request_id}).encode()
        elif bounded:
            return response  # as it is: making another costs a tenth of a call
        return _response(200, response.headers, request, content=body)

    async def _refused(self, request: Any, request_id: Any, response: Any) -> Any:
        """An answer that is no success: a JSON-RPC error of the server's own in it is passed on."""
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
        """Answer `request` in the server's stead."""
        self.in_flight.note(request_id, evidence)
        # 404 without a session is the HTTP spelling of "method not found": how an old server answers server/discover.
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
        """The beginning of an answer that cannot be used, as one line."""
        return self.redactor.line(body.decode("utf-8", "replace"), 200)

    # --- everything else ---

    async def _notification(self, request: Any, message: dict[str, Any], options: dict[str, Any]) -> Any:
        """Notifications and our answers to the server's own requests: a failure costs that message alone."""
        method = message.get("method")
        if method == "notifications/cancelled":
            self._spawn(self._deliver, request, options)  # the SDK's one writer must not wait for a server that hangs
        else:
            evidence = await self._deliver(request, options)
            if evidence is not None and method == "notifications/initialized":
                self._on_broken_handshake(evidence)
            elif method == "notifications/initialized" and _SESSION_ID not in request.headers:
                self._on_stream(None)  # the SDK opens no stream without a session
        return http.Response(http.codes.ACCEPTED, request=request)

    async def _deliver(self, request: Any, options: dict[str, Any]) -> Evidence | None:
        """POST what has no answer; the evidence when it did not arrive."""
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
        """End the session at the server; one that is lost has nothing to end."""
        if not self.session_lost:
            with anyio.move_on_after(self._patience):
                return await self._forward(request, options)
        return http.Response(http.codes.NO_CONTENT, request=request)

    async def _resume(self, request: Any, options: dict[str, Any]) -> Any:
        """The SDK asks to resume a broken answer: when that fails for good, the call must end."""
        event_id = request.headers["last-event-id"]
        request_id, failed = self._resumable.pop(event_id, (None, 0))
        if request_id is None:  # the stream of unrelated messages
            return await self._listen(request, options)
        if self.in_flight.is_abandoned(request_id):  # else the SDK would go on resuming for nobody
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
        # The refusal is of the resumption: the request itself was delivered long ago.
        text = f"the answer's stream broke and could not be resumed: {why}"
        evidence = Evidence(FailureKind.NETWORK, Delivery.UNKNOWN, text)
        self.in_flight.note(request_id, evidence)
        body = sse_error(request_id, evidence)
        return _response(200, {"content-type": _SSE}, request, content=body)

    async def _listen(self, request: Any, options: dict[str, Any]) -> Any:
        """Open the stream of what the server says unasked, however long that takes.

        The SDK gives this stream up for good when it could not be opened, or broke off, twice. So it hears of no
        outage: what cannot be opened now is tried until it can, and what breaks off ends as if the server had closed
        it, after which the SDK opens it anew.
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
            chance = random.random()  # noqa: S311 - jitter, no secret
            await clock.sleep(half_jitter(tries, base=_REOPEN_BASE, cap=_REOPEN_CAP, random=chance))
            tries += 1

    def _abort(self, request_id: Any) -> None:
        """Nobody waits for `request_id` any more: end its POST, wherever it is."""
        if (post := self._posts.get(request_id)) is not None:
            post.cancel()

    def finished(self, request_id: Any, post: Any) -> None:
        """`post` needs no abort any more."""
        if self._posts.get(request_id) is post:
            del self._posts[request_id]

    def remember(self, event_id: str, request_id: Any) -> None:
        """The SDK may resume the answer to `request_id` from `event_id`."""
        self._resumable[event_id] = (request_id, 0)
        while len(self._resumable) > _RESUMABLE_KEPT:
            del self._resumable[next(iter(self._resumable))]


class _AnswerStream(http.AsyncByteStream):  # type: ignore[misc]
    """An SSE answer on its way to the SDK, whole events only; one that breaks off gets its ending from us."""

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
        """Read on, until there is a whole event or the end."""
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
        """The next bytes; none at the end, or when the call was cancelled."""
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
        """The stream is over without the answer: let the SDK resume it where it can, else end the call."""
        resumable = self._scanner.last_id is not None and evidence.kind is FailureKind.NETWORK and not self._cancelled
        if resumable:
            self._edge.remember(str(self._scanner.last_id), self._request_id)
        else:
            self._edge.in_flight.note(self._request_id, evidence)
            self._whole.append(sse_error(self._request_id, evidence))

    def cancel(self) -> None:
        """Nobody waits for this answer any more."""
        self._cancelled = True
        self._reading.cancel()

    async def aclose(self) -> None:
        self._edge.finished(self._request_id, self)
        await self._response.aclose()
        await self._chunks.aclose()


class _ServerStream(http.AsyncByteStream):  # type: ignore[misc]
    """What a server says unasked, on its way to the SDK: whole events only, and an end where it breaks off."""

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
    """A client's auth flow, during which the clock of an attempt stands still: it may be waiting for a person."""

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
    """Whether a request has begun to leave.

    A server can run nothing before it has the body, and the HTTP library's own transport asks for the body when it
    writes it. Of another transport that is not known: it may have read the content elsewhere. There the library's trace
    is the proof, where it reaches: a connection was begun for this very request, and nothing was written.

    Args:
        client: The HTTP client that sends it.
        request_id: Its JSON-RPC id.
        in_flight: Told how far it got.
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
        """`request` is sent next: the first one, or the one that a redirect asks for."""
        self._request = request
        if not isinstance(request.stream, _Body):  # a redirected request takes over the stream of the first
            request.stream = _Body(request.content, self._leave)
        self._trusted = _is_the_librarys_own(self._client, request.url)
        if not self._trusted:
            request.extensions.setdefault("trace", self)
        self._note()

    async def __call__(self, event: str, _info: dict[str, Any]) -> None:
        """What the library's trace tells."""
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
        """How far it got, given the exception by which it failed."""
        if self._left:
            return Delivery.UNKNOWN
        if self._trusted:
            return Delivery.NOT_SENT
        # Someone else's transport may have connected for this request, and failed to connect for another.
        about_another = failure is not None and getattr(failure, "_request", None) is not self._request
        return Delivery.NOT_SENT if self._connecting and not about_another else Delivery.UNKNOWN


def _is_the_librarys_own(client: Any, url: Any) -> bool:
    """Whether nothing but the HTTP library itself sends what `client` is given for `url`."""
    if type(client).send is not http.AsyncClient.send or "send" in vars(client):
        return False
    transport_for = getattr(client, "_transport_for_url", None)  # private: without it nothing is known
    return transport_for is not None and type(transport_for(url)) is http.AsyncHTTPTransport


class _Body(http.AsyncByteStream):  # type: ignore[misc]
    """The body of a request, which tells when it is asked for."""

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
    """What an exception of the HTTP client, its auth flow or a user's hook says."""
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
    if isinstance(exc, http.ConnectTimeout | http.PoolTimeout):  # there is no server, rather than a slow one
        return FailureKind.NETWORK
    if isinstance(exc, http.TimeoutException | TimeoutError):
        return FailureKind.TIMEOUT
    if _is_about_tls(exc):
        return FailureKind.TLS
    if isinstance(exc, http.HTTPError | OSError | anyio.BrokenResourceError | anyio.ClosedResourceError):
        return FailureKind.NETWORK
    return FailureKind.PROTOCOL


def is_about_auth(exc: BaseException) -> bool:
    """Whether an exception is of the SDK's OAuth flow."""
    return type(exc).__module__.startswith("mcp.client.auth")


def _is_about_tls(exc: BaseException) -> bool:
    """Whether a connection could not be made because the two sides do not agree on TLS, or on a certificate."""
    if isinstance(exc, http.RemoteProtocolError):
        return _TLS_ALERT in str(exc)
    return _tls_error(exc) is not None


def _tls_error(exc: BaseException) -> BaseException | None:
    """What the TLS library said when a connection could not be made; on trio the HTTP library leaves it out."""
    cause: BaseException | None = exc if isinstance(exc, http.ConnectError) else None
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause


async def _read(response: Any, limit: int) -> tuple[bytes, bool]:
    """The body, and whether that was all of it; never more than `limit` bytes and one chunk."""
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
    """A response with the decoded `body`: the headers that described its encoding are gone."""
    dropped = {"content-encoding", "content-length", "transfer-encoding"}
    kept = [(name, value) for name, value in http.Headers(headers).multi_items() if name.lower() not in dropped]
    return http.Response(status, headers=kept, request=request, **body)


def error_body(request_id: Any, code: int, text: str) -> bytes:
    """A JSON-RPC error to `request_id`."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}).encode()


def sse_error(request_id: Any, evidence: Evidence) -> bytes:
    """The same as a server-sent event."""
    body = error_body(request_id, INTERNAL_ERROR, evidence.detail)
    return b"event: message\ndata: " + body + b"\n\n"
