"""The fault matrix: every fault, at every place it can happen to, and what our caller gets.

Each fault runs at each of its places on asyncio or on trio, in turn, and on the other one with the other major of mcp:
of fault, transport, era, library and major every two meet, at half the time. `python -m tests.matrix` has the same
harness measure the plain SDK as well, and prints the README's table.
"""

from __future__ import annotations

import anyio
import pytest

from resilient_mcp import _sdk

from .matrix.faults import FAULTS, Fault
from .matrix.harness import ANSWERED, outcome
from .matrix.sides import OURS
from .matrix.stages import HERE, PLACES, Place
from .support import nothing_left

LIBRARIES = ("asyncio", "trio")
CASES = [
    (LIBRARIES[(n + PLACES.index(place) + PLACES.index(place) // 2 + _sdk.MAJOR) % 2], fault, place)
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
    for tool, seen in found.seen.items():
        assert seen in promise.seen[tool]
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
