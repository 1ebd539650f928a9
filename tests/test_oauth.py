"""The SDK's OAuth flow as `auth=` and as the auth of a user's HTTP client, against a real authorization server."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import secrets
import time
import traceback
import types
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from resilient_mcp import Connected, Policy, ResilienceError, ResilientClient, ServerFailed, TimeoutPolicy
from resilient_mcp._sdk.installed import MAJOR, http

from .support import LEGACY, QUICK, Faults, Recorder, ScriptedHttp, every_pair, listed, nothing_left, reply, text_of

pytestmark = pytest.mark.anyio

ERAS: dict[str, dict[str, Any]] = {"legacy": LEGACY} if MAJOR == 1 else {"legacy": LEGACY, "default": {}}
WAYS = ("auth", "http_client")
REDIRECT = "http://localhost:3030/callback"
MINUTE = 60.0
HURRIED = QUICK.model_copy(
    update={"timeout": TimeoutPolicy(connect=1.5, reach=1.5, ready=1.5, attempt=1.5, request=1.5, total=1.5)}
)
"""Every limit is shorter than the time that a person takes to log in."""


class Clock:
    """The time, for the SDK's provider and the authorization server; a test moves it on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("mcp.client.auth.oauth2", "mcp.shared.auth_utils"):
        monkeypatch.setattr(f"{module}.time", types.SimpleNamespace(time=clock.time))
    return clock


