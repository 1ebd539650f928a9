"""The examples run unchanged, and show what their docstrings say."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)  # an example starts SDK servers, a second or more each

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_alone(*command: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a Python command to its end, and check that none of its processes is left."""
    done = subprocess.run(
        [sys.executable, *command],
        env=clean_environment(home) | env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert wait_until_alone(home) == []
    return done


def clean_environment(home: Path) -> dict[str, str]:
    """An environment in which `home` marks every child process: stdio servers inherit HOME and little else."""
    unwanted = {"FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "PYTHONWARNINGS"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"HOME": str(home), "TMPDIR": str(home), "PYTHONUTF8": "1"}


def wait_until_alone(home: Path) -> list[int]:
    """The processes marked with `home` that have not ended after five seconds."""
    deadline = time.monotonic() + 5
    while (left := marked(home)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def marked(home: Path) -> list[int]:
    """The processes whose HOME is `home`; none where there is no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environ = (path / "environ").read_bytes().split(b"\0")
        except OSError:  # ended, or of another user
            continue
        if f"HOME={home}".encode() in environ:
            found.append(int(path.name))
    return found


def run_example(name: str, tmp_path: Path) -> list[str]:
    done = run_alone("-W", "error", str(EXAMPLES / name), home=tmp_path)
    assert done.returncode == 0, done.stderr
    for noise in ("Traceback", "Warning", "Exception ignored"):
        assert noise not in done.stderr
    return [line.strip() for line in done.stdout.splitlines()]


def test_replace_client_session(tmp_path):
    """Both sessions print the same lines, and the second one survives a kill."""
    lines = run_example("replace_client_session.py", tmp_path)
    at = lines.index("ResilientClient:")
    plain, ours = lines[1:at], lines[at + 1 :]
    assert plain[-1].startswith("forecast: Bergen")
    assert "(the server was killed)" in ours
    assert [line for line in ours if line in plain] == plain


def test_retry_policy(tmp_path):
    """A repeatable tool is sent three times; one that is not is sent once, and its error says that it may have run."""
    text = "\n".join(run_example("retry_policy.py", tmp_path))
    assert text.count(": retrying") == 2
    assert "DeadlineExceeded after 3 attempt(s)" in text
    assert "ConnectionLost after 1 attempt(s)" in text
    assert "may have run" in text
    assert text.endswith("answer: Bergen: 25 degrees")


def test_surviving_a_restart(tmp_path):
    """The answers before and after the restart come from different processes."""
    lines = run_example("surviving_a_restart.py", tmp_path)
    answers = [match for line in lines if (match := re.fullmatch(r"(\w+): \d+ degrees \(from process (\d+), .*", line))]
    assert [match[1] for match in answers] == ["Oslo", "Bergen"]
    assert answers[0][2] != answers[1][2]


def test_rotating_a_token(tmp_path):
    """All calls are answered with one new token, on the same session."""
    assert run_example("rotating_a_token.py", tmp_path) == [
        "answers: 0 1 2 3 4 5 6 7 8 9",
        "tokens fetched: 2",
        "connections to the server so far: 1",
    ]


def test_circuit_breaker(tmp_path):
    """Three calls fail, the fourth is not sent, and the client recovers when the server is back."""
    lines = run_example("circuit_breaker.py", tmp_path)
    assert [line.split()[0] for line in lines] == [
        *["ServerUnavailable"] * 2,
        "circuit",
        "ServerUnavailable",
        "CircuitOpen",
        "circuit",
        "circuit",
        "Oslo:",
    ]
    assert lines[-3:-1] == ["circuit open -> half-open", "circuit half-open -> closed"]


def test_json_logs(tmp_path):
    """Each line is JSON, and the records of the lost call can be found by its id."""
    records = [json.loads(line) for line in run_example("json_logs.py", tmp_path)]
    assert {record["logger"] for record in records} == {"resilient_mcp"}
    [lost] = [record for record in records if record.get("mcp_error") == "ConnectionLost"]
    same = [r["mcp_event"] for r in records if r.get("mcp_operation_id") == lost["mcp_operation_id"]]
    assert same == ["AttemptFailed", "CallFinished"]
    assert [r["mcp_new"] for r in records if r["level"] == "INFO"][-2:] == ["ready", "closed"]


def test_opentelemetry_console(tmp_path):
    """The output has spans of the calls that worked and of the one that failed, and the histogram."""
    text = "\n".join(run_example("opentelemetry_console.py", tmp_path))
    assert text.count("span: tools/call forecast CLIENT error=None") == 2
    [lost] = re.findall("span: tools/call place_order CLIENT error=ConnectionLost (.*)", text)
    assert "'resilient_mcp.attempt_failed'" in lost
    assert "mcp.client.operation.duration" in text


def test_watching_resources(tmp_path):
    """After the kill both notes are read again from the new process, and further changes are reported."""
    lines = run_example("watching_resources.py", tmp_path)
    read = [
        match for line in lines if (match := re.fullmatch(r"(notes://\w+) (.*): revision \d+ .*process (\d+)\)", line))
    ]
    missed = [match for match in read if "may have changed" in match[2]]
    assert {match[1] for match in missed} == {"notes://shopping", "notes://travel"}
    assert read[0][3] not in {match[3] for match in missed}
    assert read[-1][2] == "changed"
    assert read[-1][3] == missed[0][3]
    assert any(line.startswith("restored: resources/subscribe") for line in lines)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_short_and_tested(path):
    """Each example has a docstring and a test above, and fits on a screen."""
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 45
    assert f"test_{path.stem}" in globals()
