"""Type checkers accept the right code in `typing/`, and find the error in each of its wrong lines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resilient_mcp._sdk.installed import MAJOR

from .npm import needs_npm
from .support import ROOT

FILES = [Path("tests/typing", name) for name in ("accepted.py", "rejected.py", f"only_mcp_{MAJOR}.py")]
COMMENT = re.compile(r"  # error: (?P<mypy>[\w-]+) \| (?P<pyright>\w+)$")

# What a checker reports: file, line, and its name for the error.
Errors = set[tuple[str, int, str]]

# Without its cache, mypy reads the whole SDK; pyright has none, and is downloaded.
pytestmark = pytest.mark.timeout(300)


def expected(checker: str) -> Errors:
    return {
        (path.name, number, comment[checker])
        for path in FILES
        for number, line in enumerate((ROOT / path).read_text("utf-8").splitlines(), start=1)
        if (comment := COMMENT.search(line)) is not None
    }


def run(*command: str) -> str:
    files = [str(path) for path in FILES]
    done = subprocess.run([*command, *files], capture_output=True, text=True, cwd=ROOT, timeout=280, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 1  # 0: no error at all; 2 and more: the checker itself failed
    return done.stdout


def test_mypy_finds_exactly_the_errors_that_the_comments_name():
    """With the strict settings of this project."""
    lines = run(sys.executable, "-m", "mypy", "--output=json").splitlines()
    reports = [json.loads(line) for line in lines if line.startswith("{")]
    assert expected("mypy")
    assert expected("mypy") == {
        (Path(report["file"]).name, report["line"], report["code"])
        for report in reports
        if report["severity"] == "error"
    }


@needs_npm
def test_pyright_finds_exactly_the_errors_that_the_comments_name(pyright: list[str]):
    """In its strict mode where a file asks for it."""
    reports = json.loads(run(*pyright, "--outputjson", "--pythonpath", sys.executable))["generalDiagnostics"]
    assert expected("pyright") == {
        (Path(report["file"]).name, report["range"]["start"]["line"] + 1, report.get("rule", report["message"]))
        for report in reports
    }
