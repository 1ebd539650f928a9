"""`resilient-mcp wrap`: any host in any language, a server that dies, and nothing but protocol messages on stdout."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from resilient_mcp._sdk.installed import MAJOR
from resilient_mcp._sdk.requests import SetSubscribed
from resilient_mcp._sdk.session import Session

from .npm import NODE, needs_npm, program
from .support import ROOT, HttpServer, gone, in_turn, text_of
from .test_everything import use
from .test_examples import clean_environment, marked, wait_until_alone

pytestmark = pytest.mark.timeout(60)  # each test starts a command and its servers

WRAP = ("-c", "from resilient_mcp.cli import main; main()", "wrap")
RAW = (sys.executable, "-m", "tests.servers.raw_server")
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a host", "version": "1"}}


class Driver:
    """A host that sends lines of JSON to `resilient-mcp wrap`, and keeps every line that comes back."""

    def __init__(self, home: Path, *arguments: str, **env: str) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, *WRAP, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=clean_environment(home) | env,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with suppress(BrokenPipeError):
            self.stdin.close()
        self.stdout.close()
        self.process.stderr.close()
        self.process.wait()
        assert wait_until_alone(self.home) == []

    def write(self, data: bytes) -> None:
        self.stdin.write(data)
        self.stdin.flush()

    def send(self, **message: Any) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        return json.loads(self.stdout.readline())

    def ask(self, number: int, method: str, params: Any = None) -> dict[str, Any]:
        self.send(id=number, method=method, params=params)
        answer = self.receive()
        assert answer["id"] == number
        return answer

    def greet(self) -> dict[str, Any]:
        answer = self.ask(0, "initialize", HELLO)
        self.send(method="notifications/initialized")
        return answer

    def call(self, number: int, tool: str, **arguments: Any) -> str:
        answer = self.ask(number, "tools/call", {"name": tool, "arguments": arguments})
        return answer["result"]["content"][0]["text"]

    def end(self) -> tuple[int, bytes, str]:
        """Close its stdin, and return its status, the rest of its stdout, and its stderr."""
        self.stdin.close()
        rest, stderr = self.stdout.read(), self.process.stderr.read().decode()
        return self.process.wait(), rest, stderr


def test_a_session_through_a_crash(tmp_path: Path):
    """The server gets the environment, a kill is a pause that stderr reports, and closing stdin ends it."""
    with Driver(tmp_path, "--", *RAW, SOME_KEY="some value") as host:
        assert host.greet()["result"]["serverInfo"]["name"] == "raw"
        assert host.call(1, "env", text="SOME_KEY") == "some value"
        pid = int(host.call(2, "pid"))
        os.kill(pid, signal.SIGKILL)
        assert int(host.call(3, "pid")) != pid
        assert host.call(4, "garbage", text="still good") == "still good"
        status, rest, stderr = host.end()
        assert (status, rest) == (0, b"")
        assert "killed by SIGKILL" in stderr
        assert "reconnected in" in stderr
        assert "Traceback" not in stderr


def test_invalid_input_from_the_host(tmp_path: Path):
    """Not JSON, not an object, too long: each is answered with an error; a batch is split; bad notifications go."""
    with Driver(tmp_path, "--policy", '{"max_message_bytes": 2000}', "--", *RAW) as host:
        host.greet()
        host.write(b"\n  \nrubbish\n")
        assert host.receive()["error"]["code"] == -32700
        host.write(b"\xff\xfe\n" + b"[" * 1500 + b"\n")
        assert [host.receive()["error"]["code"] for _ in range(2)] == [-32700, -32700]
        host.write(b"5\n")
        assert host.receive()["error"]["code"] == -32600
        host.send(id=7, method="tools/list", params={"x": "y" * 3000})
        refused = host.receive()
        assert (refused["id"], refused["error"]["code"]) in [(7, -32600), (None, -32600)]
        host.write(b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]\n')
        assert [host.receive()["result"] for _ in range(2)] == [{}, {}]
        host.write(b'{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"\\ud83d"}}\n')
        unencodable = host.receive()["result"]
        assert unencodable["isError"]
        assert "half of a surrogate pair" in unencodable["content"][0]["text"]
        host.write(b'{"jsonrpc":"2.0","id":[1],"method":"ping"}\n')
        assert host.receive()["error"]["code"] == -32600
        host.send(method="notifications/cancelled", params={"requestId": {}})
        host.send(method="notifications/cancelled", params=[1])
        host.write(b'{"jsonrpc":"2.0","method":"notifications/x","params":{"a":%s}}\n' % (b"[" * 600 + b"]" * 600))
        host.write(b'{"jsonrpc":"2.0","method":"notifications/x","params":{"a":"\\ud800"}}\n')
        host.write(b'{"id":4}\n{}\n{"jsonrpc":"2.0","id":5,"method":"ping","params":[1]}\n')
        assert host.receive()["id"] == 5
        assert host.end()[0] == 0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its processes in /proc")
def test_a_host_that_kills_it_leaves_no_server(tmp_path: Path):
    """Hosts kill a server that takes too long to stop; the real one may ignore the end of its stdin."""
    stubborn = ("sh", "-c", f"{' '.join(RAW)}; sleep 60")
    with Driver(tmp_path, "--", *stubborn) as host:
        host.greet()
        host.process.kill()


def test_a_host_that_reads_slowly(tmp_path: Path):
    """Megabytes that exceed the pipe wait for their reader, in order."""
    with Driver(tmp_path, "--", *RAW) as host:
        host.greet()
        for number in range(1, 4):
            host.send(id=number, method="tools/call", params={"name": "big", "arguments": {"size": 3_000_000}})
        host.send(id=9, method="ping")
        answers = [host.receive() for _ in range(4)]
        assert sorted(answer["id"] for answer in answers) == [1, 2, 3, 9]
        assert [len(a["result"]["content"][0]["text"]) for a in answers if a["id"] != 9] == [3_000_000] * 3
        assert host.end()[0] == 0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_wrap_stops_its_server_on_a_signal(number: signal.Signals, tmp_path: Path):
    """Ended by Ctrl-C or SIGTERM during a call, it leaves no process and no stray output on stdout."""
    with Driver(tmp_path, "--", *RAW) as host:
        host.greet()
        pid = int(host.call(1, "pid"))
        host.send(id=2, method="tools/call", params={"name": "no_answer"})
        host.send(id=3, method="ping")
        assert host.receive()["id"] == 3
        host.process.send_signal(number)
        assert host.process.wait() == 128 + number
        assert host.stdout.read() == b""
        assert pid not in marked(tmp_path)


def test_a_server_over_http(tmp_path: Path):
    """A server reached by URL is restarted during the session, and the host notices only a pause."""
    server = HttpServer()
    server.start()
    try:
        asyncio.run(server.listening())
        with Driver(tmp_path, "--url", server.url, "--header", "X-Some: ${USER:-x}") as host:
            assert host.greet()["result"]["serverInfo"]["name"] == "test server"
            pid = host.call(1, "pid")
            server.kill()
            server.start()
            assert host.call(2, "pid") != pid
            assert host.end()[0] == 0
    finally:
        server.kill()


def test_a_server_that_freezes(tmp_path: Path):
    """The host gets advice within the policy's limit; the server is not killed, and works once it is back."""
    limits = {"retry": {"attempts": 1}, "timeout": {"attempt": 0.5, "shutdown": 1}}
    with Driver(tmp_path, "--policy", json.dumps(limits), "--", *RAW) as host:
        host.greet()
        pid = int(host.call(1, "pid"))
        os.kill(pid, signal.SIGSTOP)
        assert "timed out after 0.5 s" in host.call(2, "echo", text="hi")
        os.kill(pid, signal.SIGCONT)
        assert int(host.call(3, "pid")) == pid


