"""The commands, as a typer app. Each command imports its own dependencies when it runs, to keep start-up fast."""

import difflib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich  # noqa: F401 - typer works without it, but with plainer output
import typer

if TYPE_CHECKING:
    from ..config import ServerConfig

_ARGUMENTS = '{"city": "Oslo"}'
_POLICY = '{"retry": {"attempts": 6}}'
_ERROR = '{"code": -32602, "message": "..."}'
# Characters of an argument quoted in a message.
_SHOWN = 50


# Pretty tracebacks show local variables, which may hold secrets.
app = typer.Typer(name="resilient-mcp", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"resilient-mcp {version('resilient-mcp')} (mcp {version('mcp')})")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A client for MCP servers that survives crashes, lost sessions and overload."""


@app.command()
def demo() -> None:
    """Watch a plain ClientSession and a ResilientClient face the same faults, side by side (20 seconds, offline)."""
    if sys.platform == "win32":
        typer.echo("The demo freezes servers, which Windows cannot do: run it on Linux, macOS or in WSL.", err=True)
        raise typer.Exit(2)
    from ..demo.screen import show  # noqa: PLC0415
    from .run import run  # noqa: PLC0415

    raise typer.Exit(run(show()))


_CONFIG = typer.Argument(metavar="CONFIG", help="An mcpServers file, as used by Claude Desktop, Cursor or VS Code.")
_SERVER = typer.Argument(metavar="SERVER", help="The server's name in the file.")
_POLICY_OPTION = typer.Option(metavar="JSON", help="The policy, in the format of 'resilience' in a file.")
_SECONDS = typer.Option(min=0.1, metavar="SECONDS", help="Time limit for each server.")


@app.command()
def check(
    config: Annotated[Path, _CONFIG],
    *,
    server: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Check only this server; may be repeated.")
    ] = None,
    timeout: Annotated[float, _SECONDS] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Connect to every server in a file, concurrently, and report each server's status.

    For a server that fails, this shows its exit status and the lines of stderr that name the cause.

    Exit status 0 if all are healthy, 1 if any is not, 2 if the file cannot be used.
    """
    from .check import run  # noqa: PLC0415

    raise typer.Exit(run(_load(config, server or []), timeout=timeout, as_json=as_json))


@app.command()
def tools(
    config: Annotated[Path, _CONFIG],
    server: Annotated[str, _SERVER],
    *,
    timeout: Annotated[float, _SECONDS] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tools as JSON, as the server sent them.")] = False,
) -> None:
    """List the tools of one server, with their arguments.

    Exit status 0 if the tools were listed, 1 if the server cannot be reached, 2 if the file or the name cannot be used.
    """
    from .tools import run  # noqa: PLC0415

    found = _load(config, [server])[server]
    raise typer.Exit(run(server, found, timeout=timeout, as_json=as_json))


@app.command()
def call(
    config: Annotated[Path, _CONFIG],
    server: Annotated[str, _SERVER],
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="The tool's name, as listed by `resilient-mcp tools`.")],
    arguments: Annotated[
        str, typer.Argument(metavar="JSON", help=f"The arguments, as a JSON object: '{_ARGUMENTS}'.")
    ] = "{}",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> None:
    """Call one tool of one server. Retries are reported on stderr.

    If the call fails and the server does not list the tool, the tools that it lists are shown.

    Exit status 0 if the tool succeeded, 1 if it failed or did not answer, 2 if the file or arguments cannot be used.
    """
    given = _object(arguments, "the arguments", _ARGUMENTS)
    found = _load(config, [server])[server]
    from .call import run  # noqa: PLC0415

    raise typer.Exit(run(server, found, tool, given, as_json=as_json))


