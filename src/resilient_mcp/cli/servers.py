"""The client of one server of a file, as commands use it."""

from __future__ import annotations

from mcp import StdioServerParameters

from ..client import ResilientClient
from ..config import ServerConfig
from ..observability.hub import Listener
from ..verdicts.remedies import Wording


def client_of(name: str, server: ServerConfig, on_event: Listener | None = None) -> ResilientClient:
    """A client that is silent about what its server writes to stderr: the command shows what matters of it."""
    client = ResilientClient(server.server, name=name, policy=server.policy, on_event=on_event, errlog=None)
    is_process = isinstance(server.server, StdioServerParameters)
    where = "its 'command', 'args', 'env' and 'cwd' in the file" if is_process else "its 'url' in the file"
    client.reword(Wording(where, "the credentials in its 'headers' in the file"))
    return client
