"""The clients that commands create for the servers of a file: messages name the file's keys, not Python's."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import StdioServerParameters

from resilient_mcp import Event, Policy
from resilient_mcp._sdk.installed import SseServerParameters, StreamableHttpParameters
from resilient_mcp.cli.servers import client_of
from resilient_mcp.config import ServerConfig

COMMAND = "its 'command', 'args', 'env' and 'cwd' in the file"
URL = "its 'url' in the file"


@pytest.mark.parametrize(
    ("server", "where"),
    [
        (StdioServerParameters(command="npx"), COMMAND),
        (StreamableHttpParameters(url="http://127.0.0.1:9/mcp"), URL),
        (SseServerParameters(url="http://127.0.0.1:9/sse"), URL),
    ],
)
def test_where_to_look(server: Any, where: str):
    """What a person has to check are the keys of the server's entry, by its kind."""
    wording = client_of("x", ServerConfig(server, Policy()))._supervisor.wording
    assert wording.server == where
    assert wording.credentials == "the credentials in its 'headers' in the file"
    assert not wording.restart  # a command ends before anything could be restarted


def test_name_policy_and_listener():
    """The client has the name and the policy of the entry, reports its events, and does not pass on stderr."""
    events: list[Event] = []
    policy = Policy(max_message_bytes=2000)
    client = client_of("weather", ServerConfig(StdioServerParameters(command="npx"), policy), events.append)
    assert (client.name, client.policy) == ("weather", policy)
    assert client._connector._errlog is None
    client._hub.emit(Event(server="weather"))
    assert [event.server for event in events] == ["weather"]
