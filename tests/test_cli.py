"""The command line: its output, its exit status, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import json
import re
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
from typer.testing import CliRunner

from resilient_mcp.cli.app import app
from resilient_mcp.cli.call import no_such_tool
from resilient_mcp.cli.run import run
from resilient_mcp.cli.signals import Signals, signals
from resilient_mcp.cli.tools import shown, type_of
from resilient_mcp.demo import screen, stage
from resilient_mcp.demo.scenes import SCENES
from resilient_mcp.demo.stage import Scene, Side

from .servers.listing_server import PAGE
from .support import ROOT
from .test_examples import clean_environment, marked, run_alone, wait_until_alone

pytestmark = pytest.mark.timeout(60)  # each test starts a command and its servers

COMMAND = ("-c", "from resilient_mcp.cli import main; main()")


def test_version(tmp_path):
    """`--version` names the versions of this package and of mcp."""
    done = run_alone(*COMMAND, "--version", home=tmp_path)
    assert done.stdout == f"resilient-mcp {version('resilient-mcp')} (mcp {version('mcp')})\n"
    assert done.returncode == 0


def test_help_lists_the_commands(tmp_path):
    """Without arguments the command prints its help."""
    done = run_alone(*COMMAND, home=tmp_path)
    assert "demo" in done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_extra(missing, tmp_path):
    """Without the extra the command says in one line what to install."""
    code = f"import sys; sys.modules[{missing!r}] = None; from resilient_mcp.cli import main; main()"
    done = run_alone("-c", code, "demo", home=tmp_path)
    assert done.stderr == f"resilient-mcp: {missing} is not installed: pip install 'resilient-mcp[cli]'\n"
    assert done.stdout == ""
    assert done.returncode == 1


def test_another_missing_module_is_not_blamed_on_the_extra(tmp_path):
    """A broken dependency shows its own error."""
    (tmp_path / "typer.py").write_text("import no_such_module\n")
    done = run_alone(*COMMAND, home=tmp_path, PYTHONPATH=str(tmp_path))
    assert "resilient-mcp[cli]" not in done.stderr
    assert "no_such_module" in done.stderr.splitlines()[-1]


@pytest.mark.timeout(90)
def test_demo_keeps_its_promises(tmp_path):
    """Piped output is plain text, every scene ends as promised, and the table shows what each side got."""
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
def test_demo_leaves_no_server_behind(number, tmp_path):
    """Ended by Ctrl-C, SIGTERM or SIGKILL while its servers are frozen, the demo leaves none of them running."""
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


def server(module: str, *arguments: str) -> dict[str, object]:
    return {"command": sys.executable, "args": ["-m", f"tests.servers.{module}", *arguments], "cwd": str(ROOT)}


def config_of(folder: Path, **servers: object) -> str:
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return str(path)


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its processes in /proc")


# --- Ctrl-C and SIGTERM ---


@needs_proc
@pytest.mark.parametrize(
    ("number", "command"),
    [
        (signal.SIGINT, ["check", "mcp.json"]),
        (signal.SIGTERM, ["check", "mcp.json", "--json"]),
        (signal.SIGINT, ["call", "mcp.json", "mute", "echo"]),
        (signal.SIGTERM, ["tools", "mcp.json", "mute"]),
        (signal.SIGINT, ["wrap", "--", sys.executable, "-c", "import time; time.sleep(60)"]),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value[0],
)
def test_repeated_signals_end_the_command_cleanly(number: signal.Signals, command: list[str], tmp_path: Path):
    """Signals sent repeatedly until the process ends give the usual status, no traceback, and no leftovers."""
    config_of(tmp_path, mute=server("raw_server", "--mute"))
    process = subprocess.Popen(
        [sys.executable, *COMMAND, *command],
        env=clean_environment(tmp_path),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if command[0] == "wrap":  # starts its server when the host sends `initialize`
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
            process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}) + "\n")
            process.stdin.flush()
        while len(marked(tmp_path)) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.003)
        stdout, stderr = process.communicate()
    finally:
        process.kill()
        process.wait()
    # Python restores the default action just before the process ends; a shell reports 128 + number for both.
    assert process.returncode in (128 + number, -number)
    assert "Traceback" not in stdout + stderr
    assert "Exception ignored" not in stderr
    assert len(stderr.splitlines()) <= 1
    assert wait_until_alone(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_during_the_imports(number: signal.Signals, tmp_path: Path):
    """While nothing runs yet that must be closed, the process ends immediately."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *COMMAND, "check", "nope.json"],
        env=clean_environment(tmp_path),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stderr:
            if re.search(r"\| +typer\.\w+$", line):
                break
        process.send_signal(number)
        stderr = process.stderr.read()
    assert process.returncode == 128 + number
    assert "Traceback" not in stderr
    assert "nope.json" not in stderr


