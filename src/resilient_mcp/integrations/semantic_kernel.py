"""Semantic Kernel: `ResilientPlugin`, an MCP plugin backed by a `ResilientClient`."""

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
    """An MCP plugin for a kernel or an agent, with all features of the framework's own plugins.

    Args:
        client: If it is not started yet, `connect()` starts it and `close()` closes it. If it is, it is left running
            and may be connected again.
        name: The plugin's name, as shown to models.
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
        """The client as a pair of streams, for the framework's handshake and its callbacks."""
        return self._client.as_transport()

    async def connect(self) -> None:
        """Connect, then send calls directly to the client, so that a cancelled call is also cancelled on the server.

        The framework's own session (mcp 1.x) does not notify the server of a cancelled call.

        Raises:
            KernelPluginInvalidConfigurationError: The server did not become ready; the cause says why.
        """
        await super().connect()
        if self.session is None:  # the handshake failed: the task raises the reason
            await self._current_task
        self.session = self._client

    async def _inner_connect(self, ready_event: asyncio.Event) -> None:
        try:
            await super()._inner_connect(ready_event)
        finally:
            ready_event.set()  # the framework does not when the handshake fails, and `connect()` would wait forever
