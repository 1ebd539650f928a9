"""Secrets do not leak, and servers cannot forge log records: canaries and a hostile server, through every failure."""

from __future__ import annotations

import base64
import html
import json
import logging
import sys
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus

import anyio
import pytest
from mcp import StdioServerParameters
from mcp.client import session_group
from pydantic import ValidationError

from resilient_mcp import (
    BreakerChanged,
    BreakerPolicy,
    CallFinished,
    Event,
    Policy,
    ResilientClient,
    RestartPolicy,
    RetryPolicy,
    TimeoutPolicy,
)
from resilient_mcp._sdk.installed import MCPError, http
from resilient_mcp._sdk.requests import CallTool

from .support import LEGACY, QUICK, ROOT, Faults, ScriptedHttp, client_of
from .test_events import Records, records  # noqa: F401 - a fixture
from .test_otel import Telemetered

pytestmark = pytest.mark.anyio

CANARIES = {
    name: f"k4n4ry-{name}-0123456789"
    for name in (
        *("env", "flag", "pair", "header", "user", "query", "oauth", "short", "auth", "login", "variable", "cookie"),
        *("matrix", "code"),
    )
}
# Has characters that are escaped in URLs, JSON and HTML.
CANARIES["password"] = "k4n4ry/password+0&\"1'"
SECRET = CANARIES["password"]
# Recognizable as secrets only by their format.
LOOKS = {name: f"k4n4ry{name}Q7x9Zt2B" for name in ("Path", "Value", "Header", "Argument", "Cookie")}
UNTOLD = [
    "sk-ant-k4n4ry0123456789",
    "ghp_k4n4ry0123456789",
    "eyJhbGciOi.k4n4ry.c2ln",
    "Set-Cookie: sid=k4n4ry0123; Path=/",
    "curl -u user:k4n4ry0123",
    "password=k4n4ry0123",
    "postgresql://joe:k4n4ry0123@db/x",
]
QUICKER = QUICK.model_copy(
    update={
        "retry": RetryPolicy(attempts=2, base=0.001, throttled_base=0.001, max_retry_after=0.01),
        "restart": RestartPolicy(base=0.001, intensity=100),
        "timeout": TimeoutPolicy(attempt=5, ready=5, connect=5, shutdown=1),
        "breaker": None,  # an open circuit would hide the faults that follow
    }
)
# What `k4n4ry` becomes in base64, wherever it begins, and in hex.
NEEDLES = ("k4n4ry", "azRuNHJ5", "s0bjRye", "rNG40cn", "6b346e347279")


class Net:
    """Collects everything that leaves a client, and searches it for canaries."""

    def __init__(self, log: Records) -> None:
        self.log = log
        self.exported = Telemetered()
        self.caught: list[str] = []
        self.events: list[Event] = []

    def error(self, exc: BaseException) -> None:
        self.caught += [str(exc), repr(exc), "".join(traceback.format_exception(exc))]
        chain: list[Any] = [exc]
        while chain:
            one = chain.pop()
            facts = {k: v for k, v in vars(one).items() if k not in {"request", "_request", "response"}}
            self.caught += [str(one), repr(one), repr(facts), str(getattr(one, "error", ""))]
            chain += [link for link in (one.__cause__, one.__context__) if link is not None]
            chain += getattr(one, "exceptions", [])
        assert str(exc)
        if hasattr(exc, "to_tool_result"):
            self.caught.append(exc.to_tool_result().model_dump_json())

    def client(self, client: ResilientClient) -> None:
        self.caught += [repr(client.stats()), repr(client.health()), client.name]

    def holds_no_canary(self) -> None:
        formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")
        caught = [*self.caught, *map(repr, self.events), *map(formatter.format, self.log.records)]
        caught += [repr(vars(record)) for record in self.log.records]
        for event in self.events:
            evidence = getattr(event, "evidence", None)
            caught.append(evidence.exit.stderr if evidence is not None and evidence.exit is not None else "")
        spans = self.exported.exporter.get_finished_spans()
        caught += [span.to_json() for span in spans]
        data = self.exported.reader.get_metrics_data()
        caught.append("" if data is None else data.to_json())
        text = "\n".join(caught)
        for needle in NEEDLES:
            assert needle not in text, text[max(0, text.index(needle) - 300) : text.index(needle) + 60]