def test_a_signal_ends_the_process_unless_something_runs():
    """The handler exits with a shell's status, or hands the signal to `on_signal` if that is set."""
    ended, noticed = [], []
    handlers = Signals()
    handlers._handle(signal.SIGTERM, None, ended.append)
    handlers.on_signal = noticed.append
    handlers._handle(signal.SIGINT, None, ended.append)
    assert (ended, noticed) == ([143], [2])


@pytest.fixture
def installed():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signals.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_cleaning_up_after_a_signal_is_not_interrupted_and_may_fail(installed):
    """The coroutine is cancelled once, and an error in its clean-up does not hide the signal's exit status."""
    done = []

    async def main() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(60)
        finally:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0.01)
            done.append(True)
            raise OSError("cannot close")
        return 0

    assert run(main()) == 143
    assert done
    assert signals.on_signal is None


def test_without_a_signal_an_error_is_raised(installed):
    """An error without a signal is not hidden."""

    async def main() -> int:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        run(main())


# --- tools ---

WEATHER = {
    "name": "forecast",
    "description": "\n  The weather \x1b[31min a city.\n\nTakes long.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where"},
            "days": {"type": "integer"},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city"],
    },
    "x-of-its-own": {"kept": True},
}
BARE = {"name": "bare\x1b[2J\x07", "inputSchema": {}}
LONG = {"name": "long", "description": "word " * 50, "inputSchema": {"type": "object", "properties": {}}}
TOOLS = [WEATHER, BARE, LONG]


def listing(folder: Path, tools: object, *arguments: str) -> dict[str, object]:
    (folder / "tools.json").write_text(json.dumps(tools))
    return server("listing_server", str(folder / "tools.json"), *arguments)


def test_tools_are_listed(tmp_path: Path):
    """`tools` prints all pages in 80 columns, without terminal escapes from the server."""
    done = run_alone(*COMMAND, "tools", config_of(tmp_path, x=listing(tmp_path, TOOLS)), "x", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:6] == [
        "forecast",
        "    The weather in a city.",
        "    city  string (required)",
        "    days  integer",
        '    unit  "C" or "F"',
        "bare",
    ]
    assert "\nlong\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_long_list_of_tools_is_not_cut(tmp_path: Path):
    """More than a hundred pages are listed as well."""
    tools = [{"name": f"t{n}", "inputSchema": {"type": "object"}} for n in range(101 * PAGE + 1)]
    done = run_alone(*COMMAND, "tools", config_of(tmp_path, x=listing(tmp_path, tools)), "x", "--json", home=tmp_path)
    assert json.loads(done.stdout) == tools


def test_tools_as_json(tmp_path: Path):
    """`--json` prints the tools as the server sent them, unknown fields included."""
    done = run_alone(*COMMAND, "tools", config_of(tmp_path, x=listing(tmp_path, TOOLS)), "x", "--json", home=tmp_path)
    assert json.loads(done.stdout) == TOOLS


