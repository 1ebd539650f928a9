"""The `resilient-mcp` command. It needs the extra `cli`; typer and rich are imported only when it runs."""

import sys

from .signals import signals

_EXTRA = frozenset({"typer", "rich"})


def main() -> None:
    """Run the command (the `resilient-mcp` entry point)."""
    signals.install()  # before the imports, which take most of a short command's run time
    try:
        from .app import app  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        if exc.name not in _EXTRA:
            raise
        sys.exit(f"resilient-mcp: {exc.name} is not installed: pip install 'resilient-mcp[cli]'")
    app()
