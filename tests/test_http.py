"""Streamable HTTP over real sockets: SDK servers that are killed and restarted, and a server with every fault."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest
import tenacity
from mcp.client import session_group

from resilient_mcp import (
    Category,
    CircuitOpen,
    Connected,
    ConnectionLost,
    DeadlineExceeded,
    Delivery,
    Failure,
    RateLimitExceeded,
    ResilienceError,
    ResilientClient,
    RetryPolicy,
    RetryScheduled,
    ServerFailed,
    ServerUnavailable,
    State,
    TimeoutPolicy,
    Verdict,
    explain,
)
from resilient_mcp._sdk.installed import MAJOR, MCPError, http
from resilient_mcp._sdk.results import is_error_result
from resilient_mcp.transports.http.client import KEEPALIVE
from resilient_mcp.verdicts.classifier import DIALECTS, ERROR_CODES

from .support import (
    LEGACY,
    QUICK,
    Faults,
    HttpServer,
    Recorder,
    ScriptedHttp,
    client_of,
    every_pair,
    free_port,
    http_server,
    listed,
    measured,
    nothing_left,
    text_of,
)

pytestmark = pytest.mark.anyio

ONCE = QUICK.model_copy(update={"retry": RetryPolicy(attempts=1)})


async def echo(client: ResilientClient, text: str, tool: str = "echo") -> None:
    assert text_of(await client.call_tool(tool, {"text": text})) == text


@pytest.mark.timeout(90)  # starts three SDK servers, one second each, ten on a busy machine
@every_pair("answers", ["sse", "json"])
async def test_twenty_callers_survive_restarts_of_the_server(tmp_path: Path, answers: str):
    """20 callers survive kills and restarts on the same port: all answered, with one re-initialization each time."""
    arguments = ["--json"] if answers == "json" else []
    events = Recorder()
    restarts = 2
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(attempt=10, ready=30, connect=10, shutdown=2)})
    async with nothing_left():
        async with http_server(*arguments, journal=tmp_path / "journal") as server:
            async with client_of(server.url, policy, on_event=events) as client:
                finished = False

                async def caller(n: int) -> None:
                    k = 0
                    while not finished:
                        await echo(client, f"{n}-{k}")
                        k += 1
                        await anyio.sleep(0.01)
                    assert k

                async with anyio.create_task_group() as tg:
                    for n in range(20):
                        tg.start_soon(caller, n)
                    for n in range(restarts):
                        await echo(client, "before")
                        server.kill()
                        server.start()
                        await events.wait_for(Connected, n + 2)
                    finished = True
            assert server.negotiations() == {"initialize": restarts + 1}
        assert len(events.of(Connected)) == restarts + 1


@pytest.mark.skipif(MAJOR == 1, reason="servers at 2026-07-28 need mcp 2.x")
async def test_a_server_without_sessions_needs_no_second_negotiation(tmp_path: Path):
    """At 2026-07-28 a restarted server has no session to lose: calls wait, and nothing is renegotiated."""
    events = Recorder()
    async with http_server(journal=tmp_path / "journal") as server:
        async with ResilientClient(server.url, policy=QUICK, on_event=events) as client:
            assert client.protocol_version == "2026-07-28"
            await echo(client, "before")
            server.kill()
            async with anyio.create_task_group() as tg:
                for n in range(20):
                    tg.start_soon(echo, client, str(n))
                await events.wait_for(RetryScheduled, transparent=True)
                server.start()
        assert server.negotiations() == {"server/discover": 1}
    assert len(events.of(Connected)) == 1


async def test_a_refused_call_waits_for_the_server(tmp_path: Path):
    """After "connection refused" nothing was sent, so even a call that must not run twice waits for the server."""
    events = Recorder()
    async with http_server(journal=tmp_path / "journal") as server:
        async with client_of(server.url, on_event=events) as client:
            server.kill()
            path = tmp_path / "file"
            async with anyio.create_task_group() as tg:
                tg.start_soon(client.call_tool, "append_once", {"path": str(path), "lives": 0})
                await events.wait_for(RetryScheduled, transparent=True)
                server.start()
    assert path.read_text() == "ran\n"


async def test_no_server_at_all_fails_within_the_limit():
    """With no server, `ServerUnavailable` is raised within `timeout.ready`: no hang and no exception group."""
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(ready=0.5)})
    async with nothing_left():
        with measured() as took, pytest.raises(ServerUnavailable, match="Connect") as caught:
            await ResilientClient(f"http://127.0.0.1:{free_port()}/mcp", policy=policy).start()
        assert took[0] < 5
        assert "is not available" in caught.value.advice


async def test_a_call_while_the_server_is_down_fails_within_the_limit():
    """When the server is gone for good, a call waits `timeout.ready`, then says that nothing was sent."""
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(ready=1.5)})
    server = HttpServer()
    server.start()
    try:
        await server.listening()
        async with client_of(server.url, policy) as client:
            await echo(client, "x")
            server.kill()
            with measured() as took, pytest.raises(ServerUnavailable, match=r"was not run.*Nothing was sent"):
                await client.call_tool("fail", {"text": "x"})
            assert took[0] < 5
            assert client.state is State.READY
    finally:
        server.kill()


async def test_forgotten_sessions_cost_nothing():
    """After a 404 with a session id a new session is made, and even a call that must not run twice is sent again."""
    server = ScriptedHttp()
    events = Recorder()
    async with server.serve(), client_of(server.url, on_event=events) as client:
        await echo(client, "1", "unsafe")
        server.forget_sessions()
        async with anyio.create_task_group() as tg:
            for n in range(20):
                tg.start_soon(echo, client, str(n), "unsafe")
        assert server.requests["initialize"] == 2
        assert sorted(server.calls) == sorted(["1", *map(str, range(20))])


async def test_a_lost_session_does_not_prove_that_other_calls_did_not_run():
    """A call in flight when another one lost the session may have run, so it is not sent again."""
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(shutdown=0.3)})
    async with server.serve(), client_of(server.url, policy) as client:
        server.faults = [Faults.hang(server)]
        async with anyio.create_task_group() as tg:

            async def under_way() -> None:
                with pytest.raises(ConnectionLost, match="may have run"):
                    await client.call_tool("unsafe", {"text": "once"})

            tg.start_soon(under_way)
            await server.received.wait()
            server.forget_sessions()
            await echo(client, "other")
        assert server.calls.count("once") == 1


async def test_a_400_about_the_session_is_a_lost_session():
    """A 400 that names the session, as server-everything sends it after a restart, starts a new session."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        text = "Bad Request: No valid session ID provided"
        server.faults = [Faults.error(400, -32000, text)]
        await echo(client, "x", "unsafe")
        assert server.requests["initialize"] == 2


