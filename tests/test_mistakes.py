"""A newcomer's mistakes: each ends immediately in one message that names the remedy."""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from mcp import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from resilient_mcp import (
    Disconnected,
    Policy,
    ResilientClient,
    RestartPolicy,
    ServerFailed,
    ServerUnavailable,
    State,
    StateChanged,
)
from resilient_mcp._sdk.installed import StreamableHttpParameters, http
from resilient_mcp.config import load

from .middleboxes import needs_nginx, nginx
from .npm import needs_npm
from .support import (
    LEGACY,
    Faults,
    HttpServer,
    Recorder,
    ScriptedHttp,
    every_pair,
    free_port,
    http_server,
    raw_server,
    text_of,
)
from .test_events import Records, records  # noqa: F401 - a fixture

pytestmark = pytest.mark.anyio

PATIENCE = 15
"""Seconds after which a test gives up on a mistake that should end within three."""

Place = Callable[[Path], AbstractAsyncContextManager[Any]]


def fixed(server: Any) -> Place:
    @asynccontextmanager
    async def place(_: Path) -> AsyncIterator[Any]:
        yield server

    return place


def command(program: str, *args: str, **options: Any) -> Place:
    return fixed(StdioServerParameters(command=program, args=list(args), **options))


@asynccontextmanager
async def not_executable(folder: Path) -> AsyncIterator[Any]:
    file = folder / "server.py"
    file.write_text("print('no permission to execute')")
    yield StdioServerParameters(command=str(file))


@asynccontextmanager
async def no_program(folder: Path) -> AsyncIterator[Any]:
    file = folder / "server"
    file.write_bytes(b"\0\1\2 of another machine")
    file.chmod(0o755)
    yield StdioServerParameters(command=str(file))


@asynccontextmanager
async def of_the_sdk(_: Path, *, path: str = "/mcp", headers: dict[str, str] | None = None) -> AsyncIterator[Any]:
    async with http_server() as server:
        url = f"http://127.0.0.1:{server.port}{path}"
        yield StreamableHttpParameters(url=url, headers=headers)


@asynccontextmanager
async def of_http_and_sse(_: Path) -> AsyncIterator[Any]:
    async with http_server(transport="sse") as server:
        yield f"http://127.0.0.1:{server.port}/sse"


@asynccontextmanager
async def listening(
    _: Path, *, scheme: str, said: bytes = b"", tls: Callable[[], ssl.SSLContext] | None = None
) -> AsyncIterator[Any]:
    """A port at which something other than an MCP server listens."""

    async def answer(stream: Any) -> None:
        async with stream:
            with anyio.move_on_after(5):
                await stream.receive()
                await stream.send(said)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(_serve, listener, answer, tls)
        yield f"{scheme}://127.0.0.1:{port}/mcp"
        tg.cancel_scope.cancel()


async def _serve(listener: Any, answer: Any, tls: Callable[[], ssl.SSLContext] | None) -> None:
    from anyio.streams.tls import TLSListener

    if tls is not None:
        listener = TLSListener(listener, tls(), standard_compatible=False)
        listener.handle_handshake_error = _hang_up
    await listener.serve(answer)


async def _hang_up(_: BaseException, stream: Any) -> None:
    await anyio.aclose_forcefully(stream)


def certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def undefined_name() -> Any:
    return no_such_name  # type: ignore[name-defined]  # noqa: F821


PAGE = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 14\r\n\r\n<html></html>\n"
HTTPS_ONLY = b"HTTP/1.0 400 x\r\ncontent-length: 48\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"

