"""The faults: where each can happen, how it is injected, and what a caller of `ResilientClient` is promised.

A fault without places can happen anywhere. The names are those in the README's table.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, TypeAlias

import anyio

from resilient_mcp import RestartPolicy, RetryPolicy, ToolPolicy
from resilient_mcp._sdk.installed import http
from resilient_mcp.testing import (
    Bandwidth,
    HttpReply,
    Latency,
    LimitData,
    Reply,
    Slicer,
    SseEvent,
    StdioReply,
    Timeout,
    Toxic,
)

from .stages import HANDSHAKE, PLACES, RESTARTS, Place, Stage

Hook: TypeAlias = Callable[[Any], Awaitable[Any]]


async def nothing(_: Any) -> None:
    """No hook."""


def text_result(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "resultType": "complete"}


@dataclass(frozen=True)
class Promise:
    """What a caller of `ResilientClient` gets.

    Attributes:
        calls: The outcomes of the calls that the fault hits: "echo" is repeatable, "order" must not run twice.
        seen: How often the server sees each; for a call that is sent again, the minimum.
        bystander: The outcome of another call that is in flight at the same time.
    """

    calls: Mapping[str, str]
    seen: Mapping[str, int]
    bystander: str = "answered"


def both(echo: str, seen: int, order: str, order_seen: int) -> Promise:
    return Promise({"echo": echo, "order": order}, {"echo": seen, "order": order_seen})


def one(outcome: str) -> Promise:
    """For faults while a session is opened, or that hit something other than a call."""
    return Promise({"echo": outcome}, {})


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: What happens.
        promise: The expected outcome.
        places: Where it can happen.
        reply: The server's reply to the call, the first time it is received.
        script: The server's replies to other requests, by method.
        resumption: The reply to a GET with `Last-Event-ID`.
        before: Runs before the call is made.
        during: Runs while the call is in flight.
        mend: Ends the fault, once a side has noticed it or the call has its outcome.
        stays: Whether the fault is mended only after bystanders have their outcome as well.
        act: Runs in place of the call; returns its outcome.
        at_start: Whether the fault is already present when the session is opened.
        arguments: Extra arguments of the call.
        answer: The text of the call's answer, if it is not the text that was sent.
        read_timeout: The call's own time limit, in seconds.
        limits: The fields of `TimeoutPolicy` that matter here.
        policy: Other parts of the policy.
        http_client: The user's own HTTP client.
        target: What the session is opened with, if not the stage's server; over stdio, its command.
        stubborn: Whether the server's processes ignore SIGTERM and the end of stdin.
        wrapped: Whether the server is the child of a shell.
        proof: What else must hold at the end.
    """

    name: str
    promise: Promise
    places: Sequence[Place] = tuple(PLACES)
    _: KW_ONLY
    reply: Reply | Callable[[Any], Reply] | None = None
    script: Mapping[str, Sequence[Reply]] = field(default_factory=dict)
    resumption: Callable[[Any], Reply] | None = None
    before: Hook = nothing
    during: Hook = nothing
    mend: Hook = nothing
    stays: bool = False
    act: Callable[[Any, Stage], Awaitable[str]] | None = None
    at_start: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    answer: str | None = None
    read_timeout: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    http_client: Callable[[Any], Any] | None = None
    target: Callable[[Any], str] | None = None
    stubborn: bool = False
    wrapped: bool = False
    proof: Callable[[Any], bool] | None = None


# --- places ----------------------------------------------------------------------------------------------------------

STDIO = [place for place in PLACES if not place.http]
HTTP = [place for place in PLACES if place.http]
JSON = [place for place in HTTP if place.transport == "json"]
SSE = [place for place in HTTP if place.transport == "sse"]
STREAMS = STDIO + SSE
"""Places where a server may send several messages for one request."""


def before_2026(places: Sequence[Place]) -> list[Place]:
    return [place for place in places if not place.modern]


def since_2026(places: Sequence[Place]) -> list[Place]:
    return [place for place in places if place.modern]


# --- promises --------------------------------------------------------------------------------------------------------