def test_a_host_that_is_gone(tmp_path: Path):
    """It ends when its output is no longer read, as when its input ends."""
    with Driver(tmp_path, "--", *RAW) as host:
        host.greet()
        host.stdout.close()
        host.send(id=1, method="ping")
        assert host.process.wait() == 0


def test_input_from_a_file(tmp_path: Path):
    """A script may provide the input: the messages in a file are answered."""
    lines = [{"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}]
    (tmp_path / "in").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        command = [sys.executable, *WRAP, "--", *RAW]
        done = subprocess.run(
            command, stdin=stdin, stdout=stdout, cwd=ROOT, env=clean_environment(tmp_path), check=False
        )
    assert done.returncode == 0
    assert wait_until_alone(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "either a command after '--' or a --url"),
        (["--url", "http://x", "--", "y"], "either a command after '--' or a --url"),
        (["--url", "ftp://x"], "is not a server's URL"),
        (["--url", "http://${NOPE}"], "--url needs the environment variable 'NOPE'"),
        (["--url", "http://x", "--header", "A: ${NOPE}"], "--header 'A' needs the environment variable 'NOPE'"),
        (["--url", "http://x", "--header", "X-Key hunter2"], "--header 'X-Key' has no colon after its name: write 'Na"),
        (["--header", "A: b", "--", "y"], "has no effect with a command"),
        (
            ["--policy", '{"retri": 1}', "--", "y"],
            "--policy: Policy has no key 'retri' (value 1): did you mean 'retry'?",
        ),
        (["--policy", '{"retry": {"attempts": 0}}', "--", "y"], "--policy: retry.attempts: input should be greater"),
        (["--policy", "{", "--", "y"], "--policy: '{' is not JSON"),
        (["--policy", "5", "--", "y"], "write a JSON object"),
    ],
)
def test_wrong_usage(arguments: list[str], problem: str, tmp_path: Path):
    """Exit status 2, a reason on stderr, and nothing on stdout."""
    env = clean_environment(tmp_path) | {"COLUMNS": "200"}
    done = subprocess.run([sys.executable, *WRAP, *arguments], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert problem in " ".join(done.stderr.replace("│", " ").split())
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--", "no-such-command"],
            "No such file or directory: no-such-command. Is it installed and on PATH? Check the",
        ),
        (["--", sys.executable, "-m", "no_such_module"], "No module named no_such_module"),
        (["--url", "http://127.0.0.1:9/mcp"], "are scheme, host and port right? Check --url."),
    ],
)
def test_a_missing_server_is_explained(arguments: list[str], said: str, tmp_path: Path):
    """The host learns why and what to check: the command line of `wrap`, not Python code."""
    with Driver(tmp_path, *arguments) as host:
        error = host.ask(1, "initialize", HELLO)["error"]["message"]
        assert said in error
        assert error.endswith(
            (
                "on PATH? Check the command after 'wrap --'.",
                "Does it run in a terminal? Check the command after 'wrap --'.",
                "port right? Check --url.",
            )
        )
        assert "restart()" not in error