async def test_a_call_whose_session_is_always_lost_ends():
    """A server that forgets every session immediately is not asked forever."""
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(ready=1)})
    async with server.serve(), client_of(server.url, policy) as client:
        server.faults = [Faults.error(404, -32600, "Session not found")] * 100
        with measured() as took, pytest.raises((ServerUnavailable, CircuitOpen)):
            await client.call_tool("unsafe")
        assert took[0] < 5
        assert server.requests["initialize"] < 20


HAPROXY = (
    b"<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>\n"
)
RETRIED = {
    "429": Faults.status(429),
    "429 with Retry-After": Faults.status(429, retry_after="0"),
    "503 of HAProxy": Faults.body(HAPROXY, "text/html", 503),
    "503 of Envoy": Faults.body(b"no healthy upstream", "text/plain", 503),
}
UNKNOWN = {
    "500": Faults.status(500),
    "502": Faults.status(502),
    "503": Faults.status(503),
    "503 with Retry-After": Faults.status(503, retry_after="0"),
    "503 with HTML": Faults.body(b"<h1>Service Unavailable</h1>", "text/html", 503),
    "503 with a JSON-RPC error": Faults.error(503, -32000, "draining"),
    "503 of HAProxy, in JSON-RPC": Faults.error(503, -32000, HAPROXY.decode()),
    "504": Faults.status(504),
    "reset": Faults.reset(),
    "closed": Faults.close(),
    "JSON cut": Faults.cut(b'{"jsonrpc":', "application/json", 500),
    "SSE cut": Faults.cut(b'event: message\ndata: {"jso', "text/event-stream", 500),
    "SSE ended": Faults.cut(b": ping\n\n", "text/event-stream", 8),
}
RUBBISH = {
    "bad JSON": Faults.body(b"{nope"),
    "HTML": Faults.body(b"<html>login</html>", "text/html"),
    "no content type": Faults.body(b"{}", ""),
    "another id": Faults.body(b'{"jsonrpc":"2.0","id":999,"result":{}}'),
    "another id in SSE": Faults.body(b'data: {"jsonrpc":"2.0","id":999,"result":{}}\n\n', "text/event-stream"),
    "a list": Faults.body(b"[]"),
    "202": Faults.status(202),
    "empty": Faults.body(b""),
    "bad SSE": Faults.cut(b"event: message\ndata: {nope\n\n", "text/event-stream", 28),
}


@pytest.mark.parametrize("fault", RETRIED)
async def test_pushed_back_calls_are_sent_again(fault: str):
    """The server refused without running the call, so any tool is retried, on the same session."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [RETRIED[fault]] * 2
        await echo(client, "x", "unsafe")
        assert server.calls == ["x"] * 3
        assert server.requests["initialize"] == 1


@pytest.mark.parametrize("fault", UNKNOWN)
async def test_a_lost_answer_is_retried_only_where_that_is_safe(fault: str):
    """A read-only tool is retried on the same session; the error of any other tool says that it may have run."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [UNKNOWN[fault]] * 2
        await echo(client, "x")
        server.faults = [UNKNOWN[fault]]
        with pytest.raises(ConnectionLost, match="may have run"):
            await client.call_tool("unsafe", {"text": "once"})
        assert server.calls == ["x"] * 3 + ["once"]
        await echo(client, "on")
        assert server.requests["initialize"] == 1