UNHARMED = both("answered", 1, "answered", 1)
LOST = both("answered", 2, "ConnectionLost", 1)
SLOW = both("answered", 2, "DeadlineExceeded", 1)
REJECTED = both("answered", 2, "answered", 2)
USELESS = both("ConnectionLost", 1, "ConnectionLost", 1)
REFUSED = both("ResilienceError", 1, "ResilienceError", 1)
FORBIDDEN = both("ServerFailed", 1, "ServerFailed", 1)
UNREADABLE = both("-32700", 1, "-32700", 1)
AWAY = replace(both("ServerUnavailable", 0, "ServerUnavailable", 0), bystander="ServerUnavailable")
STARTED = one("answered")
UNAVAILABLE = one("ServerUnavailable")
HOPELESS = one("ServerFailed")
NOTIFIED = one("notified")

IMPATIENT = {"attempt": 0.4, "request": 0.4}
"""Limits for faults that end at a time limit."""

# --- over either transport -------------------------------------------------------------------------------------------


async def kill(at: Stage) -> None:
    await at.restart()


async def kill_in_flight(at: Stage) -> None:
    await at.call_received()
    await at.restart()


async def kill_and_take_descriptors(at: Stage) -> None:
    await at.restart()
    at.take_descriptors()


async def give_back_descriptors_soon(at: Stage) -> None:
    await anyio.sleep(0.2)
    at.give_back_descriptors()


def jump(seconds: float) -> Hook:
    async def hook(at: Stage) -> None:
        await at.call_received()
        at.jump(seconds)

    return hook


async def right_clock(at: Stage) -> None:
    at.right_clock()


DAY = 86400.0
LATE = Reply.ok("late").after(0.1)
OTHER = {"id": 987654321, "result": text_result("not for you")}
UNREAD = {"id": None, "error": {"code": -32700, "message": "Parse error"}}
OWN = {"id": "$id", "result": text_result("own")}

ANYWHERE = [
    Fault("killed while idle, then a call", UNHARMED, before=kill),
    Fault("killed in mid-call", LOST, reply=Reply.hang(), during=kill_in_flight),
    Fault("never answers", SLOW, reply=Reply.hang(), limits=IMPATIENT),
    Fault("never answers, and the call has a time limit", SLOW, reply=Reply.hang(), read_timeout=0.4),
    Fault("answers late", UNHARMED, reply=LATE, answer="late"),
    Fault("an answer with a wrong id", SLOW, STDIO, reply=Reply.wrong_id(), limits=IMPATIENT),
    Fault("an answer with a wrong id", USELESS, HTTP, reply=Reply.wrong_id()),
    Fault(
        "an answer with a wrong id, then the right one",
        UNHARMED,
        STREAMS,
        reply=Reply.sending(OTHER, OWN),
        answer="own",
    ),
    Fault("two answers with the same id", UNHARMED, STREAMS, reply=Reply.twice("twice"), answer="twice"),
    Fault("an answer before its request", UNHARMED, STREAMS, reply=Reply.ahead("own"), answer="own"),
    Fault("the clock jumps a day ahead", UNHARMED, reply=LATE, answer="late", during=jump(DAY), mend=right_clock),
    Fault("the clock jumps a day back", UNHARMED, reply=LATE, answer="late", during=jump(-DAY), mend=right_clock),
    Fault(
        "killed, and this process has no descriptor left for a moment",
        UNHARMED,
        STDIO,  # over HTTP, a call would take the descriptor of the connection that it finds closed
        policy={"restart": RestartPolicy(base=0.01, max_delay=0.05, intensity=100)},
        before=kill_and_take_descriptors,
        during=give_back_descriptors_soon,
    ),
    Fault(
        "a message over the limit",
        USELESS,
        reply=Reply.ok("x" * 200_000),
        answer="x" * 200_000,
        policy={"max_message_bytes": 100_000},
    ),
]

# --- over stdio ------------------------------------------------------------------------------------------------------


async def kill_wrapper(at: Any) -> None:
    await at.call_received()
    at.kill_wrapper()


async def stop(at: Any) -> None:
    at.stop()