STARTS: Mapping[str, tuple[Place, str]] = {
    "no such command": (
        command("no-such-command"),
        r"No such file.*: no-such-command\. Is it installed and on PATH\?",
    ),
    "no such directory": (
        command("echo", cwd="/no-such-folder"),
        r"No such file.*: /no-such-folder\..*Check command.*cwd",
    ),
    "not executable": (not_executable, r"Permission denied: .*server\.py\. Can it be run from a terminal\?"),
    "not a program": (no_program, r"Exec format error: .*server\. Can it be run from a terminal\?"),
    "too much": (command(sys.executable, "x" * 3_000_000), r"Argument list too long.*Check command, args, env and cwd"),
    "no such module": (
        command(sys.executable, "-m", "no_such_module"),
        r"stderr: .*No module named no_such_module.*Check",
    ),
    "no such script": (command(sys.executable, "no_such_script.py"), r"can't open file '.*no_such_script.py'.*Check"),
    "a server that lacks a key": (
        command(sys.executable, "-c", "import os; os.environ['API_KEY']"),
        r"exit status 1; its stderr: .*KeyError: 'API_KEY'.*Check command, args, env",
    ),
    "no server but a program": (command("cat"), r"(?:Method not found|Invalid request parameters).*Check command"),
    "a program that ends": (command("echo", "hello"), r"exit status 0.*Does it run in a terminal\? Check command"),
    "wrong path": (partial(of_the_sdk, path="/wrong"), r"HTTP 404.*Is the path right\? Most servers are at /mcp\."),
    "root": (partial(of_the_sdk, path="/"), r"HTTP 404.*Is the path right\? Most servers are at /mcp\."),
    "wrong host name": (
        partial(of_the_sdk, headers={"Host": "evil.example"}),
        r"HTTP 421.*Does the server allow this host name\? SDK servers check it against allowed_hosts\.",
    ),
    "an HTTP+SSE server": (of_http_and_sse, r"HTTP 405.*speaks HTTP\+SSE \(2024-11-05\) needs SseServerParameters"),
    "a web page": (
        partial(listening, scheme="http", said=PAGE),
        r"text/html.*is an MCP server there\? Check the server's URL",
    ),
    "wrong port": (
        fixed(f"http://127.0.0.1:{free_port()}/mcp"),
        r"Is the server running, and are scheme, host and port right\?",
    ),
    "no HTTP": (
        partial(listening, scheme="http", said=b"SSH-2.0-x\r\n"),
        r"are scheme, host and port right\? Check the server's URL",
    ),
    "no such host": (
        fixed("http://no-such-host.invalid/mcp"),
        r"are scheme, host and port right\? Check the server's URL",
    ),
    "https at a port for http": (
        partial(listening, scheme="https", said=b"HTTP/1.1 400 x\r\n\r\n"),
        r"agree on http:// or https://\?",
    ),
    "http at a port for https": (
        partial(listening, scheme="http", said=HTTPS_ONLY),
        r"HTTP 400.*Should the URL start with https://\?",
    ),
    "unknown authority": (
        partial(listening, scheme="https", tls=certificate),
        r"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE",
    ),
    "a mistake in a function": (
        fixed(undefined_name),
        r"NameError: name 'no_such_name'.*Check the function that returns the transport",
    ),
    "a function that returns nothing": (
        fixed(lambda: None),
        r"(?:Type|Attribute)Error.*Check the function that returns the transport",
    ),
}


@every_pair("mistake", list(STARTS))
async def test_a_mistake_fails_the_start(mistake: str, tmp_path: Path):
    """The first `start()` fails long before the limits for an absent server, and says what to check."""
    place, said = STARTS[mistake]
    async with place(tmp_path) as server:
        client = ResilientClient(server, errlog=None)
        with anyio.fail_after(PATIENCE), pytest.raises(ServerUnavailable, match=said) as caught:
            await client.start()
    assert "Check " in str(caught.value)
    assert "next attempt" not in str(caught.value)  # there is none: the client is closed
    assert client.state is State.CLOSED
    assert client.generation <= 8


@needs_npm
async def test_a_package_that_does_not_exist():
    """The error holds npm's message with the package's name."""
    server = StdioServerParameters(command="npx", args=["-y", "@resilient-mcp/no-such-package"])
    with anyio.fail_after(PATIENCE), pytest.raises(ServerUnavailable, match=r"no-such-package"):
        await ResilientClient(server, errlog=None).start()


