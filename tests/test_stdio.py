"""The stdio edge with real processes that are killed, stopped, flood their pipes or print garbage."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import StdioServerParameters
from mcp.shared.message import SessionMessage

from resilient_mcp import (
    Connected,
    ConnectionLost,
    DeadlineExceeded,
    Disconnected,
    GarbageOnStdout,
    Policy,
    ResilienceError,
    ResilientClient,
    RestartPolicy,
    RestartScheduled,
    RetryPolicy,
    ServerFailed,
    ServerUnavailable,
    Starting,
    State,
    TimeoutPolicy,
    ToolPolicy,
)
from resilient_mcp._sdk.installed import MAJOR
from resilient_mcp._sdk.messages import message_from_json
from resilient_mcp.connection import connector, generation, supervisor
from resilient_mcp.in_flight import InFlight
from resilient_mcp.transports.process import spawn
from resilient_mcp.transports.stdio import StdioWriter

from .matrix.descriptors import take
from .support import (
    QUICK,
    ROOT,
    Recorder,
    children,
    client_of,
    gone,
    is_alive,
    measured,
    nothing_left,
    raw_server,
    sdk_server,
    text_of,
)
from .test_examples import clean_environment, marked

pytestmark = pytest.mark.anyio

SHORT = QUICK.model_copy(update={"timeout": TimeoutPolicy(attempt=0.4, ready=5, connect=5, shutdown=1)})
ONCE = QUICK.model_copy(update={"retry": RetryPolicy(attempts=1)})


async def pid_of(client: ResilientClient) -> int:
    return int(text_of(await client.call_tool("pid")))


@pytest.mark.timeout(60)  # starts eleven SDK servers, one second each, more on a busy machine
async def test_three_hundred_calls_survive_ten_kills():
    """300 echo calls to an SDK server killed ten times get 300 right answers, with ten restarts and nothing left."""
    events = Recorder()
    async with nothing_left():
        async with ResilientClient(sdk_server(), policy=QUICK, on_event=events) as client:
            for n in range(300):
                if n % 30 == 10:
                    os.kill(await pid_of(client), signal.SIGKILL)
                assert text_of(await client.call_tool("echo", {"text": str(n)})) == str(n)
        assert len(events.of(Connected)) == 11
        assert [e.evidence.exit.signal for e in events.of(Disconnected)[:10]] == [signal.SIGKILL] * 10


async def test_concurrent_calls_survive_a_kill():
    """A kill during 40 concurrent calls costs one restart and no answer."""
    events = Recorder()
    async with client_of(raw_server(), on_event=events) as client:
        pid = await pid_of(client)

        async def caller(n: int) -> None:
            for k in range(10):
                assert text_of(await client.call_tool("echo", {"text": f"{n}-{k}"})) == f"{n}-{k}"
                if n == 0 and k == 2:
                    os.kill(pid, signal.SIGKILL)

        async with anyio.create_task_group() as tg:
            for n in range(40):
                tg.start_soon(caller, n)
        assert len(events.of(Connected)) == 2


@pytest.mark.parametrize("policy", [QUICK, QUICK.model_copy(update={"trust_annotations": False})])
async def test_a_call_that_may_have_run_is_not_sent_twice(tmp_path: Path, policy: Policy):
    """A tool that appends and dies runs once: one line, and an error that says it may have run."""
    file = tmp_path / "file"
    async with client_of(sdk_server(), policy) as client:
        with pytest.raises(ConnectionLost, match="may have run") as caught:
            await client.call_tool("append_once", {"path": str(file), "lives": 9})
        assert caught.value.attempts == 1
        assert "SIGKILL" in str(caught.value)
    assert file.read_text() == "ran\n"


async def test_annotations_are_not_trusted_when_the_policy_says_so(tmp_path: Path):
    """With `trust_annotations=False` an idempotent tool is called only once too."""
    file = tmp_path / "file"
    policy = QUICK.model_copy(update={"trust_annotations": False})
    async with client_of(sdk_server(), policy) as client:
        with pytest.raises(ConnectionLost):
            await client.call_tool("append_idempotent", {"path": str(file), "lives": 9})
    assert file.read_text() == "ran\n"


@pytest.mark.parametrize(
    ("tool", "policy"),
    [
        ("append_idempotent", QUICK),
        ("append_once", QUICK.model_copy(update={"tools": {"append_*": ToolPolicy(repeatable=True)}})),
    ],
    ids=["annotated", "by policy"],
)
async def test_an_idempotent_tool_is_called_until_it_answers(tmp_path: Path, tool: str, policy: Policy):
    """The same tool, marked idempotent, is retried until it answers."""
    file = tmp_path / "file"
    async with client_of(sdk_server(), policy) as client:
        result = await client.call_tool(tool, {"path": str(file), "lives": 3})
        assert text_of(result).startswith("answered")
    assert file.read_text() == "ran\n" * 3


async def test_a_policy_can_forbid_what_annotations_allow(tmp_path: Path):
    """`repeatable=False` takes precedence over `idempotentHint`."""
    file = tmp_path / "file"
    policy = QUICK.model_copy(update={"tools": {"append_idempotent": ToolPolicy(repeatable=False)}})
    async with client_of(sdk_server(), policy) as client:
        with pytest.raises(ConnectionLost):
            await client.call_tool("append_idempotent", {"path": str(file), "lives": 9})
    assert file.read_text() == "ran\n"


async def test_attempts_are_bounded():
    """A call that kills its server every time fails after three attempts."""
    events = Recorder()
    policy = QUICK.model_copy(update={"restart": RestartPolicy(base=0.01, intensity=50)})
    async with client_of(raw_server(), policy, on_event=events) as client:
        with pytest.raises(ConnectionLost, match="sent 3 times") as caught:
            await client.call_tool("die")
        assert caught.value.attempts == 3
        assert text_of(await client.call_tool("echo", {"text": "on"})) == "on"
    assert len(events.of(Connected)) == 4


async def test_a_stopped_server_fails_only_its_call():
    """After SIGSTOP during a call it ends at its deadline, and after SIGCONT the next one works."""
    policy = SHORT.model_copy(update={"retry": RetryPolicy(attempts=1)})
    async with client_of(raw_server(), policy) as client:
        pid = await pid_of(client)
        os.kill(pid, signal.SIGSTOP)
        try:
            with measured() as took, pytest.raises(DeadlineExceeded, match="no answer within 0.4 s"):
                await client.call_tool("echo", {"text": "x"})
            assert took[0] < 3
        finally:
            os.kill(pid, signal.SIGCONT)
        back = await client.call_tool("echo", {"text": "back"}, read_timeout_seconds=8)
        assert text_of(back) == "back"
        assert await pid_of(client) == pid


async def test_a_stopped_server_can_be_restarted():
    """`restart()` replaces a process that no longer answers, and nothing of it is left."""
    async with client_of(raw_server(), SHORT) as client:
        pid = await pid_of(client)
        os.kill(pid, signal.SIGSTOP)
        await client.restart()
        await gone(pid)
        assert await pid_of(client) != pid


async def test_a_full_pipe_does_not_block_other_calls():
    """With the server stopped and the pipe full, each call ends at its own deadline; then all goes on."""
    # Only the tool has this limit: the ping that follows may wait until the process continues.
    once = ToolPolicy(attempt_timeout=0.4, retry=RetryPolicy(attempts=1))
    policy = QUICK.model_copy(update={"tools": {"unsafe": once}})
    async with client_of(raw_server(), policy) as client:
        pid = await pid_of(client)
        os.kill(pid, signal.SIGSTOP)
        outcomes: list[str] = []

        async def caller(size: int) -> None:
            with pytest.raises(DeadlineExceeded) as caught:
                await client.call_tool("unsafe", {"do": "echo", "text": "x" * size})
            outcomes.append(str(caught.value))

        with measured() as took:
            async with anyio.create_task_group() as tg:
                tg.start_soon(caller, 10_000_000)
                await anyio.wait_all_tasks_blocked()
                for _ in range(3):
                    tg.start_soon(caller, 10)
        assert took[0] < 4
        assert sum("before it was run" in outcome for outcome in outcomes) == 3  # blocked by the full pipe: never sent
        os.kill(pid, signal.SIGCONT)
        back = await client.call_tool("echo", {"text": "back"}, read_timeout_seconds=8)
        assert text_of(back) == "back"


async def test_cancelling_a_caller_leaves_the_stream_whole():
    """Cancelling a caller in the middle of a long write breaks no later call."""
    async with client_of(raw_server()) as client:
        pid = await pid_of(client)
        os.kill(pid, signal.SIGSTOP)
        with anyio.move_on_after(0.2) as scope:
            await client.call_tool("echo", {"text": "x" * 3_000_000})
        assert scope.cancelled_caught
        os.kill(pid, signal.SIGCONT)
        assert text_of(await client.call_tool("echo", {"text": "whole"})) == "whole"
        assert await pid_of(client) == pid


async def test_a_call_cancelled_as_its_answer_arrives_breaks_nothing():
    """Repeated between edge and caller: the session and the call beside it survive."""
    async with client_of(raw_server()) as client, anyio.create_task_group() as tg:
        assert text_of(await client.call_tool("echo", {"text": "first"})) == "first"
        bystanders: list[object] = []

        async def bystander() -> None:
            try:
                bystanders.append(await client.call_tool("unsafe", {"do": "no_answer"}))
            except ResilienceError as error:
                bystanders.append(error)

        tg.start_soon(bystander)
        in_flight = client._supervisor.connection.in_flight
        answered = in_flight.answered
        for _ in range(20):
            with anyio.CancelScope() as scope:
                in_flight.answered = lambda request_id, scope=scope: (answered(request_id), scope.cancel())
                await client.call_tool("echo", {"text": "given up"})
            in_flight.answered = answered
            assert text_of(await client.call_tool("echo", {"text": "next"})) == "next"
        assert client.generation == 1
        assert not bystanders
        tg.cancel_scope.cancel()


async def test_a_message_handler_that_raises_breaks_nothing():
    """Neither on a notification nor on the late answer to a cancelled call (which mcp 1.x passes to the handler)."""

    async def handler(message: object) -> None:
        raise ValueError(f"no {type(message).__name__} expected")

    async with client_of(raw_server(), message_handler=handler) as client:
        pid = await pid_of(client)
        update = {"method": "notifications/resources/updated", "params": {"uri": "raw://a"}}
        assert text_of(await client.call_tool("send", {"messages": [update], "text": "sent"})) == "sent"
        with anyio.move_on_after(0.1):
            await client.call_tool("hang", {"seconds": 0.3})
        assert await pid_of(client) == pid
        assert client.generation == 1


async def test_garbage_on_stdout_is_reported_once_and_survived():
    """Lines that are not messages cause one event, without terminal escapes, and nothing else."""
    events = Recorder()
    async with client_of(raw_server(), on_event=events) as client:
        for n in range(3):
            assert text_of(await client.call_tool("garbage", {"text": str(n), "times": 50})) == str(n)
    (event,) = events.of(GarbageOnStdout)
    assert event.sample == "Starting up..."


async def test_text_without_a_newline_before_an_answer():
    """An answer that follows text printed without a newline is found."""
    async with client_of(raw_server()) as client:
        assert text_of(await client.call_tool("prefixed", {"text": "found"})) == "found"


async def test_bytes_that_are_not_utf8_fail_only_their_call():
    """An answer that is not UTF-8 fails immediately with a clear error, and the connection goes on."""
    async with client_of(raw_server()) as client:
        pid = await pid_of(client)
        with measured() as took, pytest.raises(ConnectionLost, match="not valid UTF-8"):
            await client.call_tool("bad_utf8")
        assert took[0] < 3
        assert await pid_of(client) == pid


async def test_bytes_that_are_not_utf8_can_be_replaced():
    """With the SDK's `encoding_error_handler="replace"` the same answer is delivered."""
    server = raw_server().model_copy(update={"encoding_error_handler": "replace"})
    async with client_of(server) as client:
        assert text_of(await client.call_tool("bad_utf8")) == "caf\ufffd"


