"""The OpenAI Agents SDK: `ResilientMCPServer`, one of its MCP servers in front of a `ResilientClient`."""

from __future__ import annotations

from typing import Any

try:
    from agents.mcp import MCPServerStdio
except ImportError as exc:
    raise ImportError("resilient_mcp.integrations.openai_agents needs OpenAI's SDK: install openai-agents") from exc

from ..bridge import BridgeTransport
from ..client import ResilientClient


class ResilientMCPServer(MCPServerStdio):
    """An MCP server for `Agent(mcp_servers=[...])`, with all that the framework's own ones can.

    Args:
        client: One that was not started is started by `connect()` and closed by `cleanup()`. One that was is left
            running, and may be connected again.
        **options: As on the framework's `MCPServerStdio`: `name`, `tool_filter`, `cache_tools_list`,
            `require_approval`, `message_handler`, ... but `params`. The time limits of calls are those of the client's
            policy. Leave `max_retry_attempts` at 0, for it repeats calls that may have run.

    Example:
        >>> server = ResilientMCPServer(ResilientClient("https://example.com/mcp"), cache_tools_list=True)
        >>> server.name
        'https://example.com/mcp'
    """

    def __init__(self, client: ResilientClient, **options: Any) -> None:
        # The client's policy has the time limits; the framework's 5 s are less than many servers need to start.
        defaults = {"name": client.name, "client_session_timeout_seconds": None}
        super().__init__({"command": client.name}, **defaults | options)
        self._client = client

    def create_streams(self) -> BridgeTransport:
        """The streams of a server in front of the client: the framework's handshake and its `message_handler`."""
        return self._client.as_transport()

    async def connect(self) -> None:
        """Connect, and let calls go to the client itself: cancelled ones are cancelled on the server.

        The session of mcp 1.x, which the framework makes, tells nobody of a cancelled call.
        """
        await super().connect()
        self.session = self._client