@pytest.fixture
def net(records: Records) -> Iterator[Net]:  # noqa: F811
    """A net that also collects what the HTTP library and the SDK log at DEBUG."""
    loggers = [logging.getLogger(name) for name in ("httpx", "httpx2", "httpcore", "httpcore2", "mcp.client", "client")]
    for logger in loggers:
        logger.addHandler(records)
        logger.setLevel(logging.DEBUG)
    yield Net(records)
    for logger in loggers:
        logger.removeHandler(records)
        logger.setLevel(logging.NOTSET)


async def call(net: Net, client: ResilientClient, tool: str, **arguments: Any) -> Any:
    try:
        return await client.call_tool(tool, arguments, read_timeout_seconds=arguments.pop("limit", 5))
    except Exception as exc:
        net.error(exc)


async def test_a_process_leaks_no_secrets(net: Net):
    """Secrets from environment and arguments that the server repeats show up in nothing but a tool's result."""
    server = StdioServerParameters(
        command=sys.executable,
        args=[
            *("-m", "tests.servers.leaky_server", "--api-key", CANARIES["flag"], f"--token={CANARIES['pair']}"),
            *("-k", CANARIES["short"], "--auth", CANARIES["auth"], "-u", f"user:{CANARIES['login']}"),
            *("-e", f"API_KEY={CANARIES['variable']}", f"-eN={LOOKS['Value']}", "-H", f"X-Any: {LOOKS['Header']}"),
            *(f"--header=Cookie: sid={CANARIES['cookie']}", "-c", f"PAT={CANARIES['code']} exec x", LOOKS["Argument"]),
            *UNTOLD,
        ],
        env={"CANARY_TOKEN": CANARIES["env"], "CANARY": LOOKS["Cookie"], "CANARY_URL": f"redis://:{SECRET}@h/0"},
        cwd=ROOT,
    )
    async with client_of(server, QUICKER, on_event=net.events.append, debug=True) as client:
        for pad in (0, 170, 480, 1990, 2040):
            await call(net, client, "unsafe", do="error", code=-32602, pad=pad)
            await call(net, client, "unsafe", do="crash", pad=pad)
        await call(net, client, "echo", text=CANARIES["env"])
        for code in (-32603, -32000, 408):
            await call(net, client, "error", code=code)
        result = await call(net, client, "unsafe", do="refuse", pad=480)
        assert "k4n4ry-env" in result.content[0].text  # a tool's result is not redacted
        await call(net, client, "unsafe", do="misshapen")
        await call(net, client, "unsafe", do="garbage", pad=1990)
        await call(net, client, "unsafe", do="unusable")
        await call(net, client, "unsafe", do="crash", times=4000)  # more than the tail that is kept
        await call(net, client, "unsafe", do="no_answer", limit=0.1)
        await client.read_resource(f"raw://{CANARIES['env']}/{'x' * 80}{CANARIES['flag']}")
        net.client(client)
    assert len(net.caught) > 50
    net.holds_no_canary()


async def test_a_process_that_fails_to_start_leaks_no_secrets(net: Net):
    """The error has what the process wrote before it exited, without the secrets."""
    policy = QUICKER.model_copy(update={"restart": RestartPolicy(base=0.001, intensity=1)})
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tests.servers.leaky_server", "--crash-at-start", "--api-key", CANARIES["flag"]],
        env={"CANARY_TOKEN": CANARIES["env"]},
        cwd=ROOT,
    )
    client = ResilientClient(server, policy=policy, on_event=net.events.append, debug=True)
    with pytest.raises(MCPError) as caught:
        await client.start()
    net.error(caught.value)
    net.client(client)
    assert "***" in str(caught.value)
    net.holds_no_canary()


BEGINNINGS = ("http://user:", "https://[", "http://h:", "ftp://", "http://user:x@h:")
ENDS = ("@[bad", "/mcp", "@h:abc/", "\n")