@app.command(context_settings={"ignore_unknown_options": True})
def wrap(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="The command that starts the server.")
    ] = None,
    *,
    url: Annotated[str | None, typer.Option(help="The server's URL, in place of a command.")] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEADER",
            help="An HTTP header for --url, 'Name: value'; ${VAR} is expanded. May be repeated.",
        ),
    ] = None,
    policy: Annotated[str, _POLICY_OPTION] = "{}",
) -> None:
    """Serve MCP on stdin and stdout in front of a server that may crash, hang or lose its session.

    In a host's configuration, put this command in front of the server's own:

    "command": "resilient-mcp", "args": ["wrap", "--", "npx", "-y", "some-mcp-server"]

    The host sees the real server: its name, capabilities, instructions, tools, resources and prompts.

    Progress, logs and the server's questions are passed on. The host may speak MCP up to 2025-11-25.

    If a call cannot be saved, a tool result tells the model what happened.

    Time limits are the policy's. For tools that take more than five minutes without progress:

    --policy '{"timeout": {"attempt": 1800}}'
    """
    given = _object(policy, "--policy", _POLICY)
    from .wrap import client_of, run  # noqa: PLC0415

    try:
        client = client_of(command or [], url, header or [], given)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None
    raise typer.Exit(run(client))


@app.command(context_settings={"ignore_unknown_options": True})  # a negative code is not an option
def explain(
    number: Annotated[
        str | None, typer.Argument(metavar="STATUS|CODE", help="An HTTP status (100 to 599) or a JSON-RPC code.")
    ] = None,
    *,
    policy: Annotated[str, _POLICY_OPTION] = "{}",
    tool: Annotated[
        str | None, typer.Option(metavar="NAME", help="The tool that is called, for its settings in the policy.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain how a failure is handled: may the call have run, when is it sent again, and which rule decides?

    Without an argument, it reads a JSON-RPC response, a JSON-RPC error or a tool result from stdin.

    If there is nothing on stdin, it prints the table of all kinds of failures.

    resilient-mcp explain 503

    resilient-mcp explain -32602

    resilient-mcp explain < result.json

    Exit status 0, or 2 if the input cannot be used.
    """
    given = _object(policy, "--policy", _POLICY)
    from .explain import read_stdin, run  # noqa: PLC0415

    text = read_stdin() if number is None else ""
    message = _object(text, "stdin", _ERROR) if text else None
    try:
        status = run(number, message, policy=given, tool=tool, as_json=as_json)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None
    raise typer.Exit(status)


@app.command()
def schema() -> None:
    """Print the JSON schema of an mcpServers file, including this library's additions."""
    from ..config import json_schema  # noqa: PLC0415

    typer.echo(json.dumps(json_schema(), indent=2))


def _load(path: Path, names: list[str]) -> "dict[str, ServerConfig]":
    """The servers in a file, or only those in `names`. Exits with status 2 if they cannot be loaded."""
    from ..config import ConfigError, read  # noqa: PLC0415

    try:
        servers, disabled = read(path)
    except ConfigError as exc:
        raise _unusable(str(exc)) from None
    if not servers:
        why = "all servers are disabled: remove 'disabled' from one" if disabled else "no servers are defined: add one"
        raise _unusable(f"{path}: {why}")
    for name in names:
        if name in disabled:
            raise _unusable(f"{path}: server {name!r} is disabled: remove its 'disabled' key")
        if name not in servers:
            close = difflib.get_close_matches(name, servers, n=1)
            hint = f"did you mean {close[0]!r}? Available:" if close else "available:"
            raise _unusable(f"{path}: no server {name!r}; {hint} {', '.join(map(repr, servers))}")
    return {name: server for name, server in servers.items() if not names or name in names}


def _unusable(message: str) -> typer.Exit:
    """Print `message` to stderr and return the exit (status 2) to raise."""
    typer.echo(message, err=True)
    return typer.Exit(2)


def _object(text: str, what: str, example: str) -> dict[str, Any]:
    """Parse `text` as a JSON object. Exits with status 2 if it is not one."""
    remedy = f"write a JSON object such as '{example}'"
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        quotes = "JSON needs double quotes: " if "'" in text else ""
        why = "nested too deeply" if isinstance(exc, RecursionError) else exc
        raise typer.BadParameter(f"{what}: {shown} is not JSON ({why}): {quotes}{remedy}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{what}: {shown} is not an object: {remedy}")
    return value
