"""`headers=` and `auth=`: fixed, from a function for each connection and after a 401, and from a command in a file."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient_mcp import (
    Connected,
    Policy,
    ResilientClient,
    ResilientClientGroup,
    RetryPolicy,
    ServerFailed,
    ServerUnavailable,
    TimeoutPolicy,
    config,
)
from resilient_mcp._sdk.installed import http
from resilient_mcp.config import ConfigError
from resilient_mcp.transports.http.headers import checked
from resilient_mcp.transports.http.headers_command import HeadersCommand

from .support import LEGACY, QUICK, Recorder, ScriptedHttp, client_of, raw_server, reply

pytestmark = pytest.mark.anyio


class Guarded(ScriptedHttp):
    """Answers 401 to every request without the current token."""

    def __init__(self) -> None:
        super().__init__()
        self.token = "t0"
        self.refused = 0

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        if headers.get("authorization") != f"Bearer {self.token}":
            self.refused += 1
            await reply(stream, 401)
            return True
        return await super()._exchange(stream, verb, path, headers, body)


class Tokens:
    """A user's function: returns the server's current token, and counts its calls."""

    def __init__(self, server: Guarded) -> None:
        self.server = server
        self.calls = 0

    async def __call__(self) -> Mapping[str, str]:
        self.calls += 1
        await anyio.sleep(0.01)
        return {"Authorization": f"Bearer {self.server.token}"}


async def test_fixed_headers():
    """A mapping is sent with every request, in place of the client's header of that name."""
    server = ScriptedHttp()
    async with server.serve(), http.AsyncClient(headers={"x-key": "old", "x-other": "o"}) as mine:
        async with client_of(server.url, headers={"X-Key": "new"}, http_client=mine) as client:
            await client.call_tool("echo")
    assert {(headers["x-key"], headers["x-other"]) for headers in server.headers} == {("new", "o")}
    assert server.requests["DELETE"] == 1


async def test_a_function_is_called_for_each_connection():
    """Once for each session, not for each request."""
    server, events = Guarded(), Recorder()
    tokens = Tokens(server)
    async with server.serve(), client_of(server.url, headers=tokens, on_event=events) as client:
        await client.call_tool("echo")
        await client.call_tool("echo")
        assert tokens.calls == 1
        server.forget_sessions()
        await client.call_tool("echo")
        await events.wait_for(Connected, 2)
        assert tokens.calls == 2
    assert server.refused == 0


async def test_a_token_is_rotated_without_a_restart():
    """Calls that are refused together get one new token, are sent once more, and none fails or runs twice."""
    server = Guarded()
    tokens = Tokens(server)
    async with server.serve(), client_of(server.url, headers=tokens) as client:
        await client.call_tool("unsafe", {"text": "before"})
        for n in range(1, 4):
            server.token = f"t{n}"
            async with anyio.create_task_group() as tg:
                for k in range(20):
                    tg.start_soon(client.call_tool, "unsafe", {"text": f"{n}-{k}"})
        assert tokens.calls == 4
        assert client.generation == 1
    assert sorted(server.calls) == sorted(["before", *(f"{n}-{k}" for n in range(1, 4) for k in range(20))])


async def test_a_synchronous_function_and_a_final_refusal(caplog: pytest.LogCaptureFixture):
    """A function that returns the same headers again, or raises, leaves the 401 as it is."""
    server = Guarded()
    given: list[Any] = [{"authorization": "Bearer t0"}] * 2

    def headers() -> Any:
        if isinstance(given[0], Exception):
            raise given[0]
        return given.pop(0)

    async with server.serve(), client_of(server.url, headers=headers) as client:
        server.token = "t1"
        with pytest.raises(ServerFailed, match="HTTP 401"):
            await client.call_tool("unsafe")
        assert server.refused >= 1
        given[:] = [ZeroDivisionError("no token, secret=hunter2hunter2")]
        with caplog.at_level(logging.WARNING, "resilient_mcp"), pytest.raises(ServerFailed, match="HTTP 401"):
            await client.call_tool("unsafe")
        assert "the server answered 401, and headers() failed: ZeroDivisionError: no token" in caplog.text
        assert "hunter2" not in caplog.text
        given[:] = [{"authorization": "Bearer t1"}]
        await client.call_tool("unsafe")