@pytest.mark.parametrize("fault", RUBBISH)
async def test_an_invalid_answer_fails_only_its_call(fault: str):
    """An invalid answer fails its call immediately, quoting what came; the session and other calls go on."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [RUBBISH[fault]]
        async with anyio.create_task_group() as tg:
            with measured() as took, pytest.raises(ConnectionLost):
                await client.call_tool("unsafe", {"text": "x"})
            tg.start_soon(echo, client, "bystander")
        assert took[0] < 3
        assert server.requests["initialize"] == 1


@pytest.mark.parametrize(
    "body", [b'{"error": {"code": 1}}', b'{"error": {"code": "x", "message": "m"}}', b'{"error": 5}']
)
async def test_a_refusal_with_a_malformed_error_fails_its_call(body: bytes):
    """A malformed JSON-RPC error is not passed on."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.body(body, status=400)]
        with measured() as took, pytest.raises(MCPError, match="HTTP 400"):
            await client.call_tool("unsafe")
        assert took[0] < 3


@pytest.mark.parametrize("status", [400, 405, 413, 418])
async def test_other_refusals_are_final(status: int):
    """A refusal that a retry cannot change reaches the caller immediately as an `MCPError`."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.status(status, b"no such thing")]
        with pytest.raises(MCPError, match=f"HTTP {status}: no such thing"):
            await client.call_tool("echo")
        assert len(server.calls) == 1


async def test_the_servers_own_error_in_a_refusal_is_kept():
    """A JSON-RPC error inside HTTP 400 arrives with its code, message and data."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.error(400, -32602, "text is too long", {"limit": 5})]
        with pytest.raises(MCPError, match="text is too long") as caught:
            await client.call_tool("echo")
        assert caught.value.error.code == -32602
        assert caught.value.error.data == {"limit": 5}


async def test_the_servers_own_error_is_raised_as_the_sdk_raises_it():
    """A -32603 is mostly a bug of the tool: after two attempts it is raised, with a note on the attempts."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.error(200, -32603, "out of order")] * 6
        with pytest.raises(MCPError, match="out of order") as caught:
            await client.call_tool("echo")
        assert len(server.calls) == 2
        assert "sent to the MCP server" in caught.value.__notes__[0]
        assert "2 times" in caught.value.__notes__[0]


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_say_so(status: int):
    """401 or 403 on a call: one attempt, and an error that names the remedy; the client stays ready."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.status(status)]
        with pytest.raises(ServerFailed, match=f"HTTP {status}.*credentials"):
            await client.call_tool("unsafe")
        assert len(server.calls) == 1
        await echo(client, "x")


async def test_refused_credentials_at_the_start_fail_immediately():
    """A 401 on the handshake is not an outage: the client is `failed` until `restart()`."""
    server = ScriptedHttp()
    async with server.serve():
        server.handshake_faults = [Faults.status(401)]
        client = ResilientClient(server.url, policy=QUICK, **LEGACY)
        with pytest.raises(ServerFailed, match="HTTP 401"):
            await client.start()


async def test_a_failed_client_works_again_after_restart():
    """The error of a failed client says what to change, and `restart()` brings it back."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.handshake_faults = [Faults.status(403)]
        server.forget_sessions()
        with pytest.raises(ServerFailed, match="HTTP 403.*restart"):
            await client.call_tool("echo", {"text": "x"})
        assert client.state is State.FAILED
        with pytest.raises(ServerFailed):
            await client.list_tools()
        await client.restart()
        await echo(client, "x")


async def test_retry_after_is_honoured():
    """The wait before the retry is that of `Retry-After`, to the second."""
    server = ScriptedHttp()
    events = Recorder()
    async with server.serve(), client_of(server.url, on_event=events) as client:
        server.faults = [Faults.status(503, retry_after="1")]
        with measured() as took:
            await echo(client, "x")
        assert took[0] >= 1
    assert events.of(RetryScheduled)[0].delay == 1


async def test_a_retry_after_beyond_the_deadline_fails_immediately():
    """A `Retry-After` beyond the deadline fails the call immediately, and the error carries the wait."""
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(total=5)})
    async with server.serve(), client_of(server.url, policy) as client:
        server.faults = [Faults.status(429, retry_after="120")]
        with measured() as took, pytest.raises(RateLimitExceeded, match="Try again in 120 s") as caught:
            await client.call_tool("echo")
        assert took[0] < 3
        assert caught.value.retry_in == 120


async def test_only_redirects_within_the_origin_are_followed():
    """As in the SDK, other redirects are not followed: the error names the target without its query."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.status(307, location="/elsewhere")]
        await echo(client, "x")
        server.faults = [Faults.status(307, location="http://other.invalid/mcp?token=s3cr3t")]
        with pytest.raises(MCPError, match=r"redirect to http://other\.invalid/mcp") as caught:
            await client.call_tool("unsafe", {"text": "y"})
        assert "s3cr3t" not in str(caught.value)
        await echo(client, "z")


