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

# Options of `McpToolset` that apply to the connections it opens itself.
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


class ResilientToolset(McpToolset):
    """ADK's `McpToolset` on an existing client: `ResilientToolset(client)`.

    Give the client `Policy(on_unavailable="result")`, so that the model gets advice when a call is given up.

    Args:
        client: The client. You start and close it; all users of the agent share it.
        **options: Options of `McpToolset`, except those of a connection: pass credentials and callbacks to the client.

    Raises:
        TypeError: An option has no effect with a `ResilientClient`.
    """

    def __init__(self, client: ResilientClient, **options: Any) -> None:
        if idle := sorted(_OF_A_CONNECTION & options.keys()):
            raise TypeError(f"ResilientToolset() got {', '.join(idle)}: pass connection options to the ResilientClient")
        # Parameters of a type that ADK does not know, so that it cannot connect by itself, bypassing the client.
        params: Any = SimpleNamespace(timeout=client.policy.timeout.total)
        super().__init__(connection_params=params, **options)
        self._mcp_session_manager = _OneSession(client, params)


class _OneSession(MCPSessionManager):
    """A session manager that always returns the client and opens and closes nothing."""

    def __init__(self, client: ResilientClient, params: Any) -> None:
        super().__init__(connection_params=params)
        self._client = client

    async def create_session(self, headers: dict[str, str] | None = None) -> Any:  # noqa: ARG002 - ADK's signature
        return self._client