async def stop_in_flight(at: Any) -> None:
    await at.call_received()
    at.stop()


async def resume(at: Any) -> None:
    at.resume()


def few_starts(at: Any) -> bool:
    """No more starts than the first one and the restarts that the policy allows."""
    return len(at.server.requests.of("start")) <= 1 + RESTARTS


def not_found(at: Any) -> str:
    return "no-such-program"


def megabytes(count: int) -> Fault:
    text = "x" * count * 1_000_000
    return Fault(f"{count} MB in one line", UNHARMED, STDIO, reply=Reply.ok(text), answer=text)


def behind(data: bytes) -> Reply:
    """An answer preceded by `data`."""
    return replace(StdioReply.ok("own"), before=data)


BAD_UTF8 = b'{"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "caf\xe9"}}\n'
FLOOD = replace(StdioReply.ok("own"), stderr=10_000_000)
CHATTER = b"Starting up...\n\n[1, 2]\n\x1b[31mred\x1b[0m\n"

OVER_STDIO = [
    Fault("killed in the middle of an answer", LOST, STDIO, reply=StdioReply().cut(exit_code=-signal.SIGKILL)),
    Fault("exits with status 1 in mid-call", LOST, STDIO, reply=StdioReply.exit(1)),
    Fault(
        "exits with status 1 at start",
        UNAVAILABLE,
        STDIO,
        at_start=True,
        script={"start": [StdioReply.exit(1)] * 10},
        proof=few_starts,
    ),
    Fault(
        "exits after each handshake, forever",
        UNAVAILABLE,
        STDIO,
        at_start=True,
        script={HANDSHAKE: [StdioReply(exit_code=1)] * 20},
        policy={
            "tools": {"echo": ToolPolicy(repeatable=True)},
            "retry": RetryPolicy(attempts=20, crashes=20, base=0.01),
        },
        proof=few_starts,
    ),
    Fault("the command does not exist", HOPELESS, STDIO, at_start=True, target=not_found),
    Fault("lines on stdout that are no messages", UNHARMED, STDIO, reply=behind(CHATTER), answer="own"),
    Fault("text without a newline before an answer", UNHARMED, STDIO, reply=behind(b"loading 50% "), answer="own"),
    Fault("a byte that is not UTF-8, in another message", UNHARMED, STDIO, reply=behind(BAD_UTF8), answer="own"),
    Fault(
        "a wrapper is killed, the server lives on",
        LOST,
        STDIO,
        wrapped=True,
        reply=Reply().after(0.3),
        during=kill_wrapper,
    ),
    Fault("killed, and a child of it holds stdout", LOST, STDIO, reply=StdioReply.orphan(-signal.SIGKILL)),
    Fault("closes stdout and lives", LOST, STDIO, reply=StdioReply.mute(), limits={"shutdown": 0.2}),
    Fault("stopped (`SIGSTOP`)", SLOW, STDIO, reply=Reply.hang(), during=stop_in_flight, mend=resume, limits=IMPATIENT),
    Fault(
        "stopped, the pipe is full, and the call has a time limit",
        SLOW,
        STDIO,
        arguments={"pad": "x" * 1_000_000},
        before=stop,
        mend=resume,
        read_timeout=0.4,
        limits=IMPATIENT,
    ),
    Fault("ignores SIGTERM and the end of stdin", UNHARMED, STDIO, stubborn=True, limits={"shutdown": 0.2}),
    Fault("10 MB on stderr", UNHARMED, STDIO, reply=FLOOD, answer="own"),
    *map(megabytes, (1, 5)),
]

# --- over HTTP -------------------------------------------------------------------------------------------------------


async def down(at: Any) -> None:
    await at.down()


async def up(at: Any) -> None:
    at.proxy.up()


async def forget_sessions(at: Any) -> None:
    at.forget_sessions()


async def clear(at: Any) -> None:
    at.proxy.clear()


def add(*toxics: Toxic) -> Hook:
    async def hook(at: Any) -> None:
        for toxic in toxics:
            at.proxy.add(toxic)

    return hook