class OAuthServer(ScriptedHttp):
    """An MCP server that needs a token, and the authorization server that grants it, on one port.

    Attributes:
        wide: Tools that need the scope "write"; everything else needs "read".
        grants: How many tokens were granted, by grant type.
        pages: How often the login page was opened.
        refused: How often the MCP endpoint refused a request, by status.
        denies: Whether the person at the login page denies access.
        token_fault: What the token endpoint says instead of granting: a function of the form that was sent.
        registration_fault: What the registration endpoint says instead of registering.
        grantable: The scopes that tokens can have.
        grant_lacks: A field that the token endpoint leaves out.
        streamed: Set once the client has asked for the server's own stream.
        admitted: The headers of the requests that the MCP endpoint did not refuse.
        secrets: All that must never be shown: tokens, codes, verifiers and the client's secret.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self.clock = clock or Clock()
        self.wide: set[str] = set()
        self.grants: Counter[str] = Counter()
        self.registrations = 0
        self.pages = 0
        self.refused: Counter[int] = Counter()
        self.denies = False
        self.token_fault: Callable[[dict[str, str]], tuple[int, str]] | None = None
        self.registration_fault: tuple[int, str] | None = None
        self.grantable = {"read", "write"}
        self.grant_lacks = ""
        self.streamed = anyio.Event()
        self.admitted: list[dict[str, str]] = []
        self.secrets: set[str] = set()
        self.machine = ("machine", self.secret("machine"))
        self._tokens: dict[str, tuple[set[str], float]] = {}
        self._refreshing: dict[str, str] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self._clients: dict[str, str] = {}

    def secret(self, kind: str) -> str:
        """A new secret."""
        made = f"{kind}.{secrets.token_urlsafe(24)}"
        self.secrets.add(made)
        return made

    def revoke(self, *, refreshing: bool = False) -> None:
        """Forget all access tokens, and with `refreshing` also what renews them."""
        self._tokens.clear()
        if refreshing:
            self._refreshing.clear()

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/mcp")

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        where = urlsplit(path)
        if where.path == "/mcp":
            if (challenge := self._challenge(headers, body)) is None:
                self.admitted.append(headers)
                if verb == "GET":
                    self.streamed.set()
                return await super()._exchange(stream, verb, path, headers, body)
            status, text = challenge
            self.refused[status] += 1
            metadata = f'resource_metadata="{self.origin}/.well-known/oauth-protected-resource/mcp"'
            await reply(stream, status, b"", {"www-authenticate": f"Bearer {text}, {metadata}"})
        elif where.path == "/.well-known/oauth-protected-resource/mcp":
            await self._json(stream, {"resource": self.url, "authorization_servers": [f"{self.origin}/"]})
        elif where.path == "/.well-known/oauth-authorization-server":
            await self._json(stream, self._metadata())
        elif where.path == "/register":
            await self._register(stream, json.loads(body))
        elif where.path == "/authorize":
            await self._authorize(stream, dict(parse_qsl(where.query)))
        elif where.path == "/token":
            await self._token(stream, headers, dict(parse_qsl(body.decode())))
        else:
            await reply(stream, 404)
        return True

    async def _json(self, stream: Any, value: Any, status: int = 200) -> None:
        await reply(stream, status, json.dumps(value).encode())

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": f"{self.origin}/",
            **{f"{name}_endpoint": f"{self.origin}/{path}" for name, path in ENDPOINTS.items()},
            "scopes_supported": ["read", "write"],
            "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
            "code_challenge_methods_supported": ["S256"],
        }

    def _challenge(self, headers: dict[str, str], body: bytes) -> tuple[int, str] | None:
        """How a request is refused, or None."""
        scopes, until = self._tokens.get(headers.get("authorization", "").removeprefix("Bearer "), (None, 0.0))
        if scopes is None or until < self.clock.time():
            return 401, 'error="invalid_token", scope="read"'
        message = json.loads(body or b"{}")
        if message.get("method") == "tools/call" and message["params"]["name"] in self.wide and "write" not in scopes:
            return 403, 'error="insufficient_scope", scope="read write"'
        return None

    async def _register(self, stream: Any, wanted: dict[str, Any]) -> None:
        if self.registration_fault is not None:
            status, text = self.registration_fault
            await reply(stream, status, text.encode())
            return
        self.registrations += 1
        name = f"client-{self.registrations}"
        self._clients[name] = self.secret("client-secret")
        await self._json(stream, {**wanted, "client_id": name, "client_secret": self._clients[name]}, 201)

    async def _authorize(self, stream: Any, query: dict[str, str]) -> None:
        self.pages += 1
        assert query["client_id"] in self._clients
        assert (query["response_type"], query["code_challenge_method"]) == ("code", "S256")
        answer = {"state": query["state"]}
        if self.denies:
            answer["error"] = "access_denied"
        else:
            answer["code"] = self.secret("code")
            self._codes[answer["code"]] = query
        await reply(stream, 302, b"", {"location": f"{query['redirect_uri']}?{urlencode(answer)}"})

    async def _token(self, stream: Any, headers: dict[str, str], form: dict[str, str]) -> None:
        self.secrets |= {form[name] for name in ("code_verifier",) if name in form}
        if self.token_fault is not None:
            status, text = self.token_fault(form)
            await reply(stream, status, text.encode())
            return
        scope = self._granted(headers, form)
        if scope is None:
            await self._json(stream, {"error": "invalid_grant"}, 400)
            return
        self.grants[form["grant_type"]] += 1
        token = self.secret("access")
        self._tokens[token] = (set(scope.split()) & self.grantable, self.clock.time() + 600)
        granted: dict[str, Any] = {"access_token": token, "token_type": "Bearer", "expires_in": 600}
        granted["scope"] = " ".join(sorted(self._tokens[token][0]))
        if form["grant_type"] != "client_credentials":
            granted["refresh_token"] = self.secret("refresh")
            self._refreshing[granted["refresh_token"]] = scope
        granted.pop(self.grant_lacks, None)
        await self._json(stream, granted)

    def _granted(self, headers: dict[str, str], form: dict[str, str]) -> str | None:
        """The scope to grant, or None."""
        kind = form["grant_type"]
        if kind == "client_credentials":
            user, _, password = base64.b64decode(headers["authorization"].split()[1]).decode().partition(":")
            return form.get("scope", "read") if (unquote(user), unquote(password)) == self.machine else None
        if self._clients.get(form["client_id"]) != form.get("client_secret"):
            return None
        if kind == "refresh_token":
            return self._refreshing.pop(form["refresh_token"], None)
        asked = self._codes.pop(form["code"], None)
        digest = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        if asked is None or asked["code_challenge"] != digest or asked["redirect_uri"] != form["redirect_uri"]:
            return None
        return asked.get("scope", "read")


ENDPOINTS = {"authorization": "authorize", "token": "token", "registration": "register"}


class Storage:
    """Keeps tokens and the registration in memory."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.registration: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.registration

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.registration = client_info


