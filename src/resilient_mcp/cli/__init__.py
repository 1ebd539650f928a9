"""The command `resilient-mcp`. It needs the extra `cli`: typer and rich are imported when it runs, not before."""

import sys

from .signals import signals

_EXTRA = frozenset({"typer", "rich"})


def main() -> None:
    """Run the command; the entry point `resilient-mcp`."""
    signals.install()  # before the imports, which take most of the time of a quick command
    try:
        from .app import app  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        if exc.name not in _EXTRA:
            raise
        sys.exit(f"resilient-mcp: {exc.name} is not installed: pip install 'resilient-mcp[cli]'")
    app()
