"""Gateways that lose answers: what must run once runs once, and no call that ran is reported as not run.

The servers are real SDK servers; the gateways are nginx, HAProxy and a router that fails on demand.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from resilient_mcp import (
    AttemptFailed,
    ConnectionLost,
    Delivery,
    Evidence,
    Failure,
    Policy,
    ResilientClient,
    RestartPolicy,
    RetryPolicy,
    RetryScheduled,
    TimeoutPolicy,
    ToolPolicy,
)
from resilient_mcp._sdk.installed import MAJOR
from resilient_mcp.evidence import FailureKind
from resilient_mcp.verdicts.classifier import Classifier
from resilient_mcp.verdicts.gateways import not_forwarded_by

from .middleboxes import haproxy, needs_haproxy, needs_nginx, nginx
from .servers.router import FAULTS
from .support import LEGACY, HttpServer, Recorder, every_pair, http_server, text_of

pytestmark = pytest.mark.anyio

ERAS: dict[str, dict[str, Any]] = {"legacy": LEGACY} if MAJOR == 1 else {"legacy": LEGACY, "default": {}}
ONCE, REPEATABLE = "append_once", "append_idempotent"
"""The server's tools that write a line each time they run."""
ANSWER = "answered by"
"""How their answers begin."""


def patient(**changes: Any) -> Policy:
    """A policy that retries soon and often, so that only a forbidden retry ends a call early."""
    return Policy(
        breaker=None,
        budget=None,
        retry=RetryPolicy(attempts=1000, base=0.02, throttled_base=0.02, max_delay=0.1),
        restart=RestartPolicy(base=0.01, max_delay=0.1, intensity=1000),
        timeout=TimeoutPolicy(attempt=10, ready=15, connect=5, total=15, shutdown=2),
        **changes,
    )


PATIENT = patient()


NOTHING_FORWARDED = {
    "no healthy upstream": "Envoy",
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure": "Envoy",
    "upstream connect error or disconnect/reset before headers. reset reason: overflow": "Envoy",
    "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport "
    "failure reason: delayed connect error: Connection refused": "Envoy",
    "<html><body><h1>503 Service Unavailable</h1> No server is available to handle this request. </body></html>": (
        "HAProxy"
    ),
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination": None,
    "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: overflow": None,
    "<html><body><h1>503 Service Unavailable</h1> We'll be back. </body></html>": None,
    "the tool says: no healthy upstream": None,
    "": None,
}  # fmt: skip


@pytest.mark.parametrize("body", NOTHING_FORWARDED)
def test_responses_that_prove_nothing_was_forwarded(body: str):
    """Only an exact text with a 503 is proof; a response to a request that may have been forwarded is not."""
    evidence = Evidence(FailureKind.HTTP, Delivery.UNKNOWN, "HTTP 503", 503, body=body)
    assert not_forwarded_by(evidence) == NOTHING_FORWARDED[body]
    assert not_forwarded_by(replace(evidence, http_status=502)) is None
    assert not_forwarded_by(replace(evidence, overloaded=True, http_status=500)) is None
    assert not_forwarded_by(replace(evidence, overloaded=True, own_error=True)) is None
    overloaded = replace(evidence, overloaded=True)
    assert not_forwarded_by(overloaded) == (None if "retried" in body else "Envoy")
    said = Classifier(Policy()).judge(Failure("tools/call", "t", None, evidence), now=0)
    assert said.safe is (NOTHING_FORWARDED[body] is not None)
    resending = Policy(http_statuses={503: "transient"})
    verdict = Classifier(resending).judge(Failure("tools/call", "t", None, evidence), now=0)
    assert not verdict.safe


class Case(NamedTuple):
    """The parameters of a test."""

    era: str
    name: str

    def __str__(self) -> str:
        return f"{self.era}-{self.name}"


def cases(*names: str) -> pytest.MarkDecorator:
    """Run a test with each of `names` in each era, on asyncio or on trio."""
    return every_pair("case", [Case(era, name) for name in names for era in ERAS])


