"""mcp-use: `ResilientMCPClient`, an `MCPClient` with a `ResilientClient` for each server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.types import CallToolResult, TextContent

try:
    from mcp_use import MCPClient
    from mcp_use.client.connectors.base import BaseConnector
    from mcp_use.client.middleware import CallbackClientSession
    from mcp_use.client.session import MCPSession
except ImportError as exc:
    raise ImportError("resilient_mcp.integrations.mcp_use needs mcp-use: install mcp-use") from exc

from ..client import ResilientClient
from ..errors import ResilienceError


class ResilientMCPClient(MCPClient):
    """The client for an `MCPAgent`.

    Args:
        clients: Clients by server name. A client is started when its session is created and closed with it. Pass
            callbacks (sampling, elicitation, roots, log messages) to the clients. Leave `on_unavailable` at its
            default, "raise": the framework adds a stack trace to every result that is an error.
        allowed_servers: As on the framework's `MCPClient`.
        code_mode: As on the framework's `MCPClient`: whether the model writes code that calls the tools.
        middleware: As on the framework's `MCPClient`: applied to every request.
    """

    def __init__(
        self,
        clients: Mapping[str, ResilientClient],
        *,
        allowed_servers: list[str] | None = None,
        code_mode: bool = False,
        middleware: list[Any] | None = None,
    ) -> None:
        config: dict[str, Any] = {"mcpServers": {name: {} for name in clients}}
        super().__init__(config, allowed_servers, code_mode=code_mode, middleware=middleware)
        self._clients = clients

    async def create_session(self, server_name: str, auto_initialize: bool = True) -> MCPSession:
        """Connect to a server.

        Raises:
            ServerUnavailable: It did not become ready, or cannot (`ServerFailed`).
            KeyError: There is no server with this name.
        """
        session = MCPSession(ResilientConnector(self._clients[server_name], self.middleware))
        if auto_initialize:
            await session.initialize()
        self.sessions[server_name] = session
        if server_name not in self.active_sessions:
            self.active_sessions.append(server_name)
        return session


class ResilientConnector(BaseConnector):
    """A connector whose session is a `ResilientClient`.

    Args:
        client: Started by `connect()` and closed by `disconnect()`.
        middleware: As on the framework's connectors.
    """

    def __init__(self, client: ResilientClient, middleware: list[Any] | None = None) -> None:
        super().__init__(middleware=middleware)
        self._client = client

    @property
    def public_identifier(self) -> str:
        """The name used in the framework's logs."""
        return f"resilient:{self._client.name}"

    async def connect(self) -> None:
        """Start the client."""
        if not self.is_connected:
            await self._client.start()
            self.client_session = CallbackClientSession(self._client, self.public_identifier, self.middleware_manager)
            self._connected = True

    async def call_tool(self, name: str, arguments: dict[str, Any], read_timeout_seconds: Any = None) -> CallToolResult:
        """Call a tool. If the client gives up, its advice is returned as an ordinary result, not as an error."""
        try:
            result: CallToolResult = await super().call_tool(name, arguments, read_timeout_seconds)
        except ResilienceError as exc:
            result = CallToolResult(content=[TextContent(type="text", text=exc.advice)])
        return result
