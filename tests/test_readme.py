"""The README is true: its code runs, its commands are complete, and its tables are up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import resilient_mcp
from resilient_mcp import Event, ResilienceError

from .support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
ABOUT_EXAMPLES = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\((?!https?://|#)([^)\s]+)\)")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[-1][:30] for block in BLOCKS])
def test_the_code_runs(block: str, tmp_path: Path):
    """Each code block is a complete program."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=15,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    if "asyncio.run" in block:
        assert "forecast" in done.stdout
        assert "Oslo" in done.stdout


def test_the_two_commands_need_no_preparation():
    """The demo comes first, then the tests, each in its own block that creates its own environment."""
    demo, tests = COMMANDS
    for command in COMMANDS:
        assert len(command.splitlines()) == 1
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert "resilient-mcp demo" in demo
    assert "pytest" in tests


def subclasses(base: type) -> set[str]:
    return {base.__name__}.union(*(subclasses(kind) for kind in base.__subclasses__()))


def test_every_error_is_in_the_table():
    """The errors, the exported names and the README agree."""
    errors = {name for name in subclasses(ResilienceError) if hasattr(resilient_mcp, name)}
    table = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert errors == table | {"ResilienceError"}
    assert errors == subclasses(ResilienceError)


def test_every_event_is_named():
    """The README names every event."""
    for name in subclasses(Event) - {"Event"}:
        assert f"`{name}`" in README


def test_every_example_is_linked():
    """Every example is linked, and every link leads to a file."""
    linked = set(re.findall(r"\]\((\w+\.\w+)\)", ABOUT_EXAMPLES))
    assert linked == {path.name for path in (ROOT / "examples").glob("*.*")} - {"README.md"}


def test_every_framework_is_linked_with_its_tested_version():
    """The table links each framework's example and gives the version pinned in its environment."""
    linked = set(re.findall(r"\]\((frameworks/[\w.]+)\)", ABOUT_EXAMPLES))
    examples = (ROOT / "examples" / "frameworks").glob("*.py")
    assert linked == {f"frameworks/{path.name}" for path in examples} - {"frameworks/script.py"}
    pins = dict(
        pin
        for path in (ROOT / "tests" / "frameworks").glob("requirements-*.txt")
        for pin in re.findall(r"^([\w-]+)(?:\[.*\])?==(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    )
    named = re.findall(r"^\| \[.*?\]\(.*?\) \| ([\w-]+) ([\d.]+) \|", ABOUT_EXAMPLES, re.MULTILINE)
    assert len(named) == len(linked)
    for framework, version in named:
        assert pins[framework] == version


@pytest.mark.parametrize("page", ["README.md", "tests/README.md", "examples/README.md", ".github/CONTRIBUTING.md"])
def test_every_link_leads_to_a_file(page: str):
    """Relative links name files of the repository."""
    path = ROOT / page
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / link.partition("#")[0]).exists(), link


def test_every_link_works_on_pypi():
    """The substitutions of pyproject.toml leave no relative link in the README."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    rules = re.findall(r"^pattern = '(.*)'\nreplacement = '(.*)'$", project, re.MULTILINE)
    shown = README
    for pattern, replacement in rules:
        shown = re.sub(pattern, replacement, shown)
    assert LINK.findall(README)
    assert not LINK.findall(shown)


def test_the_readme_is_read_in_five_minutes():
    """The README has at most 220 lines; details belong in another page or in a docstring."""
    assert len(README.splitlines()) <= 220


def test_docstring_examples_run():
    """The examples in docstrings run, with nothing but the exported names."""
    import doctest

    exports = {name: getattr(resilient_mcp, name) for name in resilient_mcp.__all__}
    runner, with_examples = doctest.DocTestRunner(), set()
    for name, export in exports.items():
        for test in doctest.DocTestFinder().find(export, name, module=False, globs=dict(exports)):
            if test.examples:
                with_examples.add(name)
                assert not runner.run(test).failed
    assert with_examples >= {"Policy", "ResilientClient", "ResilientClientGroup", "Session", "explain"}