class Journal:
    """Files, one per tool, in which the server writes a line each time the tool runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def call(self, client: ResilientClient, tool: str, *, lives: int = 1) -> str:
        """Call `tool` and return its text; with two `lives`, the server kills itself during the first run."""
        return text_of(await client.call_tool(tool, {"path": str(self.folder / tool), "lives": lives}))

    def runs(self, tool: str) -> int:
        """How often `tool` ran."""
        path = self.folder / tool
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    """A server for tests that do not disturb it."""
    server = HttpServer("--json")
    server.start()
    yield server
    server.kill()


@asynccontextmanager
async def router(upstream: HttpServer, fault: str, *options: str) -> AsyncIterator[HttpServer]:
    await upstream.listening()
    router = HttpServer()
    module = "tests.servers.router"
    router._command = [sys.executable, "-m", module, str(router.port), str(upstream.port), fault, *options]
    router.start()
    try:
        await router.listening()
        yield router
    finally:
        router.kill()


def assert_may_have_run(error: ConnectionLost) -> None:
    assert error.verdict is not None
    assert not error.verdict.safe
    assert "may have run" in str(error)
    assert "may have run" in error.advice
    for text in (str(error), error.advice, str(error.verdict)):
        for lie in ("not run", "nothing was run", "not sent", "nothing was sent", "rejected", "safe to repeat"):
            assert lie not in text.lower()


# --- A router that answers in place of the server, after the tool ran ------------------------------------------------


@cases(*(fault for fault in FAULTS if fault != "429"))
async def test_a_lost_answer_of_a_tool_that_must_run_once(case: Case, server: HttpServer, journal: Journal):
    """Whatever the router answers after the tool ran, the call is not retried and its error says it may have run."""
    async with router(server, case.name) as gateway:
        async with ResilientClient(gateway.url, policy=PATIENT, **ERAS[case.era]) as client:
            with pytest.raises(ConnectionLost) as lost:
                await journal.call(client, ONCE)
    assert journal.runs(ONCE) == 1
    assert lost.value.attempts == 1
    assert_may_have_run(lost.value)


@cases(*FAULTS)
async def test_a_lost_answer_of_a_repeatable_tool(case: Case, server: HttpServer, journal: Journal):
    """Whatever the router answers after the tool ran, a repeatable call is retried and answered."""
    async with router(server, case.name, "--times", "1") as gateway:
        async with ResilientClient(gateway.url, policy=PATIENT, **ERAS[case.era]) as client:
            assert ANSWER in await journal.call(client, REPEATABLE)
    assert journal.runs(REPEATABLE) == 2


@cases("429")
async def test_a_429_is_taken_for_a_refusal(case: Case, server: HttpServer, journal: Journal):
    """By default a 429 means that the call did not run, so even one that must run once is retried."""
    async with router(server, case.name, "--times", "1") as gateway:
        async with ResilientClient(gateway.url, policy=PATIENT, **ERAS[case.era]) as client:
            assert ANSWER in await journal.call(client, ONCE)
    assert journal.runs(ONCE) == 2


@cases("429")
async def test_a_429_that_proves_nothing(case: Case, server: HttpServer, journal: Journal):
    """If the policy says that a 429 proves nothing, a call that must run once is not retried after one."""
    policy = patient(http_statuses={429: "transient"})
    async with router(server, case.name) as gateway:
        async with ResilientClient(gateway.url, policy=policy, **ERAS[case.era]) as client:
            with pytest.raises(ConnectionLost) as lost:
                await journal.call(client, ONCE)
    assert journal.runs(ONCE) == 1
    assert_may_have_run(lost.value)


# --- HAProxy without a server ----------------------------------------------------------------------------------------


@needs_haproxy
@cases("haproxy")
async def test_no_server_is_available(case: Case, journal: Journal):
    """HAProxy's "no server" page proves that nothing ran: every call waits until there is a server again."""
    events, answers = Recorder(), []
    # Otherwise HAProxy may reuse an idle connection to the dead server and just close the client's: no proof.
    backend = "retries 0\noption http-server-close"
    async with http_server() as server, haproxy(server.port, backend=backend) as gateway:
        async with ResilientClient(gateway.url, policy=PATIENT, on_event=events, **ERAS[case.era]) as client:
            await client.call_tool("echo", {"text": "the handshake is over"})
            server.kill()

            async def call(tool: str) -> None:
                answers.append(await journal.call(client, tool))

            async with anyio.create_task_group() as tg:
                tg.start_soon(call, ONCE)
                tg.start_soon(call, REPEATABLE)
                for tool in (ONCE, REPEATABLE):
                    scheduled = await events.wait_for(RetryScheduled, operation=f"tools/call {tool}")
                    assert "No server is available to handle this request" in scheduled.reason
                server.start()
    assert len(answers) == 2
    assert all(ANSWER in answer for answer in answers)
    assert (journal.runs(ONCE), journal.runs(REPEATABLE)) == (1, 1)