async def test_a_server_that_never_answers():
    """The attempt ends at its time limit, the server gets a cancellation, and other calls go on meanwhile."""
    server = ScriptedHttp()
    policy = ONCE.model_copy(update={"timeout": TimeoutPolicy(attempt=0.4)})
    async with server.serve(), client_of(server.url, policy) as client:
        server.faults = [Faults.hang(server)]
        async with anyio.create_task_group() as tg:

            async def bystander() -> None:
                await server.received.wait()
                await echo(client, "bystander")

            tg.start_soon(bystander)
            with measured() as took, pytest.raises(DeadlineExceeded, match="may have run"):
                await client.call_tool("unsafe", {"text": "x"})
        assert took[0] < 3
        with anyio.fail_after(3):
            await server.seen_cancel.wait()
        await echo(client, "after")


async def test_a_call_cancelled_by_its_caller_is_cancelled_on_the_server():
    """The call is not retried, the server is notified, and the session goes on."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.hang(server)]
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.call_tool, "echo", {"text": "x"})
            await server.received.wait()
            tg.cancel_scope.cancel()
        with anyio.fail_after(3):
            await server.seen_cancel.wait()
        assert server.calls == ["x"]
        await echo(client, "after")


async def test_a_lost_initialized_notification_is_noticed():
    """When the last step of a handshake is refused, the handshake is repeated before any call notices."""
    server = ScriptedHttp()
    server.initialized_faults = [Faults.status(503)]
    events = Recorder()
    async with server.serve(), client_of(server.url, on_event=events) as client:
        await events.wait_for(Connected, 2)
        await echo(client, "x")


async def test_a_body_over_the_bound_is_not_read():
    """A body over `max_message_bytes`, announced or not, fails its call, and memory stays bounded."""
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"max_message_bytes": 10_000})
    async with server.serve(), client_of(server.url, policy) as client:
        big = json.dumps({"jsonrpc": "2.0", "id": 2, "result": {"x": "y" * 50_000}}).encode()
        server.faults = [Faults.body(big)]
        with pytest.raises(ConnectionLost, match="over the limit of 10000"):
            await client.call_tool("unsafe")
        server.faults = [Faults.cut(b"data: " + b"y" * 50_000, "text/event-stream", 10**9)]
        with pytest.raises(ConnectionLost, match="over the limit of 10000"):
            await client.call_tool("unsafe")
        await echo(client, "x")


async def test_answers_as_events():
    """Answers that come as server-sent events reach their callers."""
    server = ScriptedHttp(sse=True)
    async with server.serve(), client_of(server.url) as client:
        await echo(client, "x")
        server.faults = [Faults.reset()]
        await echo(client, "y")


async def test_events_with_ids_are_left_to_the_sdk_to_resume():
    """The SDK resumes an answer whose events had ids; a refused resumption fails the call."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.cut(b"id: 1\nretry: 10\ndata: \n\n", "text/event-stream", 999)]
        with measured() as took, pytest.raises(ConnectionLost):
            await client.call_tool("unsafe", {"text": "x"})
        assert took[0] < 5
        assert server.requests["GET"] >= 2
        await echo(client, "y")


async def test_a_users_client_is_used_and_left_open():
    """Headers, hooks and auth of a user's HTTP client apply, and the client is left for its owner to close."""
    server = ScriptedHttp()
    async with http.AsyncClient(headers={"x-mine": "yes"}, auth=http.BasicAuth("me", "pw")) as mine, server.serve():
        async with client_of(server.url, http_client=mine) as client:
            await echo(client, "x")
        assert not mine.is_closed
        assert all(headers["x-mine"] == "yes" for headers in server.headers)
        assert all(headers["authorization"].startswith("Basic ") for headers in server.headers)


async def test_an_auth_flow_sees_the_401_first():
    """The auth flow comes first, so a token that is refreshed on a 401 fails no call."""
    server = ScriptedHttp()

    class Refreshing(http.Auth):
        token = "old"

        def auth_flow(self, request: Any) -> Any:
            request.headers["authorization"] = self.token
            response = yield request
            if response.status_code == 401:
                self.token = "new"
                request.headers["authorization"] = self.token
                yield request

    async with http.AsyncClient(auth=Refreshing()) as mine, server.serve():
        async with client_of(server.url, http_client=mine) as client:
            server.faults = [Faults.status(401)]
            await echo(client, "x", "unsafe")
            assert server.headers[-1]["authorization"] == "new"