def spelled(secret: str) -> list[str]:
    """The secret as servers quote and encode it, alone and after a user name."""
    pair = f"{CANARIES['user']}:{secret}".encode()
    return [
        *(secret, json.dumps(json.dumps(secret)), secret.replace("/", "\\/"), html.escape(secret)),
        *(quote(secret, safe=""), quote_plus(secret), quote(secret, safe="").replace("%2F", "%2f")),
        *(base64.b64encode(pair).decode(), base64.urlsafe_b64encode(b"x" + pair).decode(), secret.encode().hex()),
        *(base64.b64encode(secret.encode()).decode(), base64.b64encode(b"xy:" + secret.encode()).decode()),
    ]


GIVEN = [
    CANARIES["user"],
    CANARIES["header"],
    CANARIES["query"],
    CANARIES["oauth"],
    CANARIES["matrix"],
    *LOOKS.values(),
]
LEAK = " | ".join([*GIVEN, *spelled(SECRET), *spelled(CANARIES["header"]), *UNTOLD])
DATA = {"issues": [{"path": ["a"], "message": LEAK}], "retryAfter": LEAK}


def faults(server: ScriptedHttp) -> list[Any]:
    """Every kind of failure over HTTP, with the secrets in it."""
    text = json.dumps({"error": LEAK}).encode()
    plain = [Faults.status(status, text) for status in (400, 401, 403, 405, 408, 429, 500, 502, 503, 418)]
    padded = [Faults.status(500, b"x" * pad + text) for pad in (150, 180, 790)]
    errors = [Faults.error(status, code, LEAK, DATA) for status in (200, 400, 429, 500) for code in (-32603, -32602)]
    event = b"event: message\r\ndata: " + text + b"\r\n\r\n"
    return [
        *plain,
        *padded,
        *errors,
        Faults.status(503, text, retry_after=LEAK),
        Faults.status(
            307,
            location=f"https://{CANARIES['user']}:{quote(SECRET, safe='')}@elsewhere/{LOOKS['Path']}?q={SECRET}",
        ),
        Faults.body(text),
        Faults.body(text, LEAK),
        Faults.body(event, "text/event-stream"),
        Faults.cut(event[:40], "text/event-stream", 9999),
        Faults.reset(),
        Faults.close(),
    ]


class TokenAuth(http.Auth):  # type: ignore[misc]
    """Adds a token to each request, as an OAuth provider does: one that the client was not given."""

    def auth_flow(self, request: Any) -> Iterator[Any]:
        request.headers["Authorization"] = f"Bearer {CANARIES['oauth']}"
        yield request


def secret_url(server: ScriptedHttp) -> str:
    """The URL of `server` with a login, a token in its path, a path parameter, and a query."""
    login = f"{CANARIES['user']}:{quote(SECRET, safe='')}"
    path = f"/s/{LOOKS['Path']}/mcp;tok={CANARIES['matrix']}?key={CANARIES['query']}"
    return server.url.replace("://", f"://{login}@").removesuffix("/mcp") + path


@asynccontextmanager
async def http_client_of(
    server: ScriptedHttp, net: Net, *, own: bool, policy: Policy = QUICKER
) -> AsyncIterator[ResilientClient]:
    """A client with secrets in its URL and headers, and with `own` a token from the HTTP client's auth flow."""
    url = secret_url(server)
    headers = {"X-Api-Key": CANARIES["header"], "X-Any": LOOKS["Header"], "Cookie": f"sid={LOOKS['Cookie']}; a=b"}
    headers |= {"X-Value": LOOKS["Value"], "X-Argument": LOOKS["Argument"]}
    options: dict[str, Any] = {"policy": policy, "on_event": net.events.append, "debug": True, **LEGACY}
    if own:
        async with http.AsyncClient(headers=headers, auth=TokenAuth()) as http_client:
            parameters = session_group.StreamableHttpParameters(url=url)
            async with ResilientClient(parameters, http_client=http_client, **options) as client:
                yield client
        return
    parameters = session_group.StreamableHttpParameters(
        url=url, headers={**headers, "X-Auth": f"Bearer {CANARIES['oauth']}"}
    )
    async with ResilientClient(parameters, **options) as client:
        yield client


