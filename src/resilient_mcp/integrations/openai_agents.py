"""OpenAI Agents SDK: `ResilientMCPServer`, an MCP server of the framework backed by a `ResilientClient`."""

from __future__ import annotations

from typing import Any

try:
    from agents.mcp import MCPServerStdio
except ImportError as exc:
    raise ImportError("resilient_mcp.integrations.openai_agents needs OpenAI's SDK: install openai-agents") from exc

from ..bridge import BridgeTransport
from ..client import ResilientClient


class ResilientMCPServer(MCPServerStdio):
    """An MCP server for `Agent(mcp_servers=[...])`, with all features of the framework's own servers.

    Args:
        client: If it is not started yet, `connect()` starts it and `cleanup()` closes it. If it is, it is left running
            and may be connected again.
        **options: As on the framework's `MCPServerStdio`: `name`, `tool_filter`, `cache_tools_list`,
            `require_approval`, `message_handler`, ..., except `params`. The time limits of calls are those of the
            client's policy. Leave `max_retry_attempts` at 0: it repeats calls that may have run.

    Example:
        >>> server = ResilientMCPServer(ResilientClient("https://example.com/mcp"), cache_tools_list=True)
        >>> server.name
        'https://example.com/mcp'
    """

    def __init__(self, client: ResilientClient, **options: Any) -> None:
        # The client's policy sets the time limits; many servers take longer to start than the framework's 5 s.
        defaults = {"name": client.name, "client_session_timeout_seconds": None}
        super().__init__({"command": client.name}, **defaults | options)
        self._client = client

    def create_streams(self) -> BridgeTransport:
        """The client as a pair of streams, for the framework's handshake and its `message_handler`."""
        return self._client.as_transport()

    async def connect(self) -> None:
        """Connect, then send calls directly to the client, so that a cancelled call is also cancelled on the server.

        The framework's own session (mcp 1.x) does not notify the server of a cancelled call.
        """
        await super().connect()
        self.session = self._client