async def test_a_users_hook_that_raises_fails_one_call():
    """An exception in an event hook fails its call and nothing else."""
    server = ScriptedHttp()
    fail = False

    async def hook(_response: Any) -> None:
        if fail:
            raise ZeroDivisionError("in a hook")

    async with http.AsyncClient(event_hooks={"response": [hook]}) as mine, server.serve():
        async with client_of(server.url, http_client=mine) as client:
            await echo(client, "x")
            fail = True
            with pytest.raises(ConnectionLost, match="ZeroDivisionError: in a hook"):
                await client.call_tool("unsafe")
            fail = False
            await echo(client, "y")


async def test_parameters_with_headers():
    """`StreamableHttpParameters` work as the SDK defines them."""
    server = ScriptedHttp()
    async with server.serve():
        parameters = session_group.StreamableHttpParameters(url=server.url, headers={"x-key": "k"})
        async with client_of(parameters) as client:
            await echo(client, "x")
        assert {headers.get("x-key") for headers in server.headers} == {"k"}
        assert server.requests["DELETE"] == 1


async def test_closing_is_bounded_when_the_server_is_frozen():
    """Closing is bounded when the server accepts the `DELETE` and never answers."""
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(shutdown=0.4)})
    async with server.serve():
        client = ResilientClient(server.url, policy=policy, **LEGACY)
        await client.start()
        server.farewell_faults = [Faults.hang(server)]
        with measured() as took:
            await client.aclose()
        assert took[0] < 3
        assert server.requests["DELETE"] == 1


async def test_the_older_sse_transport():
    """Calls over HTTP+SSE (2024-11-05) to an SDK server work before and after a kill."""
    server = HttpServer(transport="sse")
    server.start()
    try:
        await server.listening()
        parameters = session_group.SseServerParameters(url=server.url.replace("/mcp", "/sse"))
        events = Recorder()
        async with client_of(parameters, on_event=events) as client:
            await echo(client, "x")
            server.kill()
            server.start()
            await events.wait_for(Connected, 2)
            await echo(client, "y")
    finally:
        server.kill()


@pytest.mark.skipif(MAJOR == 1, reason="mcp 1.x has one era")
@pytest.mark.parametrize("fault", ["503", "401", "HTML", "reset"])
async def test_an_outage_does_not_decide_the_era(fault: str):
    """A `server/discover` that meets an outage is repeated; the SDK's silent downgrade does not happen."""
    faults = {
        "503": Faults.status(503),
        "401": Faults.status(401),
        "HTML": Faults.body(b"<h1>Down</h1>", "text/html"),
        "reset": Faults.reset(),
    }
    server = ScriptedHttp()
    async with server.serve():
        server.handshake_faults = [faults[fault]]
        client = ResilientClient(server.url, policy=QUICK)
        try:
            if fault == "401":
                with pytest.raises(ServerFailed):
                    await client.start()
            else:
                await client.start()
                assert server.requests["server/discover"] == 2
            assert server.requests["initialize"] <= 1
        finally:
            await client.aclose()


# --- the server's own codes, over the wire ---

SERVER_CODES = [
    (dialect, code, meaning)
    for dialect, codes in {None: ERROR_CODES, **DIALECTS}.items()
    for entry, meaning in codes.items()
    for code in ([entry] if isinstance(entry, int) else [entry[0], entry[-1]])
]


@pytest.mark.parametrize(("dialect", "code", "meaning"), SERVER_CODES, ids=[f"{d} {c}" for d, c, _ in SERVER_CODES])
async def test_every_code_of_every_dialect(dialect: Any, code: int, meaning: str):
    """A server's error code is retried where that can help, and otherwise raised immediately as by the SDK."""
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"dialect": dialect})
    async with server.serve(), client_of(server.url, policy) as client:
        fault = Faults.error(200, code, "its own words", {"any": ["data", None]})
        server.faults = [fault]
        if meaning in ("transient", "throttled", "timeout"):
            await echo(client, "x")
            assert server.calls == ["x", "x"]
        else:
            with pytest.raises((MCPError, ServerFailed), match="its own words"):
                await client.call_tool("echo", {"text": "x"})
            assert server.calls == ["x"]
        server.faults = [fault]
        if meaning == "throttled":
            await echo(client, "y", "unsafe")
        else:
            with pytest.raises(MCPError):
                await client.call_tool("unsafe", {"text": "y"})
            assert server.calls.count("y") == 1