class Person:
    """A person at a browser: opens the login page, and comes back with a code.

    Args:
        takes: What the person does at the login page, which may take a while.
    """

    def __init__(self, takes: Callable[[], Awaitable[object]] | None = None) -> None:
        self.opened: list[dict[str, str]] = []
        self.takes = takes
        self.at_the_page = anyio.Event()
        self._back: dict[str, str] = {}

    @property
    def scopes(self) -> list[set[str]]:
        """The scopes of each login."""
        return [set(asked["scope"].split()) for asked in self.opened]

    async def open(self, url: str) -> None:
        page = urlsplit(url)
        self.opened.append(dict(parse_qsl(page.query)))
        async with await anyio.connect_tcp(page.hostname, page.port) as browser:
            await browser.send(f"GET {page.path}?{page.query} HTTP/1.1\r\nhost: {page.netloc}\r\n\r\n".encode())
            answer = await BufferedByteReceiveStream(browser).receive_until(b"\r\n\r\n", 10_000)
        location = next(line for line in answer.decode().splitlines() if line.startswith("location: "))
        self._back = dict(parse_qsl(urlsplit(location.removeprefix("location: ")).query))

    async def come_back(self) -> Any:
        self.at_the_page.set()
        if self.takes is not None:
            await self.takes()
        return answer_of(self._back.get("code", ""), self._back["state"])


def answer_of(code: str, state: str) -> Any:
    """What the installed SDK wants a callback handler to return."""
    if MAJOR == 1:
        return code, state
    from mcp.shared.auth import AuthorizationCodeResult

    return AuthorizationCodeResult(code=code, state=state)


def provider(server: OAuthServer, person: Any, storage: Storage | None = None) -> OAuthClientProvider:
    """The SDK's provider, with a registration of its own."""
    metadata = OAuthClientMetadata(
        client_name="tests",
        redirect_uris=[AnyUrl(REDIRECT)],
        grant_types=["authorization_code", "refresh_token"],
        token_endpoint_auth_method="client_secret_post",
    )

    async def come_back() -> Any:
        return await person.come_back()  # which a test may replace

    return OAuthClientProvider(server.url, metadata, storage or Storage(), person.open, come_back)


@asynccontextmanager
async def client_with(
    server: OAuthServer, auth: Any, way: str = "auth", *, era: str = "legacy", policy: Policy = QUICK, **options: Any
) -> AsyncIterator[ResilientClient]:
    """A client that has not been started, to which `auth` is given in one of two ways."""
    options = {"policy": policy, **ERAS[era], **options}
    async with AsyncExitStack() as stack:
        if way == "auth":
            client = ResilientClient(server.url, auth=auth, **options)
        else:
            mine = await stack.enter_async_context(http.AsyncClient(auth=auth, timeout=http.Timeout(5, read=None)))
            client = ResilientClient(server.url, http_client=mine, **options)
        try:
            yield client
        finally:
            await client.aclose()


async def started(client: ResilientClient, server: OAuthServer) -> None:
    """Start a client up to 2025-11-25, and wait until it sends nothing by itself any more: every login is a call's."""
    await client.start()
    await listed(client)
    await server.streamed.wait()


async def unsafe(client: ResilientClient, text: str) -> None:
    """Call a tool that must not run twice."""
    assert text_of(await client.call_tool("unsafe", {"text": text})) == text


