"""The command `resilient-mcp`. It needs the extra `cli`: typer and rich are imported when it runs, not before."""

import sys
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    import typer

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
        from .demo.screen import show  # noqa: PLC0415 - needs the extra

        raise typer.Exit(0 if show() else 1)

    return app
