"""A user's HTTP client with HTTP/2, proxies and cookies, against a real nginx, a real proxy and real sockets."""

from __future__ import annotations

import base64
import json
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc
import pytest
import trustme
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener

from resilient_mcp import (
    Connected,
    ConnectionLost,
    Policy,
    ResilienceError,
    ResilientClient,
    RestartPolicy,
    RetryPolicy,
    RetryScheduled,
    ServerUnavailable,
    TimeoutPolicy,
    ToolPolicy,
)
from resilient_mcp._sdk.installed import http

from .middleboxes import Middlebox, needs_nginx, nginx
from .support import (
    LEGACY,
    QUICK,
    Faults,
    HttpServer,
    Recorder,
    ScriptedHttp,
    client_of,
    http_server,
    in_turn,
    reply,
    text_of,
)

pytestmark = pytest.mark.anyio

PATIENT = Policy(
    breaker=None,
    budget=None,
    tools={"echo": ToolPolicy(repeatable=True)},
    retry=RetryPolicy(attempts=1000, base=0.02, throttled_base=0.02, max_delay=0.1),
    restart=RestartPolicy(base=0.01, max_delay=0.1, intensity=1000),
    timeout=TimeoutPolicy(attempt=15, ready=15, connect=10, total=15, shutdown=2),
)
SHORT = QUICK.model_copy(update={"timeout": TimeoutPolicy(attempt=10, ready=1, connect=5, reach=1, shutdown=2)})


async def unsafe(client: ResilientClient, text: str) -> None:
    """Call a tool that must not run twice."""
    assert text_of(await client.call_tool("unsafe", {"text": text})) == text


async def many(client: ResilientClient, name: str, count: int = 20) -> list[str]:
    """Call it many times at once; returns what the server must have run."""
    texts = [f"{name}-{n}" for n in range(count)]
    async with anyio.create_task_group() as tg:
        for text in texts:
            tg.start_soon(unsafe, client, text)
    return texts


# --- certificates ---


class Authority:
    """A certificate authority, and a certificate of it for this machine.

    Attributes:
        ca: The PEM file of the authority.
        certificate: The PEM file of the certificate and its key.
    """

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._issued = self._ca.issue_cert("127.0.0.1")
        self.ca, self.certificate = folder / "ca.pem", folder / "server.pem"
        self._ca.cert_pem.write_to_path(self.ca)
        self._issued.private_key_and_cert_chain_pem.write_to_path(self.certificate)

    def client(self) -> ssl.SSLContext:
        """Trusts the authority, and nothing else."""
        return ssl.create_default_context(cafile=str(self.ca))

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._issued.configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class TlsScripted(ScriptedHttp):
    """A scripted server that speaks TLS."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self._authority = authority

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[ScriptedHttp]:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as plain:
            listener = TLSListener(plain, self._authority.server(), standard_compatible=False)
            self.url = f"https://127.0.0.1:{plain.extra(anyio.abc.SocketAttribute.local_port)}/mcp"
            async with anyio.create_task_group() as tg:
                tg.start_soon(listener.serve, self._connection)
                yield self
                tg.cancel_scope.cancel()


# --- HTTP/2 ---


@asynccontextmanager
async def http2(server: HttpServer | str, authority: Authority) -> AsyncIterator[tuple[Middlebox, Any, Counter[str]]]:
    """nginx with TLS and HTTP/2, a client for it, and how many of the client's responses came with which protocol."""
    versions: Counter[str] = Counter()

    async def count(response: Any) -> None:
        versions[response.http_version] += 1

    port = server.port if isinstance(server, HttpServer) else urlsplit(server).port
    assert port is not None
    logged = "log_format protocol '$server_protocol $request_method $connection';"
    async with nginx(
        port, certificate=authority.certificate, http2=True, http=logged, server="access_log requests protocol;"
    ) as gateway:
        async with http.AsyncClient(
            http2=True, verify=authority.client(), timeout=http.Timeout(5, read=None), event_hooks={"response": [count]}
        ) as mine:
            yield gateway, mine, versions


