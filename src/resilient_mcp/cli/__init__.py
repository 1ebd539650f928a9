"""The command `resilient-mcp`. It needs the extra `cli`: typer and rich are imported when it runs, not before."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    import typer

    from ..config import ServerConfig

_EXTRA = frozenset({"typer", "rich"})


def main() -> None:
    """Run the command; the entry point `resilient-mcp`."""
    try:
        app = create_app()
    except ModuleNotFoundError as exc:
        if exc.name not in _EXTRA:
            raise
        sys.exit(f"resilient-mcp: {exc.name} is not installed: pip install 'resilient-mcp[cli]'")
    app()


def create_app() -> "typer.Typer":
    """The typer app with all commands. Another one is another function in here.

    Raises:
        ModuleNotFoundError: The extra `cli` is not installed.
    """
    import rich  # noqa: F401, PLC0415 - missing, it must be missed here
    import typer  # noqa: PLC0415 - optional

    # Pretty tracebacks show local variables, and those may be secrets.
    app = typer.Typer(name="resilient-mcp", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    def print_version(wanted: bool) -> None:
        if wanted:
            from importlib.metadata import version  # noqa: PLC0415

            typer.echo(f"resilient-mcp {version('resilient-mcp')} (mcp {version('mcp')})")
            raise typer.Exit

    @app.callback()
    def common(
        *,
        version: Annotated[
            bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
        ] = False,
    ) -> None:
        """A client for MCP servers that survives crashes, lost sessions and overload."""

    @app.command()
    def demo() -> None:
        """Watch a plain ClientSession and ResilientClient meet the same faults, side by side (20 seconds, offline)."""
        from ..demo.screen import show  # noqa: PLC0415 - needs the extra
        from .run import run  # noqa: PLC0415 - quick to start without it

        raise typer.Exit(run(show()))

    config_file = typer.Argument(metavar="CONFIG", help="An mcpServers file: JSON, as MCP hosts keep it.")

    @app.command()
    def check(
        config: Annotated[Path, config_file],
        *,
        server: Annotated[
            list[str] | None, typer.Option(metavar="NAME", help="Only this server; may be given again.")
        ] = None,
        timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How long each server may take.")] = 30,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Connect to every server of a file, side by side, and say how each one is.

        Exit status 0 if all are well, 1 if any is not, 2 if the file cannot be used.
        """
        from .check import run  # noqa: PLC0415 - needs the extra

        raise typer.Exit(run(_load(config, server or []), timeout=timeout, as_json=as_json))

    @app.command()
    def call(
        config: Annotated[Path, config_file],
        server: Annotated[str, typer.Argument(metavar="SERVER", help="Its name in the file.")],
        tool: Annotated[str, typer.Argument(metavar="TOOL", help="The tool's name.")],
        arguments: Annotated[str, typer.Argument(metavar="JSON", help="Its arguments, as a JSON object.")] = "{}",
        *,
        as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
    ) -> None:
        """Call one tool of one server; what was retried is told on stderr.

        Exit status 0 with an answer, 1 with an error or none, 2 if the file or the arguments cannot be used.
        """
        from .call import run  # noqa: PLC0415 - quick to start without it

        found = _load(config, [server])[server]
        raise typer.Exit(run(server, found, tool, _object(arguments, "the arguments"), as_json=as_json))

    @app.command(context_settings={"ignore_unknown_options": True})
    def wrap(
        command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND", help="Starts the server.")] = None,
        *,
        url: Annotated[str | None, typer.Option(help="The server's URL, instead of a command.")] = None,
        header: Annotated[
            list[str] | None, typer.Option(metavar="HEADER", help="An HTTP header, 'Name: value'; ${VAR} is expanded.")
        ] = None,
        policy: Annotated[str, typer.Option(metavar="JSON", help="The policy, as 'resilience' in a file.")] = "{}",
    ) -> None:
        """Be an MCP server on stdin and stdout, in front of a real one that may crash, hang or lose its session.

        In a host's configuration, write this command in front of the server's own:

        "command": "resilient-mcp", "args": ["wrap", "--", "npx", "-y", "some-mcp-server"]
        """
        from .wrap import client_of, run  # noqa: PLC0415 - quick to start without it

        try:
            client = client_of(command or [], url, header or [], _object(policy, "the policy"))
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from None
        raise typer.Exit(run(client))

    @app.command()
    def schema() -> None:
        """Print the JSON schema of an mcpServers file with this library's additions."""
        from ..config import json_schema  # noqa: PLC0415 - quick to start without it

        typer.echo(json.dumps(json_schema(), indent=2))

    return app


def _load(path: Path, names: list[str]) -> "dict[str, ServerConfig]":
    """The servers of a file, or those of `names`; ends the command with status 2 if that cannot be."""
    import typer  # noqa: PLC0415 - optional

    from ..config import ConfigError, load  # noqa: PLC0415 - quick to start without it

    try:
        servers = load(path)
    except ConfigError as exc:
        typer.echo(exc, err=True)
        raise typer.Exit(2) from None
    for name in names:
        if name not in servers:
            known = ", ".join(map(repr, servers)) or "none"
            typer.echo(f"{path}: there is no server {name!r}; there is {known}", err=True)
            raise typer.Exit(2)
    return {name: server for name, server in servers.items() if not names or name in names}


def _object(text: str, what: str) -> dict[str, Any]:
    """`text` as a JSON object; ends the command with status 2 if it is none."""
    import typer  # noqa: PLC0415 - optional

    remedy = """write a JSON object such as '{"city": "Oslo"}'"""
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{what}: not JSON ({exc}): {remedy}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{what}: {text[:50]!r} is no object: {remedy}")
    return value
