"""Runs every asynchronous test on asyncio and on trio."""

from __future__ import annotations

import pytest

from .npm import everything

__all__ = ["everything"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param