async def test_a_banner_on_stdout(records: Records):  # noqa: F811
    """The server works, and one warning says what it printed and where that belongs."""
    async with ResilientClient(raw_server(), **LEGACY) as client:
        for _ in range(2):
            assert text_of(await client.call_tool("garbage", {"text": "works"})) == "works"
    (warning,) = [record.getMessage() for record in records.records if record.levelname == "WARNING"]
    assert "sample=Starting up..." in warning
    assert "everything else belongs on stderr" in warning


CONSTRUCTIONS: Mapping[str, tuple[Callable[[], Any], str]] = {
    "a typo in a policy": (
        lambda: Policy.model_validate({"retry": {"attemps": 3}}),
        r"RetryPolicy has no key 'attemps' \(value 3\): did you mean 'attempts'\?",
    ),
    "a word for a number": (lambda: Policy.model_validate({"retry": {"attempts": "six"}}), "attempts"),
    "a policy that is a dict": (
        lambda: ResilientClient("https://example.com/mcp", policy={"retry": {}}),  # type: ignore[arg-type]
        r"policy must be a Policy, not a dict: write Policy\.model_validate",
    ),
    "a typo in an option": (
        lambda: ResilientClient("https://example.com/mcp", samplin_callback=None),
        r"does not take 'samplin_callback': did you mean 'sampling_callback'\?",
    ),
    "a command as text": (lambda: ResilientClient("npx -y some-server"), r"not a server's URL.*StdioServerParameters"),
    "no server": (lambda: ResilientClient(None), r"server is NoneType: pass a URL, StdioServerParameters"),
    "a URL without its scheme": (
        lambda: ResilientClient("example.com/mcp"),
        r"write one such as 'https://example.com/mcp'",
    ),
    "an empty command": (
        lambda: ResilientClient(StdioServerParameters(command=" ")),
        r"command is ' ': write the program to start",
    ),
    "a dict for a callback": (
        lambda: ResilientClient("https://example.com/mcp", message_handler={}),
        r"message_handler is {}: pass a coroutine function",
    ),
}


@pytest.mark.parametrize("mistake", CONSTRUCTIONS)
async def test_a_mistake_fails_the_construction(mistake: str):
    """Nothing is started, and the error names the value and what to write instead."""
    construct, said = CONSTRUCTIONS[mistake]
    with pytest.raises((TypeError, ValueError), match=said):
        construct()


FILES: Mapping[str, tuple[str, str]] = {
    "a typo in a key": ('{"mcpServers": {"x": {"commnad": "npx"}}}', "did you mean 'command'?"),
    "another host's key": ('{"mcpServers": {"x": {"serverUrl": "https://example.com/mcp"}}}', "did you mean 'url'?"),
    "a wrong type": ('{"mcpServers": {"x": {"command": "npx", "args": "-y"}}}', 'must be a list: write ["one", "two"]'),
    "a missing variable": (
        '{"mcpServers": {"x": {"command": "npx", "env": {"KEY": "${NO_SUCH_VARIABLE}"}}}}',
        "needs the environment variable 'NO_SUCH_VARIABLE': export it, or write ${NO_SUCH_VARIABLE:-default}",
    ),
    "a comma too few": ('{"mcpServers": {"x": {"command": "npx" "args": []}}}', "is not JSON"),
    "a typo in a policy": (
        '{"mcpServers": {"x": {"command": "npx", "resilience": {"retries": {}}}}}',
        "did you mean 'retry'?",
    ),
}


@pytest.mark.parametrize("mistake", FILES)
async def test_a_mistake_in_a_file(mistake: str, tmp_path: Path):
    """The file is rejected, and the error says which key of which server is wrong and what to write."""
    text, said = FILES[mistake]
    (tmp_path / "mcp.json").write_text(text)
    with pytest.raises(ValueError, match="mcp.json") as caught:
        load(tmp_path / "mcp.json")
    assert said in str(caught.value)


