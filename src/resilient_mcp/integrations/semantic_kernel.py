"""Semantic Kernel: `ResilientPlugin`, one of its MCP plugins in front of a `ResilientClient`."""

from __future__ import annotations

import asyncio
from typing import Any

try:
    from semantic_kernel.connectors.mcp import MCPPluginBase
except ImportError as exc:
    raise ImportError(
        "resilient_mcp.integrations.semantic_kernel needs Semantic Kernel: install semantic-kernel"
    ) from exc

from ..bridge import BridgeTransport
from ..client import ResilientClient


class ResilientPlugin(MCPPluginBase):
    """An MCP plugin for a kernel or an agent, with all that the framework's own ones can.

    Args:
        client: One that was not started is started by `connect()` and closed by `close()`. One that was is left
            running, and may be connected again.
        name: The plugin's name, as models see it.
        **options: As on the framework's `MCPStdioPlugin`: `description`, `load_prompts`, `kernel`,
            `sampling_consent_callback`, ... The time limits of calls are those of the client's policy.

    Example:
        >>> plugin = ResilientPlugin(ResilientClient("https://example.com/mcp"), "weather")
        >>> plugin.name
        'weather'
    """

    session: Any

    def __init__(self, client: ResilientClient, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._client = client

    def get_mcp_client(self) -> BridgeTransport:
        """The streams of a server in front of the client: the framework's handshake and its callbacks."""
        return self._client.as_transport()

    async def connect(self) -> None:
        """Connect, and let calls go to the client itself: cancelled ones are cancelled on the server.

        The session of mcp 1.x, which the framework makes, tells nobody of a cancelled call.

        Raises:
            KernelPluginInvalidConfigurationError: The server did not get ready; its cause says why.
        """
        await super().connect()
        if self.session is None:
            await self._current_task
        self.session = self._client

    async def _inner_connect(self, ready_event: asyncio.Event) -> None:
        try:
            await super()._inner_connect(ready_event)
        finally:
            ready_event.set()  # `connect()` waits for it, the framework's own for ever when the handshake failed
