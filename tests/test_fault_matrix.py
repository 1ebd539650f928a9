"""The fault matrix: every fault, at every place it can happen to, and what our caller gets.

Each fault runs at each of its places on asyncio or on trio, in turn, and on the other one with the other major of mcp:
of fault, transport, era, library and major every two meet, at half the time. `python -m tests.matrix` has the same
harness measure the plain SDK as well, and prints the README's table.
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

README = (ROOT / "README.md").read_text(encoding="utf-8")
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
async def test_what_becomes_of_a_call(fault: Fault, place: Place):
    """What was promised, within the policy's limits: for the calls the fault strikes, the bystander and the next call.

    Nothing is left behind, and whatever else the fault must not cause did not happen.
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


def test_every_fault_can_happen_somewhere():
    """A name stands once for each place, and no fault is without one."""
    named = [(fault.name, place) for fault in FAULTS for place in fault.places]
    assert len(set(named)) == len(named)
    assert all(fault.places for fault in FAULTS)
    assert {place for fault in FAULTS for place in fault.places} == set(PLACES)


def test_what_harms_nobody_can_be_seen_to_have_happened():
    """A reply has a text of its own, and a script a proof: else a fault that never came about would pass for good."""
    for fault in FAULTS:
        if set(fault.promise.calls.values()) == {ANSWERED} and max(fault.promise.seen.values(), default=0) < 2:
            assert fault.reply is None or fault.answer is not None, fault.name
            assert not fault.script or fault.proof is not None, fault.name


def test_the_readme_shows_this_table():
    """Each fault has its row there, and what it says of ours is what is proven here."""
    shown = table.read(README)
    names = dict.fromkeys(fault.name for fault in FAULTS)
    assert shown.keys() == names.keys()
    for name in names:
        assert shown[name][2:] == table.promised(name)


@pytest.mark.anyio
@pytest.mark.skipif(MAJOR == 1, reason="the README shows mcp 2.x")
@pytest.mark.parametrize("name", ["killed in mid-call", "reset before headers", "429", "503", "200 with bad JSON"])
async def test_the_readme_is_right_about_the_plain_sdk(name: str):
    """A few rows, measured anew with the installed SDK; `python -m tests.matrix` measures all."""
    cells = []
    for fault in FAULTS:
        if fault.name == name:
            for place in fault.places:
                with anyio.fail_after(15):
                    found, _ = await outcome(PLAIN, fault, place)
                cells.append(table.Cell(name, "plain", place, found))
    assert table.read(README)[name][:2] == table.read(table.table(cells))[name][:2]