async def ten(client: ResilientClient, name: str) -> list[str]:
    """Call it ten times at once; returns what the server must have run."""
    texts = [f"{name}-{n}" for n in range(10)]
    async with anyio.create_task_group() as tg:
        for text in texts:
            tg.start_soon(unsafe, client, text)
    return texts


def assert_hidden(server: OAuthServer, *texts: str) -> None:
    """None of the server's secrets occurs in the texts, plain or escaped, nor does half of it."""
    assert server.secrets
    for secret in server.secrets:
        for form in {secret, quote(secret, safe=""), secret[-12:]}:
            for text in texts:
                assert form not in text, text[max(0, text.index(form) - 300) : text.index(form) + len(form)]


# --- logging in ---


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("way", WAYS)
async def test_ten_calls_at_the_start_need_one_login(way: str, era: str):
    """A client with nothing stored registers and logs in once, and each of ten calls at once runs once."""
    server, person = OAuthServer(), Person()
    async with nothing_left():
        async with server.serve(), client_with(server, provider(server, person), way, era=era) as client:
            await client.start(wait=False)
            ran = await ten(client, "call")
            assert client.generation == 1
    assert sorted(server.calls) == sorted(ran)
    assert (server.registrations, server.pages, len(person.opened)) == (1, 1, 1)
    assert server.grants == {"authorization_code": 1}
    assert server.refused == {401: 1}


async def test_stored_tokens_need_no_login():
    """A second client with the first one's storage neither registers nor logs in."""
    server, person, storage = OAuthServer(), Person(), Storage()
    async with server.serve():
        for n in range(2):
            async with client_with(server, provider(server, person, storage)) as client:
                await client.start()
                await unsafe(client, str(n))
    assert server.calls == ["0", "1"]
    assert (server.registrations, server.pages) == (1, 1)


@every_pair("case", [f"{era}-{way}" for era in ERAS for way in WAYS])
async def test_a_person_may_take_longer_than_the_limits_at_the_start(case: str):
    """Neither `timeout.connect` nor any other limit runs while a person logs in, and the browser is opened once."""
    era, _, way = case.partition("-")
    server, person, events = OAuthServer(), Person(lambda: anyio.sleep(2.5)), Recorder()
    async with server.serve():
        auth = provider(server, person)
        async with client_with(server, auth, way, era=era, policy=HURRIED, on_event=events) as client:
            await client.start()
            await unsafe(client, "x")
    assert server.calls == ["x"]
    assert (server.pages, len(events.of(Connected))) == (1, 1)


@every_pair("way", list(WAYS))
async def test_a_person_may_take_longer_than_the_limits_of_a_call(way: str):
    """A call whose token was revoked waits for the person, like those behind it, and each runs once."""
    server, person = OAuthServer(), Person()
    async with server.serve(), client_with(server, provider(server, person), way, policy=HURRIED) as client:
        await started(client, server)
        person.takes = lambda: anyio.sleep(2.5)
        server.revoke()
        ran = await ten(client, "call")
        assert client.generation == 1
    assert sorted(server.calls) == sorted(ran)
    assert server.pages == 2


async def test_a_start_that_is_given_up_at_the_login_page():
    """The provider is free again: the next client logs in with it."""
    server, person = OAuthServer(), Person(anyio.sleep_forever)
    async with nothing_left():
        async with server.serve():
            auth = provider(server, person)
            async with client_with(server, auth) as client, anyio.create_task_group() as tg:
                tg.start_soon(client.start)
                await person.at_the_page.wait()
                tg.cancel_scope.cancel()
            person.takes = None
            async with client_with(server, auth) as client:
                await client.start()
                await unsafe(client, "x")
    assert server.calls == ["x"]
    assert server.pages == 2