@pytest.mark.parametrize("own", [True, False], ids=["http_client", "headers"])
async def test_an_http_server_leaks_no_secrets(net: Net, own: bool):
    """URL, headers and OAuth token do not leak when a server repeats them in bodies, errors, redirects or headers."""
    server = ScriptedHttp()
    async with server.serve(), http_client_of(server, net, own=own) as client:
        for fault in faults(server):
            for tool in ("echo", "unsafe"):
                server.faults = [fault] * 3
                await call(net, client, tool, text="x")
        server.faults = [Faults.hang(server)]
        await call(net, client, "unsafe", text="x", limit=0.1)
        server.release.set()
        server.faults = []
        await call(net, client, "echo", text="x")
        net.client(client)
    assert len(net.caught) > 100
    logged = {record.name for record in net.log.records}
    assert {http.__name__, "resilient_mcp"} <= logged
    net.holds_no_canary()


async def test_an_open_circuit_leaks_no_secrets(net: Net):
    """Events, statistics and the health report show the failure that opened the circuit, without the secrets."""
    server = ScriptedHttp()
    policy = QUICKER.model_copy(update={"breaker": BreakerPolicy(failures=1)})
    async with server.serve(), http_client_of(server, net, own=False, policy=policy) as client:
        server.faults = [Faults.status(500, LEAK.encode())]
        await call(net, client, "unsafe", text="x")
        net.client(client)
    assert any(isinstance(event, BreakerChanged) and "***" in event.reason for event in net.events)
    net.holds_no_canary()


@pytest.mark.parametrize("status", [401, 500])
async def test_a_failed_handshake_leaks_no_secrets(net: Net, status: int):
    """What the server says before there is a session is reported without the secrets."""
    policy = QUICKER.model_copy(update={"timeout": TimeoutPolicy(ready=0.5, connect=2, shutdown=1)})
    server = ScriptedHttp()
    async with server.serve():
        server.handshake_faults = [Faults.status(status, LEAK.encode())] * 1000
        headers = {"X-Auth": CANARIES["header"], "X-Token": CANARIES["oauth"]}
        headers |= {f"X-{name}": value for name, value in LOOKS.items()}
        parameters = session_group.StreamableHttpParameters(url=secret_url(server), headers=headers)
        client = ResilientClient(parameters, policy=policy, on_event=net.events.append, debug=True, **LEGACY)
        with pytest.raises(MCPError) as caught:
            await client.start()
        net.error(caught.value)
        net.client(client)
    net.holds_no_canary()


REFUSED: list[Callable[[], Any]] = [
    *(partial(ResilientClient, f"{begin}{LOOKS['Path']}{end}") for begin in BEGINNINGS for end in ENDS),
    lambda: Policy.model_validate({"retry": {"attempts": UNTOLD[0]}}),
    lambda: Policy.model_validate({"retry": {"attempts": LOOKS["Value"]}, "tools": {LOOKS["Value"]: 1}}),
    lambda: Policy(headers={"Authorization": f"Bearer {CANARIES['header']}"}),  # type: ignore[call-arg]
    lambda: Policy(api_key=CANARIES["flag"]),  # type: ignore[call-arg]
]


@pytest.mark.parametrize("make", REFUSED)
async def test_a_rejected_url_or_policy_leaks_no_secrets(net: Net, make: Callable[[], Any]):
    """The error for a malformed URL, or for a policy with a secret in the wrong place, does not show the secret."""
    with pytest.raises(ValueError, match=".") as caught:
        make()
    net.error(caught.value)
    if isinstance(caught.value, ValidationError):
        net.caught.append(repr(caught.value.errors()))
    net.holds_no_canary()