# --- nginx that limits the rate --------------------------------------------------------------------------------------


@asynccontextmanager
async def limited(server: HttpServer) -> AsyncIterator[str]:
    """nginx that answers 503 to whatever exceeds two requests per second, after a burst of ten."""
    await server.listening()
    zone = "limit_req_zone $binary_remote_addr zone=clients:1m rate=2r/s;"
    limit = "limit_req zone=clients burst=10 nodelay; limit_req_status 503;"
    async with nginx(server.port, http=zone, location=limit) as gateway:
        yield gateway.url


@needs_nginx
@cases("nginx")
async def test_a_503_of_nginx_proves_nothing(case: Case, server: HttpServer, journal: Journal):
    """By default a call that must run once is not retried after a 503: nginx sends the same page for lost answers."""
    calls = 0
    async with limited(server) as url, ResilientClient(url, policy=PATIENT, **ERAS[case.era]) as client:
        with pytest.raises(ConnectionLost) as lost:
            while True:
                calls += 1
                await journal.call(client, ONCE)
    assert lost.value.verdict.rule == "HTTP 503"
    assert journal.runs(ONCE) == calls - 1
    assert_may_have_run(lost.value)


REFUSED: dict[int, Any] = {503: "refused"}
LIMITED: dict[str, tuple[str, dict[str, Any]]] = {
    "repeatable": (REPEATABLE, {}),
    "policy": (ONCE, {"http_statuses": REFUSED}),
    "tool-policy": (ONCE, {"tools": {ONCE: ToolPolicy(http_statuses=REFUSED)}}),
}
"""Calls that are sent again after a 503: the tool, and what its policy says of statuses."""


@needs_nginx
@cases(*LIMITED)
async def test_a_503_of_nginx_is_waited_out(case: Case, server: HttpServer, journal: Journal):
    """A call that is repeatable, or whose policy says a 503 did not run, is retried until nginx forwards it."""
    tool, changes = LIMITED[case.name]
    events, calls = Recorder(), 0
    async with limited(server) as url:
        async with ResilientClient(url, policy=patient(**changes), on_event=events, **ERAS[case.era]) as client:
            while not events.of(AttemptFailed):
                calls += 1
                await journal.call(client, tool)
    assert journal.runs(tool) == calls


# --- A server that is killed while it works --------------------------------------------------------------------------

GATEWAYS = {"nginx": nginx, "haproxy": haproxy}


@needs_nginx
@needs_haproxy
@cases(*(f"{gateway}-{tool}" for gateway in GATEWAYS for tool in (ONCE, REPEATABLE)))
async def test_a_server_is_killed_behind_a_gateway(case: Case, journal: Journal):
    """A call whose server is killed while it runs is sent to the next server only if it is repeatable."""
    gateway, _, tool = case.name.partition("-")
    # The server may die before its tools are listed, so the policy says which calls are repeatable.
    policy = patient(tools={REPEATABLE: ToolPolicy(repeatable=True)})
    events, outcome = Recorder(), []

    async def call() -> None:
        try:
            outcome.append(await journal.call(client, tool, lives=2))
        except ConnectionLost as lost:
            outcome.append(lost)

    async with http_server() as server, GATEWAYS[gateway](server.port) as middlebox:
        async with ResilientClient(middlebox.url, policy=policy, on_event=events, **ERAS[case.era]) as client:
            async with anyio.create_task_group() as tg:
                tg.start_soon(call)
                await events.wait_for(AttemptFailed)
                server.kill()
                server.start()
    if tool == ONCE:
        assert journal.runs(ONCE) == 1
        assert_may_have_run(outcome[0])
    else:
        assert journal.runs(REPEATABLE) == 2
        assert ANSWER in outcome[0]
