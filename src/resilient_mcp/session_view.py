"""The counterpart of `mcp.Client.session`: the same calls, with no input rounds driven and no claims resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from mcp import types

if TYPE_CHECKING:
    from .session import Session as _Session  # whose methods come from `__getattr__`
else:
    _Session = object


class SessionView(_Session):
    """A client that behaves like the `ClientSession` of mcp 2.x; it retries and reconnects as the client does.

    Args:
        client: The `ResilientClient`, which provides everything that is not defined here.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @overload
    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: Any = None,
        progress_callback: Any = None,
        *,
        meta: Any = None,
        allow_input_required: Literal[False] = False,
        **options: Any,
    ) -> types.CallToolResult: ...
    @overload
    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: Any = None,
        progress_callback: Any = None,
        *,
        allow_input_required: bool,
        **options: Any,
    ) -> Any: ...
    async def call_tool(self, *args: Any, allow_input_required: bool = False, **options: Any) -> Any:
        """As on `ClientSession`: a result that requests input, or that an extension claims, must be allowed."""
        return await self._client.call_tool(*args, allow_input_required=allow_input_required, **options)

    @overload
    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, str] | None = None,
        *,
        allow_input_required: Literal[False] = False,
        **options: Any,
    ) -> types.GetPromptResult: ...
    @overload
    async def get_prompt(
        self, name: str, arguments: dict[str, str] | None = None, *, allow_input_required: bool, **options: Any
    ) -> Any: ...
    async def get_prompt(self, *args: Any, allow_input_required: bool = False, **options: Any) -> Any:
        """The same for a prompt."""
        return await self._client.get_prompt(*args, allow_input_required=allow_input_required, **options)

    @overload
    async def read_resource(
        self, uri: Any, *, allow_input_required: Literal[False] = False, **options: Any
    ) -> types.ReadResourceResult: ...
    @overload
    async def read_resource(self, uri: Any, *, allow_input_required: bool, **options: Any) -> Any: ...
    async def read_resource(self, *args: Any, allow_input_required: bool = False, **options: Any) -> Any:
        """The same for a resource."""
        return await self._client.read_resource(*args, allow_input_required=allow_input_required, **options)