def elsewhere(at: Any) -> Reply:
    return HttpReply.redirect(at.elsewhere.url)


def nothing_elsewhere(at: Any) -> bool:
    return at.elsewhere.connections == 0


def resumed(at: Any) -> Reply:
    return HttpReply.sse(SseEvent(data={**OWN, "id": at.call_id}, id="2"))


def always(reply: Reply) -> Callable[[Any], Reply]:
    return lambda _: reply


async def fail_hook(at: Any) -> None:
    at.hook_fails = True


def with_hook(at: Any) -> Any:
    """A user's client with an event hook that raises once, for a tool call."""

    async def hook(response: Any) -> None:
        if at.hook_fails and b"tools/call" in response.request.content:
            at.hook_fails = False
            raise ZeroDivisionError

    return http.AsyncClient(event_hooks={"response": [hook]})


def with_small_pool(_: Any) -> Any:
    """A user's client with a single connection and a time limit for getting it, enough for the handshake's requests."""
    return http.AsyncClient(limits=http.Limits(max_connections=1), timeout=http.Timeout(5, pool=0.3))


def with_read_timeout(_: Any) -> Any:
    return http.AsyncClient(timeout=http.Timeout(5, read=0.5))


def nowhere(_: Any) -> str:
    return "http://no-such-host.invalid/mcp"


def over_tls(at: Any) -> str:
    return at.proxy.url.replace("http:", "https:")


def asked_twice(at: Any) -> bool:
    """Whether there was more than one handshake."""
    counts = at.server.requests.counts()
    return counts["initialize"] + counts["server/discover"] > 1


def at_handshake(name: str, promise: Promise, reply: Reply, **facts: Any) -> Fault:
    return Fault(name, promise, HTTP, at_start=True, script={HANDSHAKE: [reply]}, **facts)


def said_farewell(at: Any) -> bool:
    return at.server.requests.counts()["DELETE"] == 1


PRIMED = HttpReply.sse(SseEvent(id="1", retry=10)).cut()


def cut_with_ids(then: str, promise: Promise, resumption: Callable[[Any], Reply], **facts: Any) -> Fault:
    name = f"an SSE answer with event ids is cut, {then}"
    return Fault(name, promise, before_2026(SSE), reply=PRIMED, resumption=resumption, **facts)


HAPROXY = (
    b"<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>\n"
)
EXPIRED = replace(HttpReply.error(-32000, "Bad Request: No valid session ID provided"), status=400)
LATENCY = (Latency(0.05, jitter=0.03), Latency(0.05, jitter=0.03, direction="upstream"))

ON_THE_WAY = [
    Fault("refused at connect, up a moment later", STARTED, HTTP, at_start=True, before=down, mend=up),
    Fault(
        "refused at connect",
        UNAVAILABLE,
        HTTP,
        at_start=True,
        before=down,
        mend=up,
        stays=True,
        limits={"ready": 0.3},
    ),
    Fault("the name has no address (DNS)", UNAVAILABLE, HTTP, at_start=True, target=nowhere, limits={"ready": 0.3}),
    Fault(
        "the TLS handshake is cut off",
        UNAVAILABLE,
        HTTP,
        at_start=True,
        target=over_tls,
        before=add(LimitData(1, direction="upstream")),
        limits={"ready": 1.0},
        policy={"restart": RestartPolicy(base=30)},  # httpcore leaks the socket of a handshake that is cancelled
    ),
    Fault("down when the call is made, up a moment later", UNHARMED, HTTP, before=down, mend=up),
    Fault("down when the call is made", AWAY, HTTP, before=down, mend=up, stays=True, limits={"ready": 0.3}),
    Fault("latency", UNHARMED, HTTP, before=add(*LATENCY), mend=clear),
    Fault("a slow drip", UNHARMED, HTTP, before=add(Slicer(40, delay=0.01)), mend=clear),
    Fault("a drip too slow to wait for", SLOW, HTTP, before=add(Bandwidth(10)), mend=clear, limits=IMPATIENT),
    Fault("half-open: nothing comes back", SLOW, HTTP, before=add(Timeout()), mend=clear, limits=IMPATIENT),
    Fault(
        "half-open, and the call has a time limit",
        SLOW,
        HTTP,
        before=add(Timeout()),
        mend=clear,
        read_timeout=0.4,
        limits=IMPATIENT,
    ),
    Fault("reset before headers", LOST, HTTP, reply=HttpReply.reset()),
    Fault("closed before headers", LOST, HTTP, reply=HttpReply.close()),
    Fault("cut inside a JSON body", LOST, JSON, reply=HttpReply.ok("lost").cut()),
    Fault("reset inside a JSON body", LOST, JSON, reply=HttpReply.ok("lost").cut(reset=True)),
    Fault("1 GB announced and not sent", SLOW, JSON, reply=HttpReply.announce(10**9), limits=IMPATIENT),
    Fault("cut inside an SSE event", LOST, SSE, reply=HttpReply.sse(SseEvent.ok("lost")).cut(20)),
    Fault("reset inside an SSE event", LOST, SSE, reply=HttpReply.sse(SseEvent.ok("lost")).cut(20, reset=True)),
    cut_with_ids("and resumed", UNHARMED, resumed, answer="own"),
    cut_with_ids("and may not be resumed", LOST, always(HttpReply.refusal(405))),
    cut_with_ids("however often it is resumed", SLOW, always(PRIMED), limits=IMPATIENT),
]