@pytest.mark.parametrize("tools", [None, []], ids=["not declared", "an empty list"])
def test_a_server_without_tools(tools: object, tmp_path: Path):
    """A server without tools is reported as such, with exit status 0."""
    entry = server("listing_server") if tools is None else listing(tmp_path, tools)
    done = run_alone(*COMMAND, "tools", config_of(tmp_path, x=entry), "x", home=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Server 'x' has no tools.\n", "")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"command": "no-such-command"}, ["'x': cannot start: No such file or directory: no-such-command"]),
        (server("raw_server", "--die-at-start", "3"), ["exit status 3", "  stderr: no licence found for host red"]),
        (server("raw_server", "--mute"), ["'x': still starting after 2 s"]),
        (server("raw_server", "--no-listing"), ["no listing today"]),
    ],
    ids=["absent", "dying", "mute", "refusing"],
)
def test_tools_of_a_server_that_fails(entry: object, said: list[str], tmp_path: Path):
    """The exit status is 1, and one message says why."""
    path = config_of(tmp_path, x=entry)
    done = run_alone(*COMMAND, "tools", path, "x", "--timeout", "2" if "--mute" in str(entry) else "15", home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("resilient-mcp: server 'x': ")
    assert len(done.stderr.splitlines()) == len(said)
    for text in said:
        assert text in done.stderr


def test_an_answer_that_is_not_a_list_of_tools(tmp_path: Path):
    """An invalid list of tools is reported as an error and not printed."""
    done = run_alone(*COMMAND, "tools", config_of(tmp_path, x=listing(tmp_path, [{"name": 5}])), "x", home=tmp_path)
    assert done.returncode == 1
    assert "not a list of tools" in done.stderr


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}, {"type": "integer"}]}, "integer or null"),
        ({"oneOf": [{"type": "array", "items": {"type": "number"}}, {}]}, "array of number or any"),
        ({"allOf": [{"$ref": "#/$defs/Unit"}, {"title": "x"}]}, '"C" or 2'),
        ({"$ref": "#/$defs/Nowhere"}, "any"),
        ({"$ref": "#/$defs/Itself"}, "any"),
        ({"const": None}, "null"),
        ({"enum": list(range(20))}, "0 or 1 or 2 or 3 or 4 or 5 or 6 or 7 or ..."),
        ({"type": "array"}, "array"),
        ({"type": 5}, "any"),
        (True, "any"),
    ],
)
def test_schemas_are_summarized(schema: object, text: str):
    """Any schema, valid or not, is described in a few words."""
    root = {"$defs": {"Unit": {"enum": ["C", 2]}, "Itself": {"$ref": "#/$defs/Itself"}}}
    assert type_of(schema, root) == text


def test_a_schema_that_refers_to_itself_in_many_ways():
    """A hostile schema is described as quickly as any other."""
    root = {"$defs": {"x": {"anyOf": [{"$ref": "#/$defs/x"}] * 1000}}}
    assert type_of({"$ref": "#/$defs/x"}, root) == "any"


@pytest.mark.parametrize("schema", [None, [], {"properties": 5}, {"properties": {"a": None}, "required": [5, {}]}])
def test_tools_with_invalid_schemas_are_listed(schema: object):
    """A tool is listed, whatever its schema is."""
    lines = shown({"name": "x", "description": 5, "inputSchema": schema}, 80)
    assert lines in (["x"], ["x", "    a  any"])


# --- call ---


@pytest.mark.parametrize("unknown", ["-32601", "-32602", "result"])
def test_a_tool_that_is_not_listed(unknown: str, tmp_path: Path):
    """Whichever way a server rejects an unknown tool, its tools are listed, the most similar one first."""
    path = config_of(tmp_path, x=listing(tmp_path, TOOLS, "--unknown", unknown))
    done = run_alone(*COMMAND, "call", path, "x", "Forcast", home=tmp_path)
    assert done.returncode == 1
    assert "Unknown tool: Forcast" in done.stderr + done.stdout
    hint = "server 'x' does not list a tool 'Forcast': did you mean 'forecast'? It lists forecast, "
    assert f"resilient-mcp: {hint}" in done.stderr
    assert "\x1b" not in done.stderr


def test_an_unlisted_tool_that_works(tmp_path: Path):
    """A tool that the server does not list can be called."""
    path = config_of(tmp_path, x=listing(tmp_path, TOOLS))
    done = run_alone(*COMMAND, "call", path, "x", "hidden", home=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "found\n", "")


