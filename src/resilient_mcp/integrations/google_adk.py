"""A toolset for Google's ADK whose tools are called through a `ResilientClient`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ..client import ResilientClient

try:
    from google.adk.tools.mcp_tool import McpToolset
    from google.adk.tools.mcp_tool.mcp_session_manager import MCPSessionManager
except ImportError as exc:
    raise ImportError("resilient_mcp.integrations.google_adk needs ADK 2: install google-adk>=2,<3") from exc

_OF_A_CONNECTION = frozenset(
    {
        "connection_params",
        "auth_scheme",
        "auth_credential",
        "credential_key",
        "header_provider",
        "errlog",
        "sampling_callback",
        "sampling_capabilities",
        "elicitation_callback",
    }
)
"""Options of `McpToolset` for the connections that it makes itself."""


class ResilientToolset(McpToolset):
    """ADK's `McpToolset` on a client that is already there: `ResilientToolset(client)`.

    Give the client `Policy(on_unavailable="result")`, so that the model gets advice where a call is given up.

    Args:
        client: The client. It is yours to start and to close, and all who use the agent share it.
        **options: Options of `McpToolset`, but for those of a connection: credentials and callbacks go to the client.

    Raises:
        TypeError: An option would have no effect on this client.
    """

    def __init__(self, client: ResilientClient, **options: Any) -> None:
        if idle := sorted(_OF_A_CONNECTION & options.keys()):
            raise TypeError(f"ResilientToolset() got {', '.join(idle)}: its connection is the ResilientClient's")
        # No parameters that ADK knows: it could not connect by itself if its toolset ever asked another manager.
        params: Any = SimpleNamespace(timeout=client.policy.timeout.total)
        super().__init__(connection_params=params, **options)
        self._mcp_session_manager = _OneSession(client, params)


class _OneSession(MCPSessionManager):
    """Has the client for a session, and nothing to open or to close."""

    def __init__(self, client: ResilientClient, params: Any) -> None:
        super().__init__(connection_params=params)
        self._client = client

    async def create_session(self, headers: dict[str, str] | None = None) -> Any:  # noqa: ARG002 - ADK's signature
        return self._client
