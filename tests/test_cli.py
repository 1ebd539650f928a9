"""The command: what it prints, what it returns, and that it leaves nothing behind."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from rich.console import Console

from resilient_mcp.demo import screen, stage
from resilient_mcp.demo.scenes import SCENES
from resilient_mcp.demo.stage import Scene, Side

from .test_examples import clean_environment, marked, run_alone, wait_until_alone

COMMAND = ("-c", "from resilient_mcp.cli import main; main()")


def test_version(tmp_path):
    """It names both versions that matter."""
    done = run_alone(*COMMAND, "--version", home=tmp_path)
    assert done.stdout == f"resilient-mcp {version('resilient-mcp')} (mcp {version('mcp')})\n"
    assert done.returncode == 0


def test_help_lists_the_commands(tmp_path):
    """Without arguments it says what it can do."""
    done = run_alone(*COMMAND, home=tmp_path)
    assert "demo" in done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_extra(missing, tmp_path):
    """Without the extra it says in one line what to install."""
    code = f"import sys; sys.modules[{missing!r}] = None; from resilient_mcp.cli import main; main()"
    done = run_alone("-c", code, "demo", home=tmp_path)
    assert done.stderr == f"resilient-mcp: {missing} is not installed: pip install 'resilient-mcp[cli]'\n"
    assert done.stdout == ""
    assert done.returncode == 1


def test_another_missing_module_is_not_blamed_on_the_extra(tmp_path):
    """A broken installation shows its own error."""
    (tmp_path / "typer.py").write_text("import no_such_module\n")
    done = run_alone(*COMMAND, home=tmp_path, PYTHONPATH=str(tmp_path))
    assert "resilient-mcp[cli]" not in done.stderr
    assert "no_such_module" in done.stderr.splitlines()[-1]


@pytest.mark.timeout(90)
def test_demo_keeps_its_promises(tmp_path):
    """Piped, it is plain text; every scene ends as promised, and the table shows what each side got."""
    done = run_alone(*COMMAND, "demo", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert f"{len(SCENES)} of {len(SCENES)} scenes" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    before, _, table = done.stdout.partition("plain ClientSession got")
    for scene in SCENES:
        assert f"{scene.title} ({scene.over})" in before
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    titles, plain, ours = (" ".join(filter(None, column)) for column in zip(*cells, strict=True))
    assert all(scene.title in titles for scene in SCENES)
    assert "Oslo: 18 degrees" not in plain
    assert ours.count("Oslo: 18 degrees") == len(SCENES)
    assert "ConnectionLost: The server may have run it" in ours
    assert "lines in the file: 1" in ours


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds its processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.timeout(60)
def test_demo_takes_its_servers_with_it(number, tmp_path):
    """Ended while its servers are frozen, by Ctrl-C, SIGTERM or by force, it leaves none of them."""
    demo = subprocess.Popen(
        [sys.executable, *COMMAND, "demo"],
        env=clean_environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not any(is_stopped(pid) for pid in marked(tmp_path)):
            assert demo.poll() is None
            time.sleep(0.02)
        demo.send_signal(number)
        assert demo.wait() != 0
    finally:
        demo.kill()
        demo.wait()
    assert wait_until_alone(tmp_path) == []


def is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def test_a_call_that_hangs_is_given_up(monkeypatch):
    """The demo goes on without it, and says so."""
    monkeypatch.setitem(stage.GIVE_UP, "plain", 0.01)
    side = Side("plain", session=SimpleNamespace(call_tool=lambda *_: anyio.sleep_forever()))
    anyio.run(side.call, "next call", "forecast")
    assert [outcome.text for outcome in side.outcomes] == ["hung (gave up after 0s)"]


def test_a_session_that_breaks_ends_its_call_with_the_first_cause():
    """An error inside nested groups is the one that is shown, and what comes after it is not."""

    class GroupError(Exception):
        exceptions = ()

    inner, outer = GroupError(), GroupError()
    inner.exceptions = (ValueError("the cause"), TypeError("another"))
    outer.exceptions = (inner, OSError("one more"))
    side = Side("plain", session=object())
    side.pending = ("next call", time.monotonic())
    side.broke(outer)
    side.broke(OSError("later"))
    assert [outcome.text for outcome in side.outcomes] == ["session torn down: ValueError: the cause"]


async def no_calls(_side):
    raise LookupError("no call was made")


def test_a_broken_promise_is_shown(monkeypatch):
    """A scene that does not end as promised is marked, and makes the exit status 1."""
    scene = Scene("A scene", "A story.", "stdio", no_calls, lambda side: side.outcomes[0].answer is not None)
    monkeypatch.setattr(screen, "SCENES", [scene])
    console = Console(file=io.StringIO(), width=80)
    assert anyio.run(screen.show, console) == 1
    printed = console.file.getvalue()
    assert "not as promised" in printed
    assert "0 of 1 scenes" in printed
    assert printed.count("LookupError: no call") >= 2


def test_the_demo_needs_posix_signals(monkeypatch, capsys):
    """Elsewhere it says so instead of failing in the middle."""
    monkeypatch.delattr(signal, "SIGSTOP")
    assert anyio.run(screen.show) == 1
    assert "POSIX" in capsys.readouterr().out