@pytest.mark.parametrize("text", ["Connection closed", "Request 'tools/call' timed out", "Session terminated"])
@pytest.mark.parametrize("code", [-32000, -32001, 408, -32600, 32600])
async def test_a_servers_error_is_never_taken_for_a_local_one(code: int, text: str):
    """A server that sends an error which the SDK makes up locally fails its own call, not the session."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, ONCE) as client:
        server.faults = [Faults.error(200, code, text)]
        with pytest.raises(MCPError) as caught:
            await client.call_tool("unsafe")
        assert not isinstance(caught.value, ResilienceError)
        assert caught.value.error.code == code
        await echo(client, "x")
        assert server.requests["initialize"] == 1


@pytest.mark.parametrize("code", ['"x"', "null", "true", "[1]", "1e400", '{"a": 1}'])
async def test_an_error_code_that_is_not_an_integer(code: str):
    """A malformed error fails its call immediately."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, ONCE) as client:
        await echo(client, "x")
        for kind in ("application/json", "text/event-stream"):

            async def fault(stream: Any, request_id: Any, kind: str = kind) -> bool:
                body = f'{{"jsonrpc":"2.0","id":{request_id},"error":{{"code":{code},"message":"m"}}}}'
                data = body if kind == "application/json" else f"data: {body}\n\n"
                return await Faults.body(data.encode(), kind)(stream, request_id)

            server.faults = [fault]
            with measured() as took, pytest.raises(ConnectionLost, match="JSON-RPC"):
                await client.call_tool("unsafe")
            assert took[0] < 3
        await echo(client, "y")


async def test_a_message_of_ten_megabytes_and_data_of_any_shape():
    """Both arrive with the error, and this library's own texts stay short."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.error(200, -32602, "\x1b[31m" + "x" * 10_000_000, [{"deep": [[[1]]]}])]
        with pytest.raises(MCPError) as caught:
            await client.call_tool("unsafe")
        assert caught.value.error.data == [{"deep": [[[1]]]}]
        assert len(str(explain(caught.value))) < 1000


# --- isError results ---


def is_error(text: str) -> Any:
    async def fault(stream: Any, request_id: Any) -> bool:
        result = {"content": [{"type": "text", "text": text}], "isError": True}
        body = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()
        return await Faults.body(body)(stream, request_id)

    return fault


async def test_a_transient_tool_error_is_retried_for_repeatable_tools():
    """A repeatable tool is retried until it succeeds; one that must not run twice returns its error immediately."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        await listed(client)
        server.faults = [is_error("upstream timed out")] * 2
        await echo(client, "x")
        assert server.calls == ["x"] * 3
        server.faults = [is_error("upstream timed out")]
        assert is_error_result(await client.call_tool("unsafe"))
        assert len(server.calls) == 4


async def test_the_last_tool_error_is_returned_and_never_raised():
    """When the attempts are spent, or a retry cannot help, the `isError` result is returned unchanged."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        await listed(client)
        server.faults = [is_error(f"temporarily unavailable {n}") for n in range(6)]
        assert text_of(await client.call_tool("echo")) == "temporarily unavailable 5"
        assert len(server.calls) == 6
        server.faults = [is_error("no such city")]
        assert text_of(await client.call_tool("echo")) == "no such city"
        server.faults = [is_error("rate limit: try again in 2 hours")]
        with measured() as took:
            assert "2 hours" in text_of(await client.call_tool("echo"))
        assert took[0] < 3
        assert len(server.calls) == 8


async def test_a_tool_error_that_names_a_wait():
    """The wait that a tool error names is taken if it fits the deadline."""
    server = ScriptedHttp()
    events = Recorder()
    async with server.serve(), client_of(server.url, on_event=events) as client:
        await listed(client)
        server.faults = [is_error('{"retryAfter": 0.2}')]
        await echo(client, "x")
    assert [event.delay for event in events.of(RetryScheduled)] == [0.2]


# --- custom policies ---


async def test_tenacity_wait_and_stop():
    """A user's `wait` and `stop` replace back-off and attempts; `Retry-After` still takes precedence."""
    server = ScriptedHttp()
    events = Recorder()
    retry = RetryPolicy(wait=tenacity.wait_fixed(0.03), stop=tenacity.stop_after_attempt(2))
    policy = QUICK.model_copy(update={"retry": retry})
    async with server.serve(), client_of(server.url, policy, on_event=events) as client:
        server.faults = [Faults.status(503, retry_after="0"), Faults.status(503)]
        with pytest.raises(ConnectionLost, match=r"sent 2 times.*safe to repeat"):
            await client.call_tool("echo")
        server.faults = [Faults.status(503)]
        await echo(client, "x")
    assert [event.delay for event in events.of(RetryScheduled)] == [0, 0.03]