@pytest.mark.parametrize("id_first", [True, False])
async def test_a_message_over_the_bound_fails_only_its_call(id_first: bool):
    """A line over `max_message_bytes` fails immediately, wherever its id is, and the connection goes on."""
    policy = QUICK.model_copy(update={"max_message_bytes": 100_000})
    async with client_of(raw_server(), policy) as client:
        pid = await pid_of(client)
        big = await client.call_tool("big", {"size": 90_000})
        assert len(text_of(big)) == 90_000
        with pytest.raises(ConnectionLost, match="over the limit of 100000"):
            await client.call_tool("big", {"size": 1_000_000, "id_first": id_first})
        assert await pid_of(client) == pid


async def test_a_large_result():
    """20 MB in one line arrive whole."""
    async with client_of(raw_server()) as client:
        assert len(text_of(await client.call_tool("big", {"size": 20_000_000}))) == 20_000_000


async def test_an_exit_is_noticed_while_a_grandchild_holds_the_pipe():
    """The server is gone but its child keeps stdout open: the exit is noticed, and the child is killed."""
    events = Recorder()
    async with nothing_left(), client_of(raw_server(), on_event=events) as client:
        assert text_of(await client.call_tool("orphan_pipe")) == "about to die"
        assert text_of(await client.call_tool("echo", {"text": "again"})) == "again"
        assert events.of(Disconnected)[0].evidence.exit.code == 4