@needs_nginx
async def test_http2_carries_many_calls_at_once(authority: Authority):
    """50 calls share one connection with TLS and HTTP/2, and each runs once."""
    server = ScriptedHttp()
    async with server.serve(), http2(server.url, authority) as (gateway, mine, versions):
        async with client_of(gateway.url, http_client=mine) as client:
            ran = await many(client, "call", 50)
        lines = [line.split() for line in (gateway.folder / "requests").read_text().splitlines()]
    assert sorted(server.calls) == sorted(ran)
    assert versions.keys() == {"HTTP/2"}
    assert versions["HTTP/2"] > 50
    assert {protocol for protocol, _, _ in lines} == {"HTTP/2.0"}
    assert Counter(method for _, method, _ in lines)["POST"] > 50
    assert len({connection for _, _, connection in lines}) == 1


@needs_nginx
async def test_a_call_that_is_given_up_ends_only_its_stream(authority: Authority):
    """Other calls on the same HTTP/2 connection are answered, and so are later ones."""
    server, all_there = ScriptedHttp(), anyio.Event()

    async def held(stream: Any, request_id: Any) -> bool:
        text = server.calls[-1]
        if len(server.calls) == 21:
            all_there.set()
        await server.release.wait()
        result = {"content": [{"type": "text", "text": text}]}
        await reply(stream, 200, json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode())
        return True

    async with server.serve(), http2(server.url, authority) as (gateway, mine, versions):
        async with client_of(gateway.url, http_client=mine) as client:
            server.faults = [Faults.hang(server)] + [held] * 20
            async with anyio.create_task_group() as tg:
                async with anyio.create_task_group() as giving_up:
                    giving_up.start_soon(unsafe, client, "given up")
                    await server.received.wait()
                    tg.start_soon(many, client, "beside")
                    await all_there.wait()
                    giving_up.cancel_scope.cancel()
                server.release.set()
            await many(client, "after")
            assert client.generation == 1
    assert sorted(server.calls) == sorted(
        ["given up", *(f"{name}-{n}" for name in ("beside", "after") for n in range(20))]
    )
    assert versions.keys() == {"HTTP/2"}


@needs_nginx
@in_turn
@pytest.mark.timeout(40)  # starts two SDK servers
async def test_a_server_restarts_behind_http2(authority: Authority, tmp_path: Path):
    """Unsafe calls before and after run once; repeatable ones during the outage wait; an unsafe one is not repeated."""
    events, runs = Recorder(), tmp_path / "runs"

    async def append() -> None:
        await client.call_tool("append_once", {"path": str(runs), "lives": 0})

    async def echo(text: str) -> None:
        assert text_of(await client.call_tool("echo", {"text": text})) == text

    async def append_fifty() -> None:
        async with anyio.create_task_group() as tg:
            for _ in range(50):
                tg.start_soon(append)

    async with http_server() as server, http2(server, authority) as (gateway, mine, versions):
        async with client_of(gateway.url, PATIENT, http_client=mine, on_event=events) as client:
            await append_fifty()
            assert runs.read_text() == "ran\n" * 50
            server.kill()
            with pytest.raises(ConnectionLost, match="HTTP 502.*may have run"):
                await append()
            async with anyio.create_task_group() as tg:
                for n in range(20):
                    tg.start_soon(echo, str(n))
                await events.wait_for(RetryScheduled)
                server.start()
            await append_fifty()
            assert runs.read_text() == "ran\n" * 100
            assert len(events.of(Connected)) == 2
    assert versions.keys() == {"HTTP/2"}


# --- proxies ---


