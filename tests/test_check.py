"""`resilient-mcp check`, `call` and `schema`: output and exit status, for people and for scripts."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resilient_mcp import config

from .npm import NODE, needs_npm, program
from .support import ROOT, HttpServer, free_port
from .test_cli import COMMAND
from .test_examples import run_alone

pytestmark = pytest.mark.timeout(60)  # each test starts a command and its servers


def entry(module: str, *arguments: str) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-m", f"tests.servers.{module}", *arguments], "cwd": str(ROOT)}


GOOD = entry("raw_server")
DYING = entry("raw_server", "--die-at-start", "3")
MUTE = entry("raw_server", "--mute")


def write(folder: Path, servers: dict[str, Any]) -> str:
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return str(path)


def reports(stdout: str) -> dict[str, Any]:
    return {report["server"]: report for report in json.loads(stdout)}


SLOW = "import sys, time; print('3 of 40 packages, with hunter2', file=sys.stderr, flush=True); time.sleep(60)"


def test_all_servers_are_well(tmp_path: Path):
    """The exit status is 0, and piped output is plain text in 80 columns."""
    done = run_alone(*COMMAND, "check", write(tmp_path, {"one": GOOD}), home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "1 of 1 servers are healthy" in done.stdout
    assert "17 tools" in done.stdout
    assert "MCP 2025-11-25" in done.stdout


def test_the_example_file_works(tmp_path: Path):
    """The shipped example file can be read, and the servers enabled in it work."""
    example = str(ROOT / "examples/mcp.json")
    done = run_alone(*COMMAND, "check", example, home=tmp_path, PYTHON=sys.executable)
    assert "1 of 1 servers are healthy" in done.stdout


def test_one_server_as_json(tmp_path: Path):
    """`--server --json` reports that server for a script, and does not start the others."""
    path = write(tmp_path, {"one": GOOD, "dying": DYING})
    done = run_alone(*COMMAND, "check", path, "--server", "one", "--json", home=tmp_path)
    assert done.returncode == 0
    (report,) = json.loads(done.stdout)
    assert (report["server"], report["ok"], report["state"], report["tools"]) == ("one", True, "ready", 17)
    assert report["start_seconds"] > 0
    assert report["latency_seconds"] > 0
    assert report["error"] is None


@pytest.mark.timeout(60)
def test_servers_that_fail(tmp_path: Path):
    """The exit status is 1, and each failure has its reason, exit status and stderr, without secrets."""
    servers = {
        "good": GOOD,
        "absent": {"command": "no-such-command-here"},
        "dying": {**DYING, "env": {"TOKEN": "hunter2"}},
        "refused": {"url": f"http://user:hunter2@127.0.0.1:{free_port()}/mcp?key=hunter2"},
        "unlisted": entry("raw_server", "--no-listing"),
        "mute": MUTE,
        "slow": {"command": sys.executable, "args": ["-c", SLOW], "env": {"TOKEN": "hunter2"}},
    }
    path = write(tmp_path, servers)
    done = run_alone(*COMMAND, "check", path, "--json", "--timeout", "8", home=tmp_path)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "hunter2" not in done.stdout
    by_name = reports(done.stdout)
    assert [name for name, report in by_name.items() if report["ok"]] == ["good"]
    assert by_name["absent"]["state"] == "failed"
    assert "No such file" in by_name["absent"]["error"]
    assert by_name["dying"]["exit_status"] == 3
    assert "no licence found" in by_name["dying"]["stderr"]
    assert "no listing today" in by_name["unlisted"]["error"]
    assert by_name["mute"]["error"] == "still starting after 8 s"
    assert by_name["slow"]["error"] == "still starting after 8 s: 3 of 40 packages, with ***"
    assert by_name["refused"]["error"]


@needs_npm
@pytest.mark.timeout(90)
def test_six_servers_of_every_kind(everything: Path, tmp_path: Path):
    """Three servers that work and three that do not are each reported correctly in one table."""
    command = [NODE, "--require", str(everything / "loopback.cjs"), program(everything), "streamableHttp"]
    http = HttpServer(command=command)
    http.start()
    try:
        servers = {
            "everything": {"command": NODE, "args": [program(everything), "stdio"]},
            "everything-http": {"url": http.url},
            "sdk": entry("sdk_server", "stdio"),
            "absent": {"command": "no-such-command-here"},
            "dying": DYING,
            "mute": MUTE,
        }
        deadline = time.monotonic() + 20
        while True:  # until the HTTP server listens
            done = run_alone(*COMMAND, "check", write(tmp_path, servers), "--timeout", "10", home=tmp_path)
            if "3 of 6 servers are healthy" in done.stdout or time.monotonic() > deadline:
                break
    finally:
        http.kill()
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "│"]
    states = {name: state for name, state, _ in rows[1:] if state}
    assert states == {name: "failed" if name in {"absent", "dying", "mute"} else "ready" for name in servers}
    text = " ".join(cell for *_, cell in rows)
    assert "exit status 3" in text
    assert "stderr: no licence found" in text
    assert "still starting after 10 s" in text
    assert "3 of 6 servers are healthy" in done.stdout


@pytest.mark.parametrize("command", [["check", "nope.json"], ["call", "nope.json", "a", "b"]])
def test_a_file_that_cannot_be_used(command: list[str], tmp_path: Path):
    """The exit status is 2, and stderr says why the file cannot be read."""
    done = run_alone(*COMMAND, *command, home=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("nope.json: cannot be read (No such file or directory)")


NPM = """
npm error code E404
npm error 404 Not Found - GET https://registry.npmjs.org/@scope%2fdoes-not-exist - Not found
npm error 404
npm error 404  '@scope/does-not-exist@*' is not in this registry.
npm error 404
npm error 404 Note that you can also install from a
npm error 404 tarball, folder, http url, or git url.
npm error A complete log of this run can be found in: /home/me/.npm/_logs/2026-01-01T00_00_00_000Z-debug-0.log
"""


def test_the_stderr_lines_that_name_the_cause_are_shown(tmp_path: Path):
    """A package that does not exist is named, although npm prints more lines after that."""
    script = f"import sys; sys.stderr.write({NPM!r}); sys.exit(1)"
    path = write(tmp_path, {"one": {"command": sys.executable, "args": ["-c", script]}})
    done = run_alone(*COMMAND, "check", path, home=tmp_path)
    cells = [line.split("│")[3].strip() for line in done.stdout.splitlines() if line.startswith("│")]
    assert "'@scope/does-not-exist@*' is not in this registry." in " ".join(cells)
    assert "tarball" not in done.stdout


def test_a_misspelt_file_name(tmp_path: Path):
    """A file with a similar name in the same directory is suggested."""
    path = write(tmp_path, {"one": GOOD})
    done = run_alone(*COMMAND, "check", path.replace("mcp.json", "mpc.json"), home=tmp_path)
    assert done.returncode == 2
    assert f"did you mean {path!r}?" in done.stderr


def test_an_unknown_server(tmp_path: Path):
    """The exit status is 2, and the servers in the file are listed."""
    done = run_alone(*COMMAND, "check", write(tmp_path, {"one": GOOD}), "--server", "two", home=tmp_path)
    assert done.returncode == 2
    assert "no server 'two'; available: 'one'" in done.stderr


def test_call_prints_the_answer(tmp_path: Path):
    """`call` prints the answer and nothing else; `--json` prints the whole result."""
    path = write(tmp_path, {"one": GOOD})
    done = run_alone(*COMMAND, "call", path, "one", "echo", '{"text": "hi"}', home=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")
    done = run_alone(*COMMAND, "call", path, "one", "echo", '{"text": "hi"}', "--json", home=tmp_path)
    assert json.loads(done.stdout)["content"] == [{"type": "text", "text": "hi"}]


def test_a_call_that_is_retried(tmp_path: Path):
    """Retries are reported on stderr, and the exit status is 1 when there is no answer."""
    policy = {"retry": {"attempts": 2}, "restart": {"base": 0.01}}
    path = write(tmp_path, {"one": {**GOOD, "resilience": policy}})
    done = run_alone(*COMMAND, "call", path, "one", "exit", '{"code": 4}', home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "tools/call exit failed (attempt 1): the server process" in done.stderr
    assert "server stderr: cannot go on: the disk is full" in done.stderr
    assert "It was sent 2 times" in done.stderr
    done = run_alone(*COMMAND, "call", path, "one", "nope", home=tmp_path)
    assert done.returncode == 1
    assert "Unknown tool: nope" in done.stderr


def test_schema_prints_the_json_schema(tmp_path: Path):
    """`schema` prints what `config.json_schema` returns."""
    done = run_alone(*COMMAND, "schema", home=tmp_path)
    assert json.loads(done.stdout) == config.json_schema()
