"""The environment is the one in the README's table."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from resilient_mcp._sdk.installed import MAJOR

REQUIREMENTS = Path(__file__).parent / f"requirements-{MAJOR}.txt"
PINS = re.findall(r"^([\w-]+)(?:\[.*\])?==(.+)$", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("package", "pinned"), PINS)
def test_each_framework_has_the_pinned_version(package, pinned):
    """A missing framework, or another version than the tested one, is reported here."""
    assert version(package) == pinned