def test_the_servers_stderr_is_passed_on(tmp_path: Path):
    """Each line reaches the host's log once, while the server runs."""
    with Driver(tmp_path, "--", *RAW) as host:
        host.greet()
        host.call(2, "say", text="listening\n")
        _, _, stderr = host.end()
    assert stderr == "listening\n"


@needs_npm
@pytest.mark.anyio
@in_turn
async def test_server_everything_under_the_plain_sdk(everything: Path, tmp_path: Path):
    """Driven by the SDK's stdio client, the real server is killed midway, and everything works again."""
    command = [*WRAP, "--", NODE, program(everything), "stdio"]
    parameters = StdioServerParameters(command=sys.executable, args=command, env=clean_environment(tmp_path))
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        await use(SessionOfOldNames(session))
        for pid in servers(tmp_path):
            os.kill(pid, signal.SIGKILL)
            await gone(pid)
        await use(SessionOfOldNames(session))
        assert text_of(await session.call_tool("echo", {"message": "end"})) == "Echo: end"


class SessionOfOldNames:
    """The plain session of either major as `use` calls it: URIs of either kind, no deprecation warnings."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._own = Session(session, session, None)

    def __getattr__(self, name: str) -> Any:
        if name in ("set_logging_level", "send_ping"):
            return lambda *arguments: self._own.invoke(name, *arguments)
        return getattr(self._session, name)

    async def read_resource(self, uri: Any) -> Any:
        return await self._session.read_resource(uri if isinstance(uri, str) else self._kind(uri))

    async def subscribe_resource(self, uri: Any) -> None:
        await SetSubscribed(self._kind(uri), subscribed=True).perform(self._own, None)

    async def unsubscribe_resource(self, uri: Any) -> None:
        await SetSubscribed(self._kind(uri), subscribed=False).perform(self._own, None)

    @staticmethod
    def _kind(uri: Any) -> Any:
        return uri if MAJOR == 1 else str(uri)


def servers(home: Path) -> list[int]:
    """The processes of the real server below the one of `home`."""
    found = []
    for pid in marked(home):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0].endswith(b"node") and words[-2] == b"stdio" and b"wrap" not in words:
            found.append(pid)
    return found


@needs_npm
@pytest.mark.timeout(60)
def test_server_everything_under_the_typescript_sdk(everything: Path, tmp_path: Path):
    """The npm SDK's client prints the same with and without it, even after the real server was killed."""
    script = shutil.copy(ROOT / "tests/servers/host.mjs", everything)
    server = [NODE, program(everything), "stdio"]
    env = clean_environment(tmp_path)
    command = [NODE, script, *server]
    direct = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, check=True)
    expected = direct.stdout.splitlines()
    assert len(expected) > 20
    assert expected.pop() == "BETWEEN"
    command = [NODE, script, sys.executable, *WRAP, "--", *server]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True, env=env) as host:
        try:
            assert [next(host.stdout).rstrip("\n") for _ in expected] == expected
            assert next(host.stdout) == "BETWEEN\n"
            (pid,) = servers(tmp_path)
            os.kill(pid, signal.SIGKILL)
            again, _ = host.communicate("go on\n", timeout=40)
            assert again.splitlines() == expected[1:]
            assert host.returncode == 0
        finally:
            host.kill()
    deadline = time.monotonic() + 5
    while marked(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert marked(tmp_path) == []