REFUSALS = [
    Fault("session forgotten (404)", UNHARMED, before_2026(HTTP), before=forget_sessions, proof=asked_twice),
    Fault("session forgotten (400, as server-everything)", REJECTED, before_2026(JSON), reply=EXPIRED),
    Fault("redirect (307) within the origin", REJECTED, HTTP, reply=HttpReply.redirect("/elsewhere")),
    Fault("redirect (307) to another origin", REFUSED, HTTP, reply=elsewhere, proof=nothing_elsewhere),
    Fault("400", REFUSED, HTTP, reply=HttpReply.refusal(400)),
    Fault("401", FORBIDDEN, HTTP, reply=HttpReply.refusal(401)),
    Fault("403", FORBIDDEN, HTTP, reply=HttpReply.refusal(403)),
    Fault("429", REJECTED, HTTP, reply=HttpReply.refusal(429)),
    Fault("429 with `Retry-After`", REJECTED, HTTP, reply=HttpReply.refusal(429, retry_after=0)),
    Fault("500", LOST, HTTP, reply=HttpReply.refusal(500)),
    Fault("502, in HTML", LOST, HTTP, reply=HttpReply.html(502)),
    Fault("503", LOST, HTTP, reply=HttpReply.refusal(503)),
    Fault("503 with `Retry-After`", LOST, HTTP, reply=HttpReply.refusal(503, retry_after=0)),
    Fault("503 of HAProxy", REJECTED, HTTP, reply=HttpReply.refusal(503, HAPROXY, content_type="text/html")),
    Fault("504", LOST, HTTP, reply=HttpReply.refusal(504)),
    Fault("200 with HTML of a proxy", LOST, HTTP, reply=HttpReply.html()),
    Fault("200 with bad JSON", USELESS, HTTP, reply=HttpReply.raw(b"{nope")),
    Fault("200 with another content type", USELESS, HTTP, reply=HttpReply.raw(b"{}", content_type="text/plain")),
    Fault("an error without an id", UNREADABLE, HTTP, reply=Reply.sending(UNREAD)),
    Fault("202 to a call", USELESS, HTTP, reply=HttpReply.refusal(202)),
    Fault("an SSE event of 2 MB", UNHARMED, SSE, reply=HttpReply.ok("x" * 2_000_000), answer="x" * 2_000_000),
    Fault(
        "`initialized` refused (500)",
        STARTED,
        before_2026(HTTP),
        at_start=True,
        script={"notifications/initialized": [HttpReply.refusal(500)]},
        proof=asked_twice,
    ),
    at_handshake("503 to the handshake", STARTED, HttpReply.refusal(503), proof=asked_twice),
    at_handshake("502 in HTML to the handshake", STARTED, HttpReply.html(502), proof=asked_twice),
    at_handshake("401 to the handshake", HOPELESS, HttpReply.refusal(401)),
    at_handshake("no answer to the handshake", STARTED, Reply.hang(), limits={"connect": 0.4}, proof=asked_twice),
    Fault(
        "frozen when the session closes",
        UNHARMED,
        before_2026(HTTP),
        script={"DELETE": [Reply.hang()]},
        proof=said_farewell,
        limits={"shutdown": 0.3},
    ),
    Fault("an exception in the user's event hook", USELESS, HTTP, before=fail_hook, http_client=with_hook),
    Fault("`PoolTimeout` of the user's HTTP client", UNHARMED, HTTP, http_client=with_small_pool),
    Fault("`ReadTimeout` of the user's HTTP client", SLOW, HTTP, reply=Reply.hang(), http_client=with_read_timeout),
]