class Proxy:
    """A forward proxy: absolute URLs for http, CONNECT for https.

    Attributes:
        url: Where it listens.
        seen: The method and the target of each request.
        refusal: The status that it answers in place of forwarding, or None.
        loses: How many answers it replaces with a 502 after the server sent them.
        login: The user and password that it wants, or None.
    """

    def __init__(self, login: str | None = None) -> None:
        self.url = ""
        self.seen: list[tuple[str, str]] = []
        self.refusal: int | None = None
        self.loses = 0
        self.login = login
        self._scopes: dict[anyio.CancelScope, anyio.Event] = {}

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Proxy]:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            at = f"{self.login}@" if self.login else ""
            self.url = f"http://{at}127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
            async with anyio.create_task_group() as tg:
                tg.start_soon(listener.serve, self._connection)
                yield self
                tg.cancel_scope.cancel()

    async def refuse(self, status: int) -> None:
        """Answer `status` from now on, and close all connections."""
        self.refusal = status
        closing, self._scopes = self._scopes, {}
        for scope in closing:
            scope.cancel()
        for closed in closing.values():
            await closed.wait()

    async def _connection(self, stream: Any) -> None:
        closed = anyio.Event()
        with anyio.CancelScope() as scope:
            self._scopes[scope] = closed
            with suppress(
                anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.IncompleteRead
            ):
                async with stream:
                    received = BufferedByteReceiveStream(stream)
                    while await self._exchange(stream, received):
                        pass
        self._scopes.pop(scope, None)
        closed.set()

    async def _exchange(self, stream: Any, received: BufferedByteReceiveStream) -> bool:
        head, headers, body = await message(received, b"CONNECT")
        method, target, _ = head.split(" ")
        self.seen.append((method, target))
        wanted = None if self.login is None else f"Basic {base64.b64encode(self.login.encode()).decode()}"
        if self.refusal is not None or headers.get("proxy-authorization") != wanted:
            await reply(stream, self.refusal or 407, b"the proxy refuses", {"proxy-authenticate": "Basic"})
            return True
        if method == "CONNECT":
            host, _, port = target.partition(":")
            async with await anyio.connect_tcp(host, int(port)) as server:
                await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                async with anyio.create_task_group() as tg:
                    tg.start_soon(pump, stream, server, tg.cancel_scope)
                    tg.start_soon(pump, server, stream, tg.cancel_scope)
            return False
        url = urlsplit(target)
        assert url.hostname is not None
        assert url.port is not None
        async with await anyio.connect_tcp(url.hostname, url.port) as server:
            passed = {name: value for name, value in headers.items() if not name.startswith("proxy-")}
            lines = "".join(f"{name}: {value}\r\n" for name, value in passed.items())
            await server.send(f"{method} {url.path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            head, headers, body = await message(BufferedByteReceiveStream(server))
        if self.loses:
            self.loses -= 1
            await reply(stream, 502, b"the proxy lost the answer", {"content-type": "text/plain"})
        else:
            await reply(stream, int(head.split(" ")[1]), body, headers)
        return True


async def message(received: BufferedByteReceiveStream, bodiless: bytes = b"-") -> tuple[str, dict[str, str], bytes]:
    """The first line, the headers and the body of a message."""
    raw = await received.receive_until(b"\r\n\r\n", 100_000)
    first, *lines = raw.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    length = 0 if raw.startswith(bodiless) else int(headers.get("content-length", 0))
    return first, headers, await received.receive_exactly(length) if length else b""


async def pump(source: Any, sink: Any, scope: anyio.CancelScope) -> None:
    """Copy bytes until one side ends, and end the other direction too."""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            await sink.send(await source.receive())
    scope.cancel()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine is used."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


SCHEMES = ("http", "https")
WAYS = ("proxy=", "environment")


def server_for(scheme: str, authority: Authority) -> ScriptedHttp:
    return TlsScripted(authority) if scheme == "https" else ScriptedHttp()


@asynccontextmanager
async def client_behind(
    proxy: Proxy, server: ScriptedHttp, way: str, authority: Authority, policy: Policy = QUICK, **options: Any
) -> AsyncIterator[ResilientClient]:
    """A client that has not been started, which finds the proxy in one of two ways."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "environment":
            patch.setenv("SSL_CERT_FILE", str(authority.ca))
            patch.setenv(f"{urlsplit(server.url).scheme.upper()}_PROXY", proxy.url)
            client = ResilientClient(server.url, policy=policy, **{**LEGACY, **options})
            try:
                yield client
            finally:
                await client.aclose()
            return
        async with http.AsyncClient(
            proxy=proxy.url, verify=authority.client(), timeout=http.Timeout(5, read=None)
        ) as mine:
            client = ResilientClient(server.url, http_client=mine, policy=policy, **{**LEGACY, **options})
            try:
                yield client
            finally:
                await client.aclose()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_all_requests_pass_the_proxy(scheme: str, way: str, authority: Authority):
    """Nothing reaches the server past the proxy, not even the end of the session, and each call runs once."""
    server, proxy = server_for(scheme, authority), Proxy()
    async with server.serve(), proxy.serve(), client_behind(proxy, server, way, authority) as client:
        await client.start()
        ran = await many(client, "call")
        server.forget_sessions()
        ran += await many(client, "again")
    assert sorted(server.calls) == sorted(ran)
    assert server.requests["DELETE"] == 1
    assert server.requests["initialize"] == 2
    targets = {target for _, target in proxy.seen}
    methods = Counter(method for method, _ in proxy.seen)
    if scheme == "http":
        assert targets == {server.url}
        assert sum(methods.values()) == sum(server.requests.values())
    else:
        assert targets == {urlsplit(server.url).netloc}
        assert methods.keys() == {"CONNECT"}


@pytest.mark.parametrize(
    ("excluded", "passes"), [("127.0.0.1", False), ("localhost,127.0.0.1", False), ("other.example", True)]
)
async def test_no_proxy(excluded: str, passes: bool, authority: Authority, monkeypatch: pytest.MonkeyPatch):
    """A host in NO_PROXY is reached directly, and any other one through the proxy."""
    monkeypatch.setenv("NO_PROXY", excluded)
    server, proxy = ScriptedHttp(), Proxy()
    async with server.serve(), proxy.serve(), client_behind(proxy, server, "environment", authority) as client:
        await client.start()
        ran = await many(client, "call")
    assert sorted(server.calls) == sorted(ran)
    assert bool(proxy.seen) is passes


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("status", [407, 502])
async def test_a_proxy_that_refuses_the_start(status: int, scheme: str, way: str, authority: Authority):
    """The error has the proxy's status, comes soon, and nothing reached the server."""
    server, proxy = server_for(scheme, authority), Proxy()
    proxy.refusal = status
    async with server.serve(), proxy.serve(), client_behind(proxy, server, way, authority, SHORT) as client:
        with pytest.raises(ServerUnavailable, match=str(status)):
            await client.start()
    assert proxy.seen
    assert not server.requests


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("status", [407, 502])
async def test_a_proxy_that_refuses_a_call(status: int, scheme: str, way: str, authority: Authority):
    """The error has the proxy's status, the call has not run, and later ones run once."""
    server, proxy = server_for(scheme, authority), Proxy()
    async with server.serve(), proxy.serve(), client_behind(proxy, server, way, authority, SHORT) as client:
        await client.start()
        await unsafe(client, "before")
        await proxy.refuse(status)
        with pytest.raises(ResilienceError, match=str(status)) as caught:
            await client.call_tool("unsafe", {"text": "refused"})
        # A 502 in place of an answer does not say whether the server had the request; a refused tunnel does.
        assert caught.value.may_have_run is (status == 502 and scheme == "http")
        proxy.refusal = None
        await unsafe(client, "after")
    assert server.calls == ["before", "after"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_proxy_that_loses_the_answer(way: str, authority: Authority):
    """The call ran: it is not sent again, and the error says that it may have run."""
    server, proxy = ScriptedHttp(), Proxy()
    async with server.serve(), proxy.serve(), client_behind(proxy, server, way, authority) as client:
        await client.start()
        await unsafe(client, "before")
        await client.send_ping()
        proxy.loses = 1
        with pytest.raises(ConnectionLost, match="HTTP 502: the proxy lost the answer.*may have run"):
            await client.call_tool("unsafe", {"text": "lost"})
        await unsafe(client, "after")
    assert server.calls == ["before", "lost", "after"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_with_a_password(scheme: str, way: str, authority: Authority, caplog: pytest.LogCaptureFixture):
    """The password in the proxy's URL opens it; neither an error nor the log shows it."""
    server, proxy = server_for(scheme, authority), Proxy("someone:pr0xy-passw0rd")
    encoded = base64.b64encode(b"someone:pr0xy-passw0rd").decode()
    async with server.serve(), proxy.serve(), client_behind(proxy, server, way, authority, SHORT) as client:
        with caplog.at_level(logging.DEBUG):
            await client.start()
            await unsafe(client, "x")
            await proxy.refuse(407)
            with pytest.raises(ResilienceError, match="407") as caught:
                await client.call_tool("unsafe")
            await client.aclose()
    assert server.calls == ["x"]
    for text in (str(caught.value), repr(caught.value), caught.value.advice, caplog.text):
        assert "pr0xy-passw0rd" not in text
        assert encoded not in text


# --- cookies ---


class Sticky(ScriptedHttp):
    """Sets a cookie with each `initialize`, as a load balancer does that binds a session to one of its servers."""

    def __init__(self) -> None:
        super().__init__()
        self.cookies: list[tuple[str, str | None]] = []

    def cookie(self) -> str:
        """The cookie of the current session."""
        return f"server-number-{self.session}-k4n4ry"

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        method = json.loads(body).get("method") if body else verb
        self.cookies.append((method, headers.get("cookie")))
        if method == "initialize":
            stream = SettingCookie(stream, self)
        return await super()._exchange(stream, verb, path, headers, body)


class SettingCookie:
    """A stream that adds a cookie to the response sent on it."""

    def __init__(self, inner: Any, server: Sticky) -> None:
        self._inner = inner
        self._server = server

    async def send(self, data: bytes) -> None:
        cookie = f"\r\nset-cookie: lb={self._server.cookie()}; Path=/; HttpOnly\r\n"
        await self._inner.send(data.replace(b"\r\n", cookie.encode(), 1))


@asynccontextmanager
async def sticky_client(server: Sticky, whose: str, **options: Any) -> AsyncIterator[ResilientClient]:
    if whose == "default":
        async with client_of(server.url, **options) as client:
            yield client
        return
    async with http.AsyncClient() as mine, client_of(server.url, http_client=mine, **options) as client:
        yield client


WHOSE = ("default", "user's")


@pytest.mark.parametrize("whose", WHOSE)
async def test_a_cookie_comes_back_with_every_request(whose: str):
    """The cookie of the `initialize` answer is sent with every later request, up to the end of the session."""
    server = Sticky()
    async with server.serve(), sticky_client(server, whose) as client:
        await many(client, "call")
        await client.send_ping()
    later = [cookie for method, cookie in server.cookies if method != "initialize"]
    assert set(later) == {f"lb={server.cookie()}"}
    assert {"DELETE", "ping", "tools/call", "notifications/initialized"} <= {method for method, _ in server.cookies}


@pytest.mark.parametrize("whose", WHOSE)
async def test_a_new_session_has_the_new_cookie(whose: str):
    """After a lost session, every request carries the cookie of the new one, and each call runs once."""
    server, events = Sticky(), Recorder()
    async with server.serve(), sticky_client(server, whose, on_event=events) as client:
        ran = await many(client, "first")
        old = server.cookie()
        server.forget_sessions()
        ran += await many(client, "second")
        before = len(server.cookies)
        ran += await many(client, "third")
        assert len(events.of(Connected)) == 2
    assert server.cookie() != old
    assert {cookie for _, cookie in server.cookies[before:]} == {f"lb={server.cookie()}"}
    assert sorted(server.calls) == sorted(ran)


@pytest.mark.parametrize("whose", WHOSE)
async def test_a_cookie_is_not_shown(whose: str, caplog: pytest.LogCaptureFixture):
    """A server that repeats the cookie in an error finds it masked, and no log record has it."""
    server = Sticky()

    async def repeat(stream: Any, _: Any) -> bool:
        await reply(stream, 418, f"no teapot at {server.cookie()}".encode())
        return True

    with caplog.at_level(logging.DEBUG):
        async with server.serve(), sticky_client(server, whose) as client:
            server.faults = [repeat]
            with pytest.raises(ResilienceError, match=r"HTTP 418: no teapot at \*\*\*") as caught:
                await client.call_tool("unsafe")
    for text in (str(caught.value), repr(caught.value), caught.value.advice, caplog.text):
        assert "k4n4ry" not in text
