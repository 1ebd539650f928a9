"""Tests of the agent frameworks, each in its own environment: run `pytest tests/frameworks` in one of them.

`requirements-1.txt` lists the frameworks on mcp 1.x, `requirements-2.txt` those on mcp 2.x. The installed mcp decides
which modules are collected; a module whose framework is missing fails at its import.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from resilient_mcp._sdk.installed import MAJOR

ONLY: dict[int, list[str]] = {
    1: ["test_langchain.py", "test_mcp_use.py", "test_semantic_kernel.py", "test_strands.py"],
    2: [
        "test_agent_framework.py",
        "test_agno.py",
        "test_fastmcp.py",
        "test_google_adk.py",
        "test_llama_index.py",
        "test_pydantic_ai.py",
    ],
}
"""The modules for one major version of mcp alone."""

collect_ignore = ONLY[3 - MAJOR]
pytest.register_assert_rewrite("tests.frameworks.support")


def pytest_configure(config: pytest.Config) -> None:
    sys.path.insert(0, str(config.rootpath / "examples" / "frameworks"))
    # A framework's own warnings are ignored. Resources left open and unraised exceptions still fail the test.
    config.addinivalue_line("filterwarnings", "ignore")
    for left in ("::ResourceWarning", ":coroutine .* was never awaited", "::pytest.PytestUnraisableExceptionWarning"):
        config.addinivalue_line("filterwarnings", f"error{left}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(60))  # some frameworks take seconds just to import


@pytest.fixture
def anyio_backend() -> str:
    """The frameworks run on asyncio."""
    return "asyncio"


@pytest.fixture
def example(request: pytest.FixtureRequest) -> ModuleType:
    """The example that a module names, not imported by the module: with xdist, each worker imports what it runs."""
    return importlib.import_module(request.module.EXAMPLE)