async def test_a_call_that_is_given_up_at_the_login_page():
    """Its request is never sent; the next call opens the page again and runs."""
    server, person = OAuthServer(), Person()
    async with server.serve(), client_with(server, provider(server, person)) as client:
        await started(client, server)
        server.revoke()
        person.takes, person.at_the_page = anyio.sleep_forever, anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(unsafe, client, "given up")
            await person.at_the_page.wait()
            tg.cancel_scope.cancel()
        person.takes = None
        await unsafe(client, "x")
    assert server.calls == ["x"]
    assert server.pages == 3


async def test_a_call_that_is_given_up_leaves_the_provider_free():
    """The provider holds its lock while a call waits for its answer; the call's end frees it."""
    server, person = OAuthServer(), Person()
    async with server.serve(), client_with(server, provider(server, person)) as client:
        await started(client, server)
        server.faults = [Faults.hang(server)]
        async with anyio.create_task_group() as tg:
            tg.start_soon(unsafe, client, "given up")
            await server.received.wait()
            tg.cancel_scope.cancel()
        ran = await ten(client, "call")
        server.release.set()
    assert sorted(server.calls) == sorted([*ran, "given up"])
    assert server.pages == 1


# --- tokens that end in mid-session ---


@pytest.mark.parametrize("way", WAYS)
async def test_an_expired_token_is_refreshed(way: str, clock: Clock):
    """Ten calls after the end of the token get one new token; none is refused, fails or runs twice."""
    server, person = OAuthServer(clock), Person()
    async with server.serve(), client_with(server, provider(server, person), way) as client:
        await started(client, server)
        ran = await ten(client, "before")
        clock.ahead += 15 * MINUTE
        ran += await ten(client, "after")
        clock.ahead += 15 * MINUTE
        ran += await ten(client, "again")
        assert client.generation == 1
    assert sorted(server.calls) == sorted(ran)
    assert server.grants == {"authorization_code": 1, "refresh_token": 2}
    assert server.refused == {401: 1}  # the first request of all
    assert server.pages == 1


async def test_a_refused_refresh_leads_to_a_login(clock: Clock):
    """If the server takes back the refresh token too, a person logs in again, and each call runs once."""
    server, person = OAuthServer(clock), Person()
    async with server.serve(), client_with(server, provider(server, person)) as client:
        await started(client, server)
        clock.ahead += 15 * MINUTE
        server.revoke(refreshing=True)
        ran = await ten(client, "after")
        assert client.generation == 1
    assert sorted(server.calls) == sorted(ran)
    assert server.grants == {"authorization_code": 2}
    assert server.pages == 2


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_revoked_token_is_replaced(way: str, era: str):
    """Ten calls after a revocation get one new token from one login, and each runs once in the same session."""
    server, person = OAuthServer(), Person()
    async with server.serve(), client_with(server, provider(server, person), way, era=era) as client:
        await client.start()
        for n in range(3):
            server.revoke()
            ran = await ten(client, str(n))
            assert sorted(server.calls[-10:]) == sorted(ran)
        assert client.generation == 1
    assert len(server.calls) == 30
    assert server.pages == 4
    assert server.refused == {401: 4}


@pytest.mark.parametrize("way", WAYS)
async def test_a_wider_scope_is_asked_for(way: str):
    """After a 403 with insufficient_scope there is a login with the wider scope, and each call runs once."""
    server, person = OAuthServer(), Person()
    server.wide = {"unsafe"}
    async with server.serve(), client_with(server, provider(server, person), way) as client:
        await started(client, server)
        assert text_of(await client.call_tool("echo", {"text": "narrow"})) == "narrow"
        assert person.scopes == [{"read"}]
        ran = await ten(client, "wide")
        assert text_of(await client.call_tool("echo", {"text": "still"})) == "still"
        assert client.generation == 1
    assert sorted(server.calls) == sorted(["narrow", *ran, "still"])
    assert person.scopes == [{"read"}, {"read", "write"}]
    assert server.refused == {401: 1, 403: 1}