async def test_an_operation_id_tells_a_retry_from_a_new_call():
    """The id is the same for all attempts of a call; the attempt's number is sent, and the caller's meta is kept."""
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"send_operation_id": True})
    async with server.serve(), client_of(server.url, policy) as client:
        server.faults = [Faults.status(503)]
        await client.call_tool("echo", {"text": "x"}, meta={"mine.example/key": 1})
        await client.call_tool("echo", {"text": "y"})
    first, again, other = server.metas
    assert first["mine.example/key"] == again["mine.example/key"] == 1
    assert first["resilient-mcp/operation-id"] == again["resilient-mcp/operation-id"]
    assert first["resilient-mcp/operation-id"] != other["resilient-mcp/operation-id"]
    assert [meta["resilient-mcp/attempt"] for meta in server.metas] == [1, 2, 1]


async def test_a_users_own_classifier():
    """A user's classifier sees each failure first, and its verdict is final."""
    server = ScriptedHttp()

    def own(failure: Failure) -> Verdict | None:
        if failure.evidence is not None and failure.evidence.http_status == 418:
            return Verdict(Category.TRANSIENT, retryable=True, delivery=Delivery.REJECTED, reason="a teapot")
        return None

    async with server.serve(), client_of(server.url, classifier=own) as client:
        server.faults = [Faults.status(418)]
        await echo(client, "x", "unsafe")
        server.faults = [Faults.status(400)]
        with pytest.raises(MCPError):
            await client.call_tool("unsafe")


async def test_a_call_that_ends_while_it_connects_was_not_sent():
    """When the time limit strikes during the connect, the error says that nothing was sent."""
    server = ScriptedHttp()
    policy = ONCE.model_copy(update={"timeout": TimeoutPolicy(attempt=0.3)})

    class Slow(http.AsyncHTTPTransport):
        connecting = False

        async def handle_async_request(self, request: Any) -> Any:
            if self.connecting:
                await request.extensions["trace"]("connection.connect_tcp.started", {})
                await anyio.sleep_forever()
            return await super().handle_async_request(request)

    slow = Slow()
    async with http.AsyncClient(transport=slow) as mine, server.serve():
        async with client_of(server.url, policy, http_client=mine) as client:
            await echo(client, "x")
            slow.connecting = True
            with pytest.raises(DeadlineExceeded, match="before it was run"):
                await client.call_tool("unsafe", {"text": "y"})
            slow.connecting = False
            await echo(client, "z")
    assert server.calls == ["x", "z"]


async def audited(request_or_response: Any) -> None:
    """A user's hook that reports to a collector, which is down."""
    request = getattr(request_or_response, "request", request_or_response)
    if request.method == "POST" and b"tools/call" in request.content:
        async with http.AsyncClient() as other:
            await other.post(f"http://127.0.0.1:{free_port()}/collect")


@pytest.mark.parametrize("hook", ["request", "response"])
async def test_a_hook_that_cannot_connect_proves_nothing_about_the_call(hook: str):
    """A hook's `ConnectError` after the answer means that the call may have run; before it, nothing was sent."""
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(ready=0.5)})
    server = ScriptedHttp()
    async with server.serve(), http.AsyncClient(event_hooks={hook: [audited]}) as mine:
        async with client_of(server.url, policy, http_client=mine) as client:
            with pytest.raises(ResilienceError) as caught:
                await client.call_tool("unsafe", {"text": "once"})
            if hook == "response":
                assert server.calls == ["once"]
                assert isinstance(caught.value, ConnectionLost)
            else:
                assert server.calls == []
                assert isinstance(caught.value, ServerUnavailable)
            assert caught.value.may_have_run is (hook == "response")


@pytest.mark.parametrize("when", ["before", "after", "instead"])
async def test_a_users_transport_proves_only_what_the_trace_shows(when: str):
    """Its `ConnectError` is proof only if the library's trace saw a connect begin and nothing written."""
    server = ScriptedHttp()
    elsewhere = f"http://127.0.0.1:{free_port()}/"

    class Own(http.AsyncHTTPTransport):
        broken = False

        async def handle_async_request(self, request: Any) -> Any:
            if not self.broken or request.method != "POST":
                return await super().handle_async_request(request)
            if when == "before":  # the HTTP library's own connect, refused
                request.url = http.URL(elsewhere)
                return await super().handle_async_request(request)
            if when == "after":
                await super().handle_async_request(request)
            raise http.ConnectError("the collector is down")

    own = Own()
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(ready=0.5)})
    async with server.serve(), http.AsyncClient(transport=own) as mine:
        async with client_of(server.url, policy, http_client=mine) as client:
            await listed(client)
            own.broken = True
            with pytest.raises(ResilienceError) as caught:
                await client.call_tool("unsafe", {"text": "once"})
            assert caught.value.may_have_run is (when != "before")
            assert server.calls == (["once"] if when == "after" else [])
            own.broken = False