async def test_a_server_that_closes_stdout_is_replaced():
    """After end of stdout without an exit the process is killed, and another one serves."""
    async with client_of(raw_server()) as client:
        pid = await pid_of(client)
        with pytest.raises(ConnectionLost, match="closed its stdin or stdout"):
            await client.call_tool("unsafe", {"do": "eof"})
        await gone(pid)
        assert await pid_of(client) != pid


async def test_half_an_answer_is_not_an_answer():
    """An answer cut off by the server's exit fails its call."""
    async with client_of(raw_server()) as client:
        with pytest.raises(ConnectionLost, match="exit status 3"):
            await client.call_tool("unsafe", {"do": "partial"})


async def test_exit_status_and_stderr_are_known():
    """A crash is reported with its exit status and last lines of stderr."""
    events = Recorder()
    async with client_of(raw_server(), on_event=events) as client:
        with pytest.raises(ConnectionLost, match="exit status 7"):
            await client.call_tool("unsafe", {"do": "exit", "code": 7})
        await events.wait_for(Connected, 2)
    status = events.of(Disconnected)[0].evidence.exit
    assert status.code == 7
    assert "the disk is full" in status.stderr


async def test_a_flood_on_stderr_is_drained_and_bounded():
    """10 MB of stderr block nothing, and only the last 64 KiB are kept."""
    events = Recorder()
    async with client_of(raw_server(), on_event=events) as client:
        assert text_of(await client.call_tool("stderr", {"kilobytes": 10_000})) == "written"
        with pytest.raises(ConnectionLost):
            await client.call_tool("unsafe", {"do": "die"})
        await events.wait_for(Disconnected)
    stderr = events.of(Disconnected)[0].evidence.exit.stderr
    assert stderr.endswith("the last line\n")
    assert 60_000 < len(stderr) <= 3 * 65536


