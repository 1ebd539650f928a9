"""The fault matrix: every fault in every place it can occur, and what the caller sees.

Each fault runs in each of its places on asyncio or trio, in turn, and on the other one with the other major version of
mcp. Of fault, transport, era, library and major version, every pair of values is covered in half the time. `python -m
tests.matrix` uses the same harness to measure the plain SDK as well, and prints the README's table.
"""

from __future__ import annotations

import anyio
import pytest

from resilient_mcp import RetryPolicy
from resilient_mcp._sdk.installed import MAJOR

from .matrix import table
from .matrix.faults import FAULTS, Fault
from .matrix.harness import ANSWERED, outcome
from .matrix.sides import OURS, PLAIN
from .matrix.stages import HERE, PLACES, Place
from .support import ROOT, nothing_left

README = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
ATTEMPTS = RetryPolicy().attempts
LIBRARIES = ("asyncio", "trio")
CASES = [
    (LIBRARIES[(n + PLACES.index(place) + PLACES.index(place) // 2 + MAJOR) % 2], fault, place)
    for n, fault in enumerate(FAULTS)
    for place in HERE
    if place in fault.places
]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("anyio_backend", "fault", "place"),
    CASES,
    ids=[f"{fault.name}-{place}-{library}" for library, fault, place in CASES],
)
async def test_each_fault_has_the_promised_outcome(fault: Fault, place: Place):
    """The struck calls, the bystander and the next call end as promised, within the policy's limits.

    Nothing is left behind, and nothing happened that the fault must not cause.
    """
    promise = fault.promise
    async with nothing_left():
        with anyio.fail_after(18):
            found, stage = await outcome(OURS, fault, place)
    assert found.calls == promise.calls
    assert found.seen.keys() == promise.seen.keys()
    for tool, seen in found.seen.items():
        assert seen == promise.seen[tool] or 2 <= promise.seen[tool] < seen <= ATTEMPTS
    assert found.bystander == promise.bystander
    assert found.next in (None, ANSWERED)
    assert found.leaving == ""
    assert found.processes == 0
    assert fault.proof is None or fault.proof(stage)


def test_every_fault_has_a_place():
    """Every fault has a place, every place has a fault, and no name is used twice in one place."""
    named = [(fault.name, place) for fault in FAULTS for place in fault.places]
    assert len(set(named)) == len(named)
    assert all(fault.places for fault in FAULTS)
    assert {place for fault in FAULTS for place in fault.places} == set(PLACES)


def test_a_harmless_fault_leaves_evidence_that_it_happened():
    """A harmless fault has a reply text or a proof of its own; otherwise a fault that never occurred would pass."""
    for fault in FAULTS:
        if set(fault.promise.calls.values()) == {ANSWERED} and max(fault.promise.seen.values(), default=0) < 2:
            assert fault.reply is None or fault.answer is not None, fault.name
            assert not fault.script or fault.proof is not None, fault.name


def test_the_readme_shows_this_table():
    """The README has a row for each fault, and its claims about this library are the ones proven here."""
    shown = table.read(README)
    names = dict.fromkeys(fault.name for fault in FAULTS)
    assert shown.keys() == names.keys()
    for name in names:
        assert shown[name][2:] == table.promised(name)


@pytest.mark.anyio
@pytest.mark.skipif(MAJOR == 1, reason="the README shows mcp 2.x")
@pytest.mark.parametrize("name", ["killed in mid-call", "reset before headers", "429", "503", "200 with bad JSON"])
async def test_the_readme_is_right_about_the_plain_sdk(name: str):
    """A few rows hold when measured with the installed SDK; `python -m tests.matrix` measures all of them."""
    cells = []
    for fault in FAULTS:
        if fault.name == name:
            for place in fault.places:
                with anyio.fail_after(15):
                    found, _ = await outcome(PLAIN, fault, place)
                cells.append(table.Cell(name, "plain", place, found))
    assert table.read(README)[name][:2] == table.read(table.table(cells))[name][:2]
