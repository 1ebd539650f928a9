"""The example of testing an agent passes with nothing but pytest installed; and it can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .support import ROOT

pytestmark = pytest.mark.timeout(60)  # a new pytest process in each

# As in pyproject.toml: trio warns of unfinished generators of the HTTP library.
_UNFINISHED = "ignore:Async generator 'http:ResourceWarning"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["-q", "-W", "error", "-W", _UNFINISHED, "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(ROOT / "examples" / "testing", tmp_path / "agent", ignore=shutil.ignore_patterns("__*"))
    )


def test_the_example_passes(folder: Path):
    """Each test passes on each event loop that the anyio plugin finds."""
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout


def test_the_example_fails_for_a_faulty_agent(folder: Path):
    """An agent that orders a second umbrella is caught."""
    agent = folder / "agent.py"
    wrong = agent.read_text().replace(
        "except ConnectionLost:", 'except ConnectionLost:\n        await client.call_tool("order")'
    )
    agent.write_text(wrong)
    done = run(folder, "-k", "answer_is_lost")
    assert done.returncode == 1
    assert "2 failed" in done.stdout
