"""The integrations without their frameworks installed; tests/frameworks covers them with the frameworks."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "framework", "package"),
    [
        ("fastmcp", "fastmcp", "fastmcp>=4,<5"),
        ("google_adk", "google.adk", "google-adk>=2,<3"),
        ("mcp_use", "mcp_use", "mcp-use"),
        ("openai_agents", "agents", "openai-agents"),
        ("semantic_kernel", "semantic_kernel", "semantic-kernel"),
    ],
)
def test_a_missing_framework_is_named(module, framework, package, monkeypatch):
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"resilient_mcp.integrations.{module}", raising=False)
    with pytest.raises(ImportError, match=f"install {package}"):
        importlib.import_module(f"resilient_mcp.integrations.{module}")