async def test_a_command_that_does_not_exist_fails_immediately():
    """There is no restart loop, and the error names the command and the remedy."""
    async with nothing_left():
        with measured() as took, pytest.raises(ServerFailed, match=r"no-such-program.*StdioServerParameters"):
            async with ResilientClient(StdioServerParameters(command="no-such-program")):
                raise AssertionError
        assert took[0] < 3


async def test_a_working_directory_that_does_not_exist_fails_immediately():
    """The error names `cwd`."""
    with pytest.raises(ServerFailed, match="no-such-folder"):
        await ResilientClient(StdioServerParameters(command=sys.executable, cwd="/no-such-folder")).start()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors")
@pytest.mark.parametrize("left", range(6))
async def test_a_start_that_runs_out_of_descriptors_leaks_none(left: int):
    """However many are left when the pipes are made, those that were opened are closed again."""
    count = len(os.listdir("/proc/self/fd"))
    give_back = take(left=left)
    try:
        with pytest.raises(OSError, match="Too many open files"):
            await spawn([sys.executable, "-c", ""], {}, None)
    finally:
        give_back()
    assert len(os.listdir("/proc/self/fd")) == count


async def test_exit_127_at_start_fails_immediately():
    """A shell wrapper's "command not found" is as final as a missing command."""
    with pytest.raises(ServerFailed, match="exit status 127"):
        await ResilientClient(raw_server("--die-at-start", "127"), policy=QUICK).start()


