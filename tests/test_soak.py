"""The soak test itself: a short run is green, and broken promises are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .promises import Kind, Outcome, broken_promise
from .servers.counting_server import BUSY
from .soak.gauges import Gauges
from .soak.plan import fleet, schedule
from .support import ROOT

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the soak needs /proc")


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A soak of three seconds with a server that starts instantly and thirty callers that rest briefly."""
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.05", "--only", "stdio", "--callers", "30"]
    return subprocess.run(
        [*command, "--pause", "0.2", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )


@pytest.mark.timeout(120)  # seconds of work, and more on a busy machine
@pytest.mark.parametrize("backend", [(), ("--trio",)], ids=["asyncio", "trio"])
def test_a_short_soak_is_green(backend: tuple[str, ...]):
    """A short soak on either event loop keeps all promises and prints its seed."""
    done = soak("--seed", "3", *backend)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All promises were kept." in done.stdout
    assert "seed 3" in done.stdout


@pytest.mark.timeout(120)  # seconds of work, and more on a busy machine
def test_broken_promises_are_found():
    """The soak can fail: it names the broken promise, the seed, and the history of the call."""
    done = soak("--seed", "3", "--sabotage", "twice", "wrong", "lost", "deaf", "leak")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN, seed 3" in done.stdout
    assert "was taken 1 times and executed 2 times" in done.stdout
    assert "was answered wrong" in done.stdout
    assert "is repeatable, and was lost" in done.stdout
    assert "holds [], and ['soak://a', 'soak://b'" in done.stdout
    assert "growth since the first reading: tasks" in done.stdout
    assert "Its story:" in done.stdout


ANSWERED = Outcome(Kind.ANSWER, "unsafe-1")


@pytest.mark.parametrize(
    ("key", "outcome", "ran", "taken", "why"),
    [
        ("unsafe-1", ANSWERED, 1, 1, None),
        ("unsafe-1", ANSWERED, 0, 1, "was answered, and not executed"),
        ("unsafe-1", ANSWERED, 2, 2, "was taken 2 times and executed 2 times"),
        ("unsafe-1", Outcome(Kind.ANSWER, "unsafe-2"), 1, 1, "was answered wrong"),
        ("unsafe-1", Outcome(Kind.UNKNOWN), 0, 1, None),
        ("unsafe-1", Outcome(Kind.UNKNOWN), 1, 1, None),
        ("unsafe-1", Outcome(Kind.UNKNOWN), 1, 2, "was taken 2 times and executed 1 times"),
        ("unsafe-1", Outcome(Kind.NOT_RUN), 0, 0, None),
        ("unsafe-1", Outcome(Kind.NOT_RUN), 1, 1, "was executed, and its caller got an error that says it was not"),
        ("unsafe-1", Outcome(Kind.CANCELLED), 1, 1, None),
        ("unsafe-1", Outcome(Kind.SERVER_ERROR), 1, 1, None),
        ("unsafe-1", Outcome(Kind.TOOL_ERROR, BUSY), 1, 1, None),
        ("unsafe-1", Outcome(Kind.TOOL_ERROR, "broken"), 1, 1, "was answered wrong"),
        ("unsafe-1", Outcome(Kind.NOTHING), 0, 0, "had no outcome"),
        ("unsafe-1", Outcome(Kind.STRANGE), 0, 0, "ended in what neither the server nor this library says"),
        ("echo-1", Outcome(Kind.ANSWER, "echo-1"), 3, 3, None),
        ("echo-1", Outcome(Kind.UNKNOWN), 1, 1, "is repeatable, and was lost"),
        ("echo-1", Outcome(Kind.TOOL_ERROR, BUSY), 1, 1, None),
        ("echo-1", Outcome(Kind.TOOL_ERROR, BUSY), 0, 1, "is repeatable, and was lost"),
        ("echo-1", Outcome(Kind.ANSWER, "echo-2"), 1, 1, "was answered wrong"),
        ("echo-1", Outcome(Kind.CANCELLED), 0, 0, None),
    ],
)
def test_the_promises_of_a_call(key: str, outcome: Outcome, ran: int, taken: int, why: str | None):
    """The table in `promises.py` holds row by row."""
    assert broken_promise(key, outcome, ran, taken) == why


def test_a_run_follows_from_its_seed():
    """One seed gives the same faults at the same times, another seed gives others."""
    for spec in fleet():
        faults = schedule(1, spec, 600)
        assert faults == schedule(1, spec, 600) != schedule(2, spec, 600)
        assert {fault.kind for fault in faults} == set(spec.faults)
        assert faults[: len(schedule(1, spec, 60))] == schedule(1, spec, 60)


def test_growth_names_what_grew():
    """A decrease is not growth, and memory is judged elsewhere."""
    assert Gauges(90, 11, 5, 2).growth(Gauges(70, 10, 5, 3)) == ["tasks: 10, now 11"]
