"""All commands, as a typer app. Each imports what it needs when it runs, so that the others start without it."""

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich  # noqa: F401 - typer does without it, and shows less
import typer

if TYPE_CHECKING:
    from ..config import ServerConfig

_ARGUMENTS = '{"city": "Oslo"}'
_POLICY = '{"retry": {"attempts": 6}}'
_SHOWN = 50
"""Characters of an argument that a message quotes."""


# Pretty tracebacks show local variables, and those may be secrets.
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
    """Watch a plain ClientSession and ResilientClient meet the same faults, side by side (20 seconds, offline)."""
    from ..demo.screen import show  # noqa: PLC0415
    from .run import run  # noqa: PLC0415

    raise typer.Exit(run(show()))


_CONFIG = typer.Argument(metavar="CONFIG", help="An mcpServers file, as Claude Desktop, Cursor or VS Code keep it.")
_SERVER = typer.Argument(metavar="SERVER", help="The server's name in the file.")
_SECONDS = typer.Option(min=0.1, metavar="SECONDS", help="How long a server may take.")


@app.command()
def check(
    config: Annotated[Path, _CONFIG],
    *,
    server: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this server; may be given again.")
    ] = None,
    timeout: Annotated[float, _SECONDS] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Connect to every server of a file, side by side, and report each server's status.

    Exit status 0 if all are well, 1 if any is not, 2 if the file cannot be used.
    """
    from .check import run  # noqa: PLC0415

    raise typer.Exit(run(_load(config, server or []), timeout=timeout, as_json=as_json))


@app.command()
def tools(
    config: Annotated[Path, _CONFIG],
    server: Annotated[str, _SERVER],
    *,
    timeout: Annotated[float, _SECONDS] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: the tools as the server sent them.")] = False,
) -> None:
    """List the tools of one server, with their arguments.

    Exit status 0 with a list, 1 if the server cannot be reached, 2 if the file or the name cannot be used.
    """
    from .tools import run  # noqa: PLC0415

    found = _load(config, [server])[server]
    raise typer.Exit(run(server, found, timeout=timeout, as_json=as_json))


@app.command()
def call(
    config: Annotated[Path, _CONFIG],
    server: Annotated[str, _SERVER],
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="The tool's name; `resilient-mcp tools` lists them.")],
    arguments: Annotated[
        str, typer.Argument(metavar="JSON", help=f"Its arguments, as a JSON object: '{_ARGUMENTS}'.")
    ] = "{}",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> None:
    """Call one tool of one server. Retries are reported on stderr.

    Exit status 0 with an answer, 1 with an error or none, 2 if the file or the arguments cannot be used.
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
    url: Annotated[str | None, typer.Option(help="The server's URL, instead of a command.")] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEADER",
            help="An HTTP header for --url, 'Name: value'; ${VAR} is expanded. May be given again.",
        ),
    ] = None,
    policy: Annotated[str, typer.Option(metavar="JSON", help="The policy, as 'resilience' in a file.")] = "{}",
) -> None:
    """Be an MCP server on stdin and stdout, in front of a real one that may crash, hang or lose its session.

    In a host's configuration, write this command in front of the server's own:

    "command": "resilient-mcp", "args": ["wrap", "--", "npx", "-y", "some-mcp-server"]
    """
    given = _object(policy, "--policy", _POLICY)
    from .wrap import client_of, run  # noqa: PLC0415

    try:
        client = client_of(command or [], url, header or [], given)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None
    raise typer.Exit(run(client))


@app.command()
def schema() -> None:
    """Print the JSON schema of an mcpServers file with this library's additions."""
    from ..config import json_schema  # noqa: PLC0415

    typer.echo(json.dumps(json_schema(), indent=2))


def _load(path: Path, names: list[str]) -> "dict[str, ServerConfig]":
    """The servers of a file, or those of `names`; ends the command with status 2 if that cannot be."""
    from ..config import ConfigError, read  # noqa: PLC0415

    try:
        servers, disabled = read(path)
    except ConfigError as exc:
        raise _unusable(str(exc)) from None
    if not servers:
        why = (
            "all its servers are disabled: remove one's 'disabled'" if disabled else "there is no server in it: add one"
        )
        raise _unusable(f"{path}: {why}")
    for name in names:
        if name in disabled:
            raise _unusable(f"{path}: server {name!r} is disabled: remove its 'disabled'")
        if name not in servers:
            close = difflib.get_close_matches(name, servers, n=1)
            hint = f"did you mean {close[0]!r}? There is" if close else "there is"
            raise _unusable(f"{path}: there is no server {name!r}; {hint} {', '.join(map(repr, servers))}")
    return {name: server for name, server in servers.items() if not names or name in names}


def _unusable(message: str) -> typer.Exit:
    """Says so on stderr; to be raised."""
    typer.echo(message, err=True)
    return typer.Exit(2)


def _object(text: str, what: str, example: str) -> dict[str, Any]:
    """`text` as a JSON object; ends the command with status 2 if it is none."""
    remedy = f"write a JSON object such as '{example}'"
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        quotes = "JSON has double quotes: " if "'" in text else ""
        why = "nested too deeply" if isinstance(exc, RecursionError) else exc
        raise typer.BadParameter(f"{what}: {shown} is not JSON ({why}): {quotes}{remedy}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{what}: {shown} is not an object: {remedy}")
    return value