async def test_a_scope_that_is_not_granted():
    """If the wider scope is refused too, the call fails with what the server said, and has not run."""
    server, person = OAuthServer(), Person()
    server.wide, server.grantable = {"unsafe"}, {"read"}
    async with server.serve(), client_with(server, provider(server, person)) as client:
        await started(client, server)
        with pytest.raises(ServerFailed, match=r"HTTP 403.*credentials") as caught:
            await client.call_tool("unsafe", {"text": "x"})
        assert not caught.value.may_have_run
        assert text_of(await client.call_tool("echo", {"text": "narrow"})) == "narrow"
    assert server.calls == ["narrow"]
    assert server.pages == 2


# --- new sessions ---


@pytest.mark.parametrize("way", WAYS)
async def test_a_new_session_needs_no_login(way: str):
    """The tokens belong to the provider: neither a lost session nor a restart of the client asks a person again."""
    server, person, events = OAuthServer(), Person(), Recorder()
    async with server.serve(), client_with(server, provider(server, person), way, on_event=events) as client:
        await client.start()
        ran = await ten(client, "first")
        server.forget_sessions()
        ran += await ten(client, "second")
        await client.restart()
        ran += await ten(client, "third")
        assert len(events.of(Connected)) == 3
    assert sorted(server.calls) == sorted(ran)
    assert server.pages == 1
    assert server.refused == {401: 1}
    assert len({headers["authorization"] for headers in server.admitted}) == 1


async def test_a_token_and_a_session_that_are_lost_together():
    """A login and a new session follow, once each, and every call runs once."""
    server, person, events = OAuthServer(), Person(), Recorder()
    async with server.serve(), client_with(server, provider(server, person), on_event=events) as client:
        await started(client, server)
        server.forget_sessions()
        server.revoke()
        ran = await ten(client, "call")
        assert len(events.of(Connected)) == 2
    assert sorted(server.calls) == sorted(ran)
    assert server.pages == 2


# --- without a person ---


def machine(server: OAuthServer, password: str | None = None) -> ClientCredentialsOAuthProvider:
    """The SDK's provider for a program."""
    name, secret = server.machine
    scope = {"scopes" if MAJOR == 1 else "scope": "read"}
    return ClientCredentialsOAuthProvider(
        server.url, Storage(), name, password or secret, issuer=f"{server.origin}/", **scope
    )


@pytest.mark.parametrize("way", WAYS)
async def test_client_credentials(way: str, clock: Clock):
    """A program gets its tokens itself: at the start, after one has expired, and after one was revoked."""
    server = OAuthServer(clock)
    async with server.serve(), client_with(server, machine(server), way) as client:
        await client.start(wait=False)
        ran = await ten(client, "first")
        clock.ahead += 15 * MINUTE
        ran += await ten(client, "second")
        server.revoke()
        ran += await ten(client, "third")
        assert client.generation == 1
    assert sorted(server.calls) == sorted(ran)
    assert server.grants == {"client_credentials": 3}
    assert (server.registrations, server.pages) == (0, 0)


async def test_wrong_client_credentials(caplog: pytest.LogCaptureFixture):
    """The start fails with the token endpoint's error, and neither it nor the log shows the secret."""
    server = OAuthServer()
    wrong = server.secret("wrong")
    async with server.serve(), client_with(server, machine(server, wrong)) as client:
        with caplog.at_level(logging.DEBUG), pytest.raises(ServerFailed, match=r"400.*invalid_grant") as caught:
            await client.start()
    assert_hidden(server, *told(caught.value), caplog.text)


# --- a login that fails ---


async def wrong_state() -> Any:
    return answer_of("code", "another-state")


async def closed_window() -> Any:
    raise RuntimeError("the window was closed")


def everything(form: dict[str, str]) -> tuple[int, str]:
    return 400, json.dumps({"error": "invalid_grant", "error_description": f"cannot use {form}"})


def escaped(form: dict[str, str]) -> tuple[int, str]:
    return 400, f"invalid_grant {urlencode(form)}"


FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "denied": ({"denies": True}, {}, "No authorization code received"),
    "another state": ({}, {"come_back": wrong_state}, "State parameter mismatch"),
    "the window is closed": ({}, {"come_back": closed_window}, "the window was closed"),
    "no registration": ({"registration_fault": (403, "by hand only")}, {}, "Registration failed: 403.*by hand only"),
    "a code that has expired": (
        {"token_fault": lambda _: (400, '{"error": "invalid_grant"}')},
        {},
        r"Token exchange failed \(400\).*invalid_grant",
    ),
    "a token endpoint that repeats everything": ({"token_fault": everything}, {}, r"Token exchange failed \(400\)"),
    "a token endpoint that repeats it escaped": ({"token_fault": escaped}, {}, r"Token exchange failed \(400\)"),
    "no access token": ({"grant_lacks": "access_token"}, {}, "Invalid token response"),
}


def told(error: ResilienceError) -> tuple[str, ...]:
    """All that an error says, also with its causes."""
    shown = "".join(traceback.format_exception(error))
    return str(error), repr(error), error.advice, repr(error.verdict), shown, error.to_tool_result().model_dump_json()


@pytest.mark.parametrize("case", FAILURES)
async def test_a_login_that_fails_at_the_start(case: str):
    """The start fails and says why, without a secret; the page is not opened again by itself."""
    of_server, of_person, said = FAILURES[case]
    server, person = OAuthServer(), Person()
    vars(server).update(of_server)
    vars(person).update(of_person)
    async with server.serve(), client_with(server, provider(server, person)) as client:
        with pytest.raises(ServerFailed, match=f"(?s){said}") as caught:
            await client.start()
    assert not server.requests
    assert server.pages == (0 if case == "no registration" else 1)
    assert "credentials" in str(caught.value)
    assert_hidden(server, *told(caught.value))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", [case for case in FAILURES if case != "no registration"])
async def test_a_login_that_fails_in_mid_session(case: str, way: str):
    """The call fails, says why without a secret, and has not run; the next one opens the page again, and runs."""
    of_server, of_person, said = FAILURES[case]
    server, person = OAuthServer(), Person()
    async with server.serve(), client_with(server, provider(server, person), way) as client:
        await started(client, server)
        before = dict(vars(server))
        vars(server).update(of_server)
        vars(person).update(of_person)
        server.revoke()
        with pytest.raises(ResilienceError, match=f"(?s){said}") as caught:
            await client.call_tool("unsafe", {"text": "not run"})
        assert server.pages == 2
        vars(server).update({name: before[name] for name in of_server})
        for name in of_person:
            delattr(person, name)
        await unsafe(client, "x")
        assert client.generation == 1
    assert server.calls == ["x"]
    assert server.pages == 3
    assert type(caught.value) is ServerFailed
    assert not caught.value.may_have_run
    assert_hidden(server, *told(caught.value))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", FAILURES)
async def test_the_log_of_a_login_that_fails(case: str, way: str, caplog: pytest.LogCaptureFixture):
    """Neither this library's records nor those of the SDK and the HTTP library, with tracebacks, show a secret."""
    of_server, of_person, said = FAILURES[case]
    server, person = OAuthServer(), Person()
    vars(server).update(of_server)
    vars(person).update(of_person)
    async with server.serve(), client_with(server, provider(server, person), way) as client:
        with caplog.at_level(logging.DEBUG), pytest.raises(ServerFailed):
            await client.start()
    assert re.search(said, caplog.text)
    assert "OAuth flow error" in caplog.text
    assert_hidden(server, caplog.text)


async def test_the_log_of_a_login(caplog: pytest.LogCaptureFixture):
    """At DEBUG, no record of a login, a refresh or a call shows a secret."""
    server, person = OAuthServer(), Person()
    with caplog.at_level(logging.DEBUG):
        async with server.serve(), client_with(server, provider(server, person)) as client:
            await started(client, server)
            server.revoke()
            await unsafe(client, "x")
    assert server.pages == 2
    assert_hidden(server, caplog.text)
