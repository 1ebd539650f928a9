"""Runs every asynchronous test on asyncio and on trio, or each on one of them."""

from __future__ import annotations

from collections import defaultdict
from zlib import crc32

import pytest

from .npm import everything, pyright

__all__ = ["everything", "pyright"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--one-backend`."""
    parser.addoption(
        "--one-backend",
        type=int,
        metavar="SEED",
        help="run each test on one backend, asyncio or trio, drawn by SEED; the next seed draws the other one",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one backend of each test that would run on both."""
    seed = config.getoption("--one-backend")
    if seed is None:
        return
    backends = defaultdict(list)
    for item in items:
        if (backend := getattr(item, "callspec", None) and item.callspec.params.get("anyio_backend")) is not None:
            backends[_without_backend(item)].append(backend)
    dropped = []
    for item in items:
        own = backends.get(_without_backend(item), [])
        if (
            len(own) > 1
            and item.callspec.params["anyio_backend"] != own[(crc32(_without_backend(item)) + seed) % len(own)]
        ):
            dropped.append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in set(dropped)]


def _without_backend(item: pytest.Item) -> bytes:
    """What the variants of one test have in common that differ only in their backend."""
    if not hasattr(item, "callspec"):
        return item.nodeid.encode()
    others = {name: value for name, value in item.callspec.indices.items() if name != "anyio_backend"}
    return f"{item.nodeid.partition('[')[0]} {sorted(others.items())}".encode()