async def test_a_server_that_dies_at_start_says_why():
    """After a few attempts it is suspended: exit status and stderr are in the error, the secret from `env` is not."""
    policy = QUICK.model_copy(update={"restart": RestartPolicy(base=0.01, intensity=2)})
    events = Recorder()
    async with nothing_left():
        server = raw_server("--die-at-start", "3", env={"TOKEN": "s3cr3t-t0k3n"})
        client = ResilientClient(server, policy=policy, on_event=events)
        with pytest.raises(ServerUnavailable, match=r"exit status 3.*no licence found for host red") as caught:
            await client.start()
        assert caught.value.exit_status == 3
        assert caught.value.retry_in is not None
        assert 25 < caught.value.retry_in <= 30
        assert "s3cr3t" not in repr(events.events) + str(caught.value) + caught.value.stderr


async def test_a_server_that_dies_after_its_handshake_is_suspended():
    """A handshake alone proves nothing, so the restart meter suspends the server."""
    events = Recorder()
    client = ResilientClient(raw_server("--die-after-handshake"), policy=QUICK, on_event=events)
    try:
        with pytest.raises(ServerUnavailable, match="exit status 9"):
            await client.start()
            await events.wait_for(RestartScheduled, suspended=True)
            await client.send_ping()
        assert len(events.of(Connected)) <= 6
    finally:
        await client.aclose()


async def test_a_handshake_that_hangs_ends_in_time():
    """A mute server fails at `timeout.ready`, and its process is gone."""
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(connect=0.3, ready=0.8, shutdown=0.5)})
    async with nothing_left():
        with measured() as took, pytest.raises(ServerUnavailable, match="no handshake within 0.3 s"):
            await ResilientClient(raw_server("--mute"), policy=policy).start()
        assert took[0] < 5


async def test_a_protocol_version_mismatch_fails_immediately():
    """A restart cannot fix a version mismatch."""
    with pytest.raises(ServerFailed, match="1999-01-01"):
        await ResilientClient(raw_server("--old-protocol"), policy=QUICK).start()


async def test_closing_stops_a_busy_server_and_ends_its_calls():
    """`aclose` during a call fails the call and ends the process in bounded time."""
    client = ResilientClient(raw_server(), policy=QUICK)
    await client.start()
    pid = await pid_of(client)
    raised: list[ResilienceError] = []

    async def caller() -> None:
        with pytest.raises(ResilienceError) as caught:
            await client.call_tool("hang")
        raised.append(caught.value)

    with measured() as took:
        async with anyio.create_task_group() as tg:
            tg.start_soon(caller)
            await anyio.wait_all_tasks_blocked()
            await client.aclose()
    assert took[0] < 8
    assert raised
    assert not is_alive(pid)
    assert client.state is State.CLOSED
    with pytest.raises(ServerUnavailable, match="closed"):
        await client.call_tool("echo", {"text": "x"})


