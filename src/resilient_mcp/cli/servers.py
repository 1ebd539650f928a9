"""Creates the client for one server of a file, as the commands use it."""

from __future__ import annotations

from ..client import ResilientClient
from ..config import ServerConfig
from ..connection.server import server_of
from ..observability.hub import Listener
from ..verdicts.remedies import Wording


def client_of(name: str, server: ServerConfig, on_event: Listener | None = None) -> ResilientClient:
    """A client that does not pass on its server's stderr: the command shows the relevant lines itself."""
    client = ResilientClient(
        server.server, name=name, policy=server.policy, headers=server.headers, on_event=on_event, errlog=None
    )
    is_process = server_of(server.server).is_process
    where = "its 'command', 'args', 'env' and 'cwd' in the file" if is_process else "its 'url' in the file"
    client.reword(Wording(where, "the credentials in its 'headers' in the file"))
    return client