# --- server notifications --------------------------------------------------------------------------------------------


async def hear(_: Any, at: Stage) -> str:
    await at.heard.wait()
    return "notified"


async def listen(session: Any, at: Stage) -> str:
    async with session.listen(resource_subscriptions=[URI]) as changes:
        async for _change in changes:
            return "notified"
    return "ended"


LISTEN = "subscriptions/listen"
URI = "scripted://note"
LISTENER = {"io.modelcontextprotocol/subscriptionId": "$id"}
UPDATED = {"method": "notifications/resources/updated", "params": {"uri": URI, "_meta": LISTENER}}
ACKNOWLEDGED = {
    "method": "notifications/subscriptions/acknowledged",
    "params": {"notifications": {"resourceSubscriptions": [URI]}, "_meta": LISTENER},
}
OPENED = HttpReply.sse(SseEvent(id="1", retry=10))
UPDATING = HttpReply.sse(SseEvent(data={"method": UPDATED["method"], "params": {"uri": URI}})).holding()
TELLING = HttpReply.sse(SseEvent(data=ACKNOWLEDGED), SseEvent(data=UPDATED)).holding()

STREAM = [
    Fault(
        "the GET stream is reset three times",
        NOTIFIED,
        before_2026(HTTP),
        act=hear,
        script={"GET": [*[OPENED.cut(reset=True)] * 3, *[UPDATING] * 3]},
    ),
    Fault(
        "the GET stream is cut, and refused (409) while the server still considers it open",
        NOTIFIED,
        before_2026(HTTP),
        act=hear,
        script={"GET": [OPENED.cut(), *[HttpReply.refusal(409)] * 2, *[UPDATING] * 3]},
    ),
    Fault(
        "a `listen` stream is cut",
        NOTIFIED,
        since_2026(HTTP),
        act=listen,
        script={LISTEN: [HttpReply.sse(SseEvent(data=ACKNOWLEDGED)).cut(), TELLING]},
    ),
    Fault(
        "the server of a `listen` stream is killed",
        NOTIFIED,
        since_2026(STDIO),
        act=listen,
        script={
            LISTEN: [
                StdioReply(messages=(ACKNOWLEDGED,), exit_code=-signal.SIGKILL),
                StdioReply.sending(ACKNOWLEDGED, UPDATED),
            ]
        },
    ),
    Fault(
        "a `listen` request is reset before headers",
        NOTIFIED,
        since_2026(HTTP),
        act=listen,
        script={LISTEN: [HttpReply.reset(), TELLING]},
    ),
    Fault(
        "a `listen` request is never acknowledged",
        NOTIFIED,
        since_2026(HTTP),
        act=listen,
        script={LISTEN: [Reply.hang(), TELLING]},
        limits=IMPATIENT,
    ),
    Fault(
        "a `listen` request is never acknowledged",
        NOTIFIED,
        since_2026(STDIO),
        act=listen,
        script={LISTEN: [Reply.hang(), Reply.sending(ACKNOWLEDGED, UPDATED)]},
        limits=IMPATIENT,
    ),
]

FAULTS = [*ANYWHERE, *OVER_STDIO, *ON_THE_WAY, *REFUSALS, *STREAM]