async def test_a_function_that_fails_when_a_connection_is_made():
    """Nothing was sent, so calls wait for it as for a server that is away."""
    server = Guarded()
    tokens: list[Any] = [OSError("the vault is sealed")] * 2

    def headers() -> Any:
        if tokens:
            raise tokens.pop()
        return {"authorization": "Bearer t0"}

    async with server.serve(), client_of(server.url, headers=headers) as client:
        await client.call_tool("unsafe", {"text": "x"})
    assert server.calls == ["x"]


@pytest.mark.parametrize("returned", [None, "x", ["x"], {"x": 1}, {1: "x"}, {"a b": "x"}, {"x": "a\r\nb"}])
async def test_a_function_that_returns_something_else(returned: Any):
    """The error names the header, and never its value."""
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(ready=1, reach=1)})
    async with ScriptedHttp().serve() as server:
        client = ResilientClient(server.url, headers=lambda: returned, policy=policy)
        with pytest.raises(ServerUnavailable, match=r"headers\(\) failed: (Type|Value)Error: ") as caught:
            await client.start()
        assert "a\\r\\nb" not in str(caught.value)
        assert not server.requests


@pytest.mark.parametrize(
    ("headers", "error", "text"),
    [
        (5, TypeError, "headers is a int: pass a mapping, or a function that returns one"),
        ("x", TypeError, "headers is a str"),
        ({"x": 5}, TypeError, "the header 'x' is a int: names and values must be strings"),
        ({"x": b"5"}, TypeError, "the header 'x' is a bytes"),
        ({"": "x"}, ValueError, "the header name '' has characters"),
        ({"x:": "x"}, ValueError, "the header name 'x:' has characters"),
        ({"x": "secret\n"}, ValueError, "the value of the header 'x' has a line break"),
        ({"x": " secret"}, ValueError, "the value of the header 'x'"),
        ({"x": "secret→"}, ValueError, "the value of the header 'x'"),
    ],
)
def test_headers_that_cannot_be_sent(headers: Any, error: type[Exception], text: str):
    """They are refused when the client is made."""
    with pytest.raises(error, match=text) as caught:
        ResilientClient("https://example.com/mcp", headers=headers)
    assert "secret" not in str(caught.value)


def test_headers_that_can_be_sent():
    """Latin-1, tabs inside and empty values are allowed."""
    headers = {"X-Name": "José", "x.tab": "a\tb", "x_empty": ""}
    assert checked(headers) == headers


@pytest.mark.parametrize("option", [{"headers": {"x": "y"}}, {"auth": http.BasicAuth("me", "pw")}])
def test_options_of_http_need_an_http_server(option: dict[str, Any]):
    """With a command they have no effect, which is an error."""
    with pytest.raises(
        TypeError, match=f"{next(iter(option))}= is for Streamable HTTP servers, but the server is Stdio"
    ):
        ResilientClient(raw_server(), **option)


def test_an_auth_of_another_kind():
    """It must be of the HTTP library that the SDK uses."""
    with pytest.raises(TypeError, match=rf"auth is a builtins.tuple: mcp .* needs an {http.__name__}.Auth"):
        ResilientClient("https://example.com/mcp", auth=("me", "pw"))


async def test_auth_takes_the_place_of_the_clients():
    """It signs every request, and also the end of the session."""
    server = ScriptedHttp()
    async with server.serve(), http.AsyncClient(auth=http.BasicAuth("old", "pw")) as mine:
        for options in ({}, {"http_client": mine}):
            async with client_of(server.url, auth=http.BasicAuth("me", "pw"), **options) as client:
                await client.call_tool("echo")
    assert {headers["authorization"] for headers in server.headers} == {"Basic bWU6cHc="}


async def test_secrets_in_headers_are_not_shown():
    """A value from a mapping or a function is masked wherever the server repeats it."""
    for given in ({"x-api-key": "s3cr3t-value"}, lambda: {"x-api-key": "s3cr3t-value"}):
        server = ScriptedHttp()

        async def repeat(stream: Any, _: Any, server: ScriptedHttp = server) -> bool:
            await reply(stream, 418, server.headers[-1]["x-api-key"].encode())
            return True

        async with server.serve(), client_of(server.url, headers=given) as client:
            server.faults = [repeat]
            with pytest.raises(Exception, match="HTTP 418") as caught:
                await client.call_tool("unsafe")
            assert "s3cr3t" not in str(caught.value)