async def test_a_server_that_ignores_termination_is_killed():
    """A server that ignores SIGTERM and the end of stdin gets SIGKILL within `timeout.shutdown`."""
    script = "import signal,time,sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + (
        "sys.argv=['x']\nfrom tests.servers import raw_server\nraw_server.main()\nwhile True: time.sleep(1)"
    )
    server = raw_server()
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(shutdown=1)})
    async with nothing_left():
        async with client_of(server.model_copy(update={"args": ["-c", script]}), policy) as client:
            assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert not children()


# Ignores the end of its stdin and SIGTERM, as does its child.
STUBBORN = StdioServerParameters(
    command="sh", args=["-c", f"trap '' TERM; sleep 60 & {sys.executable} -m tests.servers.raw_server; wait"], cwd=ROOT
)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelling_the_tasks_that_stop_a_server_does_not_save_it():
    """`Task.cancel`, which `asyncio.run` uses at its end, ignores shields: the server is killed without waiting."""
    async with nothing_left():
        before = asyncio.all_tasks()
        client = ResilientClient(STUBBORN, policy=QUICK)
        await client.start()
        leader = os.getpgid(await pid_of(client))
        closing = asyncio.ensure_future(client.aclose())
        await anyio.sleep(0.1)
        assert is_alive(leader)
        for _ in range(3):
            for task in asyncio.all_tasks() - before - {closing}:
                task.cancel()
            await anyio.sleep(0)
        await closing
        assert not is_alive(leader)


async def test_a_fork_of_the_program_does_not_kill_the_server():
    """A fork that ends may run the cleanup that is pending in its copy of the program; the server is not its own."""
    process = await spawn(["sleep", "60"], {"PATH": os.defpath}, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a program with threads
            fork = os.fork()
        if not fork:
            process.kill()
            process.close()
            os._exit(0)
        os.waitpid(fork, 0)
        assert is_alive(process.pid)
    finally:
        process.kill()
        process.close()
    assert not is_alive(process.pid)


async def test_connection_attempts_leave_no_zombies():
    """Servers that hang in the handshake and ignore SIGTERM: each is reaped although its attempt was cancelled."""
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(connect=0.2, ready=0.2, shutdown=0.4)})
    server = StdioServerParameters(command="sh", args=["-c", "trap '' TERM; exec sleep 60"])
    async with nothing_left():
        client = ResilientClient(server, policy=policy)
        with pytest.raises(ServerUnavailable):
            await client.start()


@pytest.fixture
def no_children_reported() -> Iterator[None]:
    """Ignore SIGCHLD, as some programs do; the exit status of a child is then lost."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


async def test_a_program_that_ignores_sigchld(no_children_reported: None):
    """An exit is noticed, but no status is made up for it."""
    async with nothing_left():
        async with client_of(raw_server()) as client:
            with pytest.raises(ConnectionLost, match="exit status unknown"):
                await client.call_tool("unsafe", {"do": "exit", "code": 7})
        client = ResilientClient(raw_server("--die-at-start", "127"), policy=SHORT)
        with pytest.raises(ServerUnavailable, match="exit status unknown") as caught:
            await client.start()
        assert caught.value.exit_status is None


AGENT = """
import asyncio, sys
from resilient_mcp import ResilientClient
from tests.test_stdio import STUBBORN

async def main():
    async with ResilientClient(STUBBORN) as client:
        print("ready", flush=True)
        await asyncio.sleep(float(sys.argv[1]))

asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its processes in /proc")
@pytest.mark.parametrize(
    ("stay", "signals"), [("60", [signal.SIGKILL]), ("0", [signal.SIGINT, signal.SIGINT])], ids=["kill", "ctrl-c"]
)
def test_a_program_that_is_killed_leaves_no_server(stay: str, signals: list[signal.Signals], tmp_path: Path):
    """Neither SIGKILL nor repeated Ctrl-C while it stops its server leaves the server, or a child of that, behind."""
    command = [sys.executable, "-c", AGENT, stay]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=clean_environment(tmp_path)
    ) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        assert len(marked(tmp_path)) >= 3  # the program, its server and that server's child
        for number in signals:
            agent.send_signal(number)
            time.sleep(0.2)
        agent.wait(15)
    until = time.monotonic() + 15
    while marked(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert marked(tmp_path) == []


async def test_progress_restarts_the_time_limit():
    """Progress keeps a long call alive past `timeout.attempt`; without it the same call ends there."""
    timeout = TimeoutPolicy(attempt=0.5, ready=5, connect=10, shutdown=1)
    policy = QUICK.model_copy(update={"timeout": timeout, "retry": RetryPolicy(attempts=1)})
    seen: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with client_of(sdk_server(), policy) as client:
        result = await client.call_tool("steps", {"count": 4, "pause": 0.3}, progress_callback=on_progress)
        assert text_of(result) == "done"
        with anyio.fail_after(3):  # on mcp 2.x the last callback may run after the answer
            while len(seen) < 4:
                await anyio.sleep(0.01)
        assert sorted(seen) == [1, 2, 3, 4]
        with pytest.raises(DeadlineExceeded):
            await client.call_tool("steps", {"count": 4, "pause": 0.3})


async def test_the_total_deadline_is_not_restarted_by_progress():
    """`timeout.total` ends a call whatever its progress."""
    timeout = TimeoutPolicy(attempt=0.5, total=0.9, ready=5, connect=10, shutdown=1)
    policy = QUICK.model_copy(update={"timeout": timeout, "retry": RetryPolicy(attempts=1)})

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        return

    async with client_of(sdk_server(), policy) as client:
        with measured() as took, pytest.raises(DeadlineExceeded):
            await client.call_tool("steps", {"count": 50, "pause": 0.2}, progress_callback=on_progress)
        assert took[0] < 4


async def test_a_time_limit_per_call():
    """`read_timeout_seconds` limits one attempt, and the server gets a cancellation."""
    async with client_of(raw_server(), ONCE) as client:
        with pytest.raises(DeadlineExceeded, match="no answer within 0.2 s") as caught:
            await client.call_tool("no_answer", read_timeout_seconds=0.2)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.elapsed >= 0.2
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_a_process_that_is_slow_to_start():
    """A process that is silent for longer than the SDK waits for `server/discover` is started only once."""
    events = Recorder()
    async with ResilientClient(raw_server("--slow", "11"), on_event=events) as client:
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert (client.generation, client.protocol_version) == (1, "2025-11-25")
        assert [round(event.elapsed) for event in events.of(Starting)] == [5, 10]


@pytest.mark.skipif(MAJOR == 1, reason="mcp 1.x has one era")
async def test_a_slow_process_that_accepts_one_handshake(monkeypatch: pytest.MonkeyPatch):
    """It got both handshakes and refused the second, so the next process gets only that one."""
    monkeypatch.setattr("mcp.client.session.DISCOVER_TIMEOUT_SECONDS", 0.3)
    async with ResilientClient(raw_server("--slow", "1", "--one-handshake"), policy=QUICK) as client:
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert client.generation == 2


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale the limits of silence down: 0.6 s instead of a minute."""
    monkeypatch.setattr(generation, "_LOOK", 0.1)
    monkeypatch.setattr(generation, "_SILENCE", 0.6)
    monkeypatch.setattr(generation, "_STOPPED_SILENCE", 0.3)
    monkeypatch.setattr(supervisor, "_PING_PATIENCE", 0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports that a process is stopped")
@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_stopped_process_is_replaced(impatience: None, *, wrapped: bool):
    """The operating system reports the stop, so no time limit is awaited; the next process answers the call."""
    server = raw_server()
    if wrapped:
        line = f"{server.command} {' '.join(server.args)}; true"
        server = server.model_copy(update={"command": "sh", "args": ["-c", line]})
    async with client_of(server, QUICK) as client:
        pid = await pid_of(client)
        os.kill(pid, signal.SIGSTOP)
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        await gone(pid)


async def test_a_process_that_hangs_for_good_is_replaced(impatience: None, monkeypatch: pytest.MonkeyPatch):
    """It is replaced once any of many calls has hit its limit and a ping went unanswered, whenever they began."""
    monkeypatch.setattr(connector, "is_stopped", lambda _: False)
    async with client_of(raw_server(), QUICK) as client:
        pid = await pid_of(client)
        os.kill(pid, signal.SIGSTOP)
        async with anyio.create_task_group() as tg:

            async def call(n: int) -> None:
                await anyio.sleep(n / 10)
                assert text_of(await client.call_tool("echo", {"text": str(n)})) == str(n)

            for n in range(10):
                tg.start_soon(call, n)
            with pytest.raises(DeadlineExceeded):
                await client.call_tool("unsafe", read_timeout_seconds=0.2)
        await gone(pid)


async def test_a_slow_process_that_answers_pings_is_left_alone():
    """Calls that time out on a server that answers pings do not cause a restart."""
    policy = ONCE.model_copy(update={"timeout": TimeoutPolicy(attempt=3, ready=10, connect=10, shutdown=2)})
    async with client_of(sdk_server(), policy) as client:
        pid = await pid_of(client)
        for _ in range(4):
            with pytest.raises(DeadlineExceeded):
                await client.call_tool("sleep", {"seconds": 60}, read_timeout_seconds=0.2)
        assert await pid_of(client) == pid


async def test_a_busy_process_is_left_alone():
    """A long call keeps its process, whatever else times out meanwhile."""
    policy = ONCE.model_copy(update={"tools": {"hang": ToolPolicy(attempt_timeout=10)}})
    async with client_of(raw_server(), policy) as client:
        pid = await pid_of(client)
        async with anyio.create_task_group() as tg:

            async def slow() -> None:
                assert text_of(await client.call_tool("hang", {"seconds": 1.5})) == "awake"

            tg.start_soon(slow)
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                with pytest.raises(DeadlineExceeded):
                    await client.call_tool("no_answer", read_timeout_seconds=0.2)
        assert await pid_of(client) == pid


# --- the writer's queue ---


class FullPipe:
    """A process whose pipe takes nothing until `reads` is set."""

    def __init__(self) -> None:
        self.reads = anyio.Event()

    def send_nowait(self, _data: bytes) -> int:
        return 0

    async def send(self, _data: memoryview) -> None:
        await self.reads.wait()


def message(method: str, **params: Any) -> SessionMessage:
    return message_from_json({"jsonrpc": "2.0", "method": method, "params": params})


async def test_closing_while_a_message_is_written_ends_quietly():
    """The queue is emptied meanwhile, and the write that then succeeds does no harm."""
    pipe: Any = FullPipe()
    writer = StdioWriter(pipe, InFlight(), lambda: None)
    async with anyio.create_task_group() as tg:
        tg.start_soon(writer.flush)
        tg.start_soon(writer.send, message("notifications/x"))
        await anyio.wait_all_tasks_blocked()
        await writer.aclose()
        pipe.reads.set()
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()


async def test_the_sender_of_a_withdrawn_request_does_not_hang():
    """A request that is cancelled while it is queued was not sent, and its sender learns that."""
    pipe: Any = FullPipe()
    writer = StdioWriter(pipe, InFlight(), lambda: None)
    request = message_from_json({"jsonrpc": "2.0", "id": 7, "method": "ping"})
    ended = []

    async def send() -> None:
        with pytest.raises(anyio.BrokenResourceError):
            await writer.send(request)
        ended.append(True)

    async with anyio.create_task_group() as tg:
        tg.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        await writer.send(message("notifications/cancelled", requestId=7))
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()
    assert ended