# --- outages that look like mistakes, and the reverse ---


async def test_a_server_that_worked_before_is_waited_for():
    """A gateway's 404 during a redeploy is an outage for a client that was connected before."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), ResilientClient(server.url, on_event=events, **LEGACY) as client:
        server.handshake_faults = [Faults.status(404)] * 4
        await client.restart()
        await client.call_tool("unsafe")
        assert State.FAILED not in [event.new for event in events.of(StateChanged)]


async def test_an_ambiguous_answer_is_checked_once_more():
    """A 404 that passes within a second is not a failure; one that stays fails the start, and is retried later."""
    server = ScriptedHttp()
    async with server.serve():
        server.handshake_faults = [Faults.status(404)]
        async with ResilientClient(server.url, **LEGACY) as client:
            assert client.generation == 2
        server.handshake_faults = [Faults.status(404)] * 5
        client = ResilientClient(server.url, **LEGACY)
        await client.start(wait=False)
        with anyio.fail_after(PATIENCE), pytest.raises(ServerFailed, match="next attempt is in 30 s") as caught:
            await client.call_tool("unsafe")
        assert caught.value.retry_in is not None
        assert client.generation == 2
        server.handshake_faults = []
        await client.restart()
        await client.call_tool("unsafe")
        await client.aclose()


async def test_a_server_that_appears_later():
    """`start(wait=False)` keeps trying where `start()` gives up."""
    server = HttpServer()
    client = ResilientClient(server.url, **LEGACY)
    await client.start(wait=False)
    await client.wait_attempted()
    server.start()
    try:
        await client.wait_ready(PATIENCE)
        assert text_of(await client.call_tool("echo", {"text": "here"})) == "here"
    finally:
        await client.aclose()
        server.kill()


SCATTERED = r"sessions were lost within \d+ s: are there several servers behind one address, without sticky sessions\?"


@needs_nginx
async def test_servers_behind_one_address_without_sticky_sessions():
    """Sessions that are lost again and again are diagnosed in the error and in the event."""
    async with http_server() as one, http_server() as two, nginx(one.port, two.port) as gateway:
        events, policy = Recorder(), Policy(restart=RestartPolicy(base=0.01, intensity=4))
        with anyio.fail_after(PATIENCE), pytest.raises(ServerUnavailable, match=SCATTERED):
            async with ResilientClient(gateway.url, policy=policy, on_event=events, **LEGACY) as client:
                while True:
                    await client.call_tool("echo", {"text": "x"})
    assert any(re.search(SCATTERED, event.reason) for event in events.of(Disconnected))


async def test_a_refused_login_through_a_function():
    """An OAuth flow in a user's own transport fails as over a URL: immediately, and as a credentials error."""
    server = ScriptedHttp()
    async with server.serve():
        server.handshake_faults = [Faults.status(401)] * 20
        for target in (server.url, None):
            async with http.AsyncClient(auth=_login(server.url)) as own:
                made = partial(streamable_http_client, server.url, http_client=own) if target is None else target
                client = ResilientClient(made, http_client=None if target is None else own, **LEGACY)
                with anyio.fail_after(PATIENCE), pytest.raises(ServerFailed, match="credentials") as caught:
                    await client.start()
                assert "OAuth" in str(caught.value)
                assert client.generation == 1


def _login(url: str) -> Any:
    from mcp.client.auth import OAuthClientProvider
    from mcp.shared.auth import OAuthClientMetadata
    from pydantic import AnyUrl

    class Nothing:
        async def get_tokens(self) -> None:
            return None

        async def get_client_info(self) -> None:
            return None

    metadata = OAuthClientMetadata(redirect_uris=[AnyUrl("http://127.0.0.1:9/back")], client_name="test")
    return OAuthClientProvider(server_url=url, client_metadata=metadata, storage=Nothing())  # type: ignore[arg-type]