# --- headersHelper ---


def helper(tmp_path: Path, code: str) -> str:
    script = tmp_path / "helper.py"
    script.write_text(code, encoding="utf-8")
    return f'"{sys.executable}" "{script}"'


def file_of(tmp_path: Path, entry: dict[str, Any]) -> Path:
    path = tmp_path / "servers.json"
    path.write_text(json.dumps({"mcpServers": {"weather": entry}}), encoding="utf-8")
    return path


async def test_a_helper_in_a_file(tmp_path: Path):
    """It runs for each connection, knows the server, and its headers take precedence over fixed ones."""
    server = Guarded()
    code = (
        "import json, os\n"
        "print(json.dumps({'Authorization': 'Bearer ' + open(os.path.dirname(__file__) + '/token').read(),"
        " 'x-for': os.environ['CLAUDE_CODE_MCP_SERVER_NAME'] + ' ' + os.environ['CLAUDE_CODE_MCP_SERVER_URL']}))"
    )
    (tmp_path / "token").write_text("t0")
    async with server.serve():
        entry = {
            "url": server.url,
            "headers": {"x-for": "nobody", "x-fixed": "f"},
            "headersHelper": helper(tmp_path, code),
        }
        path = file_of(tmp_path, entry)
        async with ResilientClientGroup.from_config(path) as group:
            echo = (await group.list_tools()).tools[0].name
            await group.call_tool(echo, {"text": "x"})
            server.token = "t1"
            (tmp_path / "token").write_text("t1")
            await group.call_tool(echo, {"text": "y"})
    assert server.calls == ["x", "y"]
    assert {(headers["x-for"], headers["x-fixed"]) for headers in server.headers} == {(f"weather {server.url}", "f")}


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            "import sys; sys.exit('not logged in')",
            "headersHelper ended with exit status 1: not logged in",
        ),
        ("raise SystemExit(3)", "headersHelper ended with exit status 3: no error output"),
        ("print('Bearer s3cr3t')", "TypeError: headersHelper did not print a JSON object"),
        ("print('[1]')", "TypeError: headersHelper did not print a JSON object"),
        ("print('{\"x\": 5}')", "the header 'x' is a int"),
        ("pass", "TypeError: headersHelper did not print a JSON object"),
    ],
)
async def test_a_helper_that_fails(tmp_path: Path, code: str, text: str):
    """The error says what it did, but not what it printed."""
    command = HeadersCommand(helper(tmp_path, code), name="weather", url="https://example.com/mcp")
    policy = Policy(timeout=TimeoutPolicy(ready=2, reach=2), retry=RetryPolicy(base=0.01))
    client = ResilientClient("https://example.com/mcp", headers=command, policy=policy, **LEGACY)
    with pytest.raises(ServerUnavailable) as caught:
        await client.start()
    assert text in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert repr(command) == "HeadersCommand(...)"


async def test_a_helper_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is stopped at its limit."""
    monkeypatch.setattr("resilient_mcp.transports.http.headers_command._LIMIT", 0.2)
    command = HeadersCommand(helper(tmp_path, "import time; time.sleep(60)"), name="x", url="https://example.com")
    with anyio.fail_after(10), pytest.raises(RuntimeError, match=r"took longer than 0\.2 s"):
        await command()


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"command": "x", "headersHelper": "y"}, "headersHelper: has no effect with 'command': remove it"),
        ({"url": "https://a.b", "type": "sse", "headersHelper": "y"}, "headersHelper: has no effect with type 'sse'"),
        ({"url": "https://a.b", "headersHelper": ["s3cr3t"]}, "headersHelper: must be a string: put it in quotes"),
        (
            {"url": "https://a.b", "headershelper": "s3cr3t"},
            "headershelper: is not a key of a server: did you mean 'headersHelper'?",
        ),
    ],
)
def test_a_helper_that_is_a_mistake(tmp_path: Path, entry: dict[str, Any], text: str):
    """The file's error says so."""
    with pytest.raises(ConfigError) as caught:
        config.load(file_of(tmp_path, entry))
    assert text in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