def test_a_listed_tool_that_fails(tmp_path: Path):
    """The error of a listed tool gets no hint about unlisted tools."""
    path = config_of(tmp_path, x=listing(tmp_path, TOOLS))
    done = run_alone(*COMMAND, "call", path, "x", "forecast", home=tmp_path)
    assert done.returncode == 1
    assert "does not list" not in done.stderr


def test_which_tools_are_suggested():
    """The most similar tool comes first, ignoring case and separators; parts of names match; at most 20 are listed."""
    names = ["list_files", "read_text_file", "brave_web_search"]
    assert "did you mean 'read_text_file'? It lists read_text_file, " in no_such_tool("x", "READ-TEXT-FILES", names)
    assert "did you mean 'brave_web_search'?" in no_such_tool("x", "search", names)
    assert no_such_tool("x", "zzz", names).startswith("server 'x' does not list a tool 'zzz'. It lists ")
    assert no_such_tool("x", "zzz", [*names, *map(str, range(30))]).endswith(
        " and 13 more (`resilient-mcp tools` lists them)"
    )
    assert no_such_tool("x", "zzz", []) == "server 'x' lists no tools"


# --- mistakes of newcomers ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'is empty: write {"mcpServers": {"name": {"command": "..."}}}'),
        ('{"mcpServers": {}}', "no servers are defined: add one"),
        ('{"mcpServers": {"one": {"command": "x", "disabled": true}}}', "all servers are disabled"),
        ('{"mcpServers": {"one": {"command": "x"}}}', "no server 'on'; did you mean 'one'? Available: 'one'"),
        ('{"mcpServers": {"four": {"command": "x"}}}', "no server 'on'; available: 'four'"),
        (
            '{"mcpServers": {"one": {"command": "x"}, "on": {"command": "x", "disabled": true}}}',
            "server 'on' is disabled: remove its 'disabled'",
        ),
    ],
)
def test_a_file_that_does_not_have_the_server(text: str, said: str, tmp_path: Path):
    """The exit status is 2, and the message says what to do."""
    path = tmp_path / "mcp.json"
    path.write_text(text)
    done = CliRunner().invoke(app, ["tools", str(path), "on"])
    assert done.exit_code == 2
    assert done.output.startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{'city': 'Oslo'}", "is not JSON"),
        ("{'city': 'Oslo'}", "JSON needs double quotes: write a JSON object such as"),
        ("city=Oslo", "the arguments: 'city=Oslo' is not JSON"),
        ('["Oslo"]', "is not an object: write a JSON object such as"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_arguments_that_are_not_an_object(arguments: str, said: str):
    """The exit status is 2, with the value and an example, before the file is read."""
    done = CliRunner().invoke(app, ["call", "nope.json", "x", "tool", arguments])
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())


# --- the demo ---


def test_a_call_that_hangs_is_given_up(monkeypatch):
    """The demo continues without it, and says so."""
    monkeypatch.setitem(stage.GIVE_UP, "plain", 0.01)
    side = Side("plain", session=SimpleNamespace(call_tool=lambda *_: anyio.sleep_forever()))
    anyio.run(side.call, "next call", "forecast")
    assert [outcome.text for outcome in side.outcomes] == ["hung (gave up after 0s)"]


def test_a_session_that_breaks_ends_its_call_with_the_first_cause():
    """The first error inside nested groups is shown, and later ones are not."""

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
    """A scene that does not end as promised is marked, and the exit status is 1."""
    scene = Scene("A scene", "A story.", "stdio", no_calls, lambda side: side.outcomes[0].answer is not None)
    monkeypatch.setattr(screen, "SCENES", [scene])
    console = Console(file=io.StringIO(), width=80)
    assert anyio.run(screen.show, console) == 1
    printed = console.file.getvalue()
    assert "not as promised" in printed
    assert "0 of 1 scenes" in printed
    assert printed.count("LookupError: no call") >= 2


def test_the_demo_needs_posix_signals(monkeypatch, capsys):
    """Where they are missing, the demo says so instead of failing halfway."""
    monkeypatch.delattr(signal, "SIGSTOP")
    assert anyio.run(screen.show) == 1
    assert "POSIX" in capsys.readouterr().out