async def test_a_client_with_its_own_send_proves_nothing():
    """A subclass that overrides `send` may have sent the content elsewhere before it fails to connect."""
    server = ScriptedHttp()

    class Other(http.AsyncClient):
        broken = False

        async def send(self, request: Any, **options: Any) -> Any:
            if self.broken and request.method == "POST":
                async with http.AsyncClient() as another:
                    await another.post(request.url, content=request.content, headers=request.headers)
                raise http.ConnectError("lost on the way back", request=request)
            return await super().send(request, **options)

    async with server.serve(), Other() as mine, client_of(server.url, http_client=mine) as client:
        await listed(client)
        mine.broken = True
        with pytest.raises(ConnectionLost):
            await client.call_tool("unsafe", {"text": "once"})
        assert server.calls == ["once"]
        mine.broken = False


async def test_an_auth_flow_that_sends_twice_proves_nothing():
    """The first request was answered and the second could not connect, so the call may have run."""
    server = ScriptedHttp()
    elsewhere = http.URL(f"http://127.0.0.1:{free_port()}/")

    class Twice(http.Auth):
        on = False

        def auth_flow(self, request: Any) -> Any:
            yield request
            if self.on and request.method == "POST":
                request.url = elsewhere
                yield request

    auth = Twice()
    async with server.serve(), http.AsyncClient(auth=auth) as mine:
        async with client_of(server.url, http_client=mine) as client:
            await listed(client)
            auth.on = True
            with pytest.raises(ConnectionLost):
                await client.call_tool("unsafe", {"text": "once"})
            assert server.calls == ["once"]
            auth.on = False


@pytest.mark.parametrize("when", ["before", "after a 401", "after the answer", "after a copy was answered"])
async def test_an_auth_flow_whose_own_server_is_away(when: str):
    """That is an outage, not a refusal; and once the request, or a copy of it, was answered, the call may have run."""
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(ready=0.5)})

    class Away(http.Auth):
        on = False

        async def async_auth_flow(self, request: Any) -> Any:
            if self.on and request.method == "POST" and b"unsafe" in request.content:
                if when == "after a copy was answered":
                    yield http.Request("POST", request.url, headers=request.headers, content=request.content)
                elif when != "before":
                    yield request
                raise http.ConnectError("the vault is away")
            yield request

    auth = Away()
    async with server.serve(), client_of(server.url, policy, auth=auth) as client:
        await listed(client)
        auth.on = True
        server.faults = [Faults.status(401)] * 100 if when == "after a 401" else []
        with pytest.raises(ResilienceError, match="the vault is away") as caught:
            await client.call_tool("unsafe", {"text": "once"})
        assert not isinstance(caught.value, ServerFailed)
        assert caught.value.may_have_run is when.endswith("answer") or when.endswith("answered")
        assert caught.value.may_have_run is (server.calls == ["once"] and when != "after a 401")
        auth.on = False
        server.faults = []
        await client.call_tool("unsafe", {"text": "on"})


async def test_sockets_use_tcp_keepalive():
    """Keep-alive is on, or a stream on which only the server sends would hang after a silent disconnect."""
    async with ScriptedHttp().serve() as server, client_of(server.url) as client:
        ping = {"jsonrpc": "2.0", "id": 99, "method": "ping"}
        async with client._connector.server.client.stream("POST", server.url, json=ping) as response:
            sock = response.extensions["network_stream"].get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert [sock.getsockopt(*option) for *option, _ in KEEPALIVE[1:]] == [30, 10, 3]


async def test_a_proxy_from_the_environment_is_used(monkeypatch: pytest.MonkeyPatch):
    """A request goes through the proxy in `HTTP_PROXY`."""
    async with ScriptedHttp().serve() as server:
        monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/mcp"))
        async with client_of("http://mcp.invalid/mcp") as client:
            await echo(client, "x")
        assert server.calls == ["x"]


async def test_a_failed_listing_is_retried():
    """A listing that met an outage is repeated, so the tools' annotations are known again."""
    server = ScriptedHttp()
    server.listing_faults = [Faults.status(503), Faults.reset()]
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.status(500)]
        await echo(client, "x")
        assert server.requests["tools/list"] >= 3


async def test_a_hanging_listing_does_not_lose_an_answer():
    """A listing that hangs leaves the attempt enough time to return the tool's answer."""
    async with ScriptedHttp().serve() as server:
        server.listing_faults = [Faults.hang(server), Faults.hang(server)]
        policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(attempt=2)})
        async with client_of(server.url, policy) as client:
            await echo(client, "x", tool="unsafe")
        assert server.calls == ["x"]


async def test_the_first_answers_of_a_tool_share_one_listing():
    """The SDK lists tools to validate an answer; ten answers on a new connection wait for the listing in progress."""
    async with ScriptedHttp().serve() as server:
        async with client_of(server.url) as client, anyio.create_task_group() as tg:
            for n in range(10):
                tg.start_soon(client.call_tool, "echo", {"text": str(n)})
        assert sorted(server.calls) == [str(n) for n in range(10)]
        assert server.requests["tools/list"] == 1