async def test_log_records_of_other_code_are_not_redacted(net: Net):
    """Code that uses the HTTP library alongside a client finds its own requests logged as it sent them."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, QUICKER), http.AsyncClient() as other:
        await other.get(f"{server.url}/s/{LOOKS['Path']}")
    assert any(LOOKS["Path"] in record.getMessage() for record in net.log.records)


# --- a hostile server ---

EVIL = "\x1b[2J\x1b]0;owned\x07\r\nINFO:resilient_mcp:forged\u2028\x85\x00"


async def test_a_hostile_server_cannot_forge_log_records(records: Records):  # noqa: F811
    """Escapes and line breaks in errors, data, results and HTTP bodies leave each record one printable line."""
    server = ScriptedHttp()
    events: list[Event] = []
    async with server.serve(), client_of(server.url, QUICKER, on_event=events.append, debug=True) as client:
        text = json.dumps({"content": [{"type": "text", "text": EVIL}], "isError": True}).encode()

        async def refuse(stream: Any, request_id: Any) -> bool:
            return await Faults.body(b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (request_id, text))(stream, request_id)

        errors = [Faults.error(200, -32603, EVIL, {"hint": EVIL}), Faults.error(429, -32000, EVIL, {"hint": EVIL})]
        for fault in (*errors, Faults.status(500, EVIL.encode()), Faults.status(400, EVIL.encode()), refuse):
            server.faults = [fault] * 3
            for tool in ("echo", EVIL):
                try:
                    await client.call_tool(tool, {"text": EVIL})
                except MCPError as exc:
                    advice = getattr(exc, "advice", "x")
                    assert advice.isprintable()
                    assert len(advice) < 3000
        names = list(client.stats().tools)
    assert all(name.isprintable() for name in names)
    assert len(records.records) > 40
    for record, line in zip(records.records, records.lines, strict=True):
        assert line.isprintable(), line
        assert all(v.isprintable() for k, v in vars(record).items() if k.startswith("mcp_") and isinstance(v, str))
    for event in events:
        assert getattr(event, "reason", "x").isprintable()


async def test_an_error_of_ten_megabytes(records: Records):  # noqa: F811
    """The caller gets as much as can be cleaned quickly; events, log and advice get a line of bounded length."""
    server = ScriptedHttp()
    patient = QUICKER.model_copy(update={"timeout": TimeoutPolicy(attempt=15)})  # four times ten megabytes of JSON
    huge = "x\n" * 5_000_000
    events: list[Event] = []
    async with server.serve(), client_of(server.url, patient, on_event=events.append, debug=True) as client:
        server.faults = [Faults.error(200, -32602, huge, {"hint": huge, "issues": [{"path": [huge], "message": huge}]})]
        with pytest.raises(MCPError) as caught:
            await client.call_tool("unsafe", {"text": "x"})
    text = str(caught.value)
    assert huge.startswith(text.rstrip("*"))
    assert text.endswith("***")
    assert 100_000 < len(text) < 256 * 1024
    assert len(repr(caught.value.__notes__)) < 2000
    assert all(len(line) < 12_000 for line in records.lines)
    assert all(len(repr(event)) < 3000 for event in events)


@pytest.mark.timeout(60)  # tracing memory is slow, and slower under coverage
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # nothing here depends on the event loop
async def test_statistics_of_thousands_of_tools_are_bounded():
    """Statistics and metrics use bounded memory, however many tool names are called."""
    from resilient_mcp.calls.operation import Operation

    exported = Telemetered()
    client = ResilientClient("http://127.0.0.1:1/mcp")
    observer = client._fallbacks._executor._observer

    def use(begin: int, end: int) -> None:
        for n in range(begin, end):
            with observer.call(Operation(CallTool(f"tool-{n}"))) as watch:
                watch.answered(None)
            if n % 1000 == 0:
                exported.exporter.clear()

    use(0, 1000)
    exported.exporter.clear()
    tracemalloc.start()
    use(1000, 4000)
    exported.exporter.clear()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 300_000  # 3000 names, 100 bytes each
    assert len(client.stats().tools) == 257
    points = exported.points()["mcp.client.operation.duration"]
    assert len(points) == 257
    assert sum(point.count for point in points) == 4000
    await anyio.lowlevel.checkpoint()


async def test_an_event_stream_that_is_never_read_is_bounded():
    """A stream whose reader never reads holds its buffer and no more."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        stream = client.events(buffer=10)
        for _ in range(30):
            await client.call_tool("echo", {"text": "x"})
    assert stream.dropped == 30 + 1 + 1 - 10
    assert [type(event) async for event in stream].count(CallFinished) == 8
