"""The environment is the one that the README's table speaks of."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from resilient_mcp._sdk.installed import MAJOR

REQUIREMENTS = Path(__file__).parent / f"requirements-{MAJOR}.txt"
PINS = re.findall(r"^([\w-]+)(?:\[.*\])?==(.+)$", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("package", "pinned"), PINS)
def test_each_framework_is_the_version_that_is_pinned(package, pinned):
    """A framework that is missing, or another one than was tested, is told here."""
    assert version(package) == pinned
