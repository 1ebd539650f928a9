"""`Session`: the type of a parameter that takes a `ClientSession` or a `ResilientClient`.

`ResilientClient` is not declared a subclass of `ClientSession` for type checkers, because that would be untrue: it is
not made from a `read_stream` and a `write_stream`, and has none of the base class's internals.
"""

from typing import Any, Protocol, TypeVar, overload

from mcp import types
from pydantic import BaseModel

_Result = TypeVar("_Result", bound=BaseModel)


class _Progress(Protocol):
    """The SDK's `ProgressFnT`, which the two majors define in different modules."""

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None: ...


class Session(Protocol):
    """The methods that the SDK's `ClientSession` and `ResilientClient` share, with the arguments that both take.

    A type checker accepts either of them as a `Session`, on both majors of mcp. The lists of an `mcp.Client` take other
    arguments (`cursor` instead of `params`): pass its `session`.

    Arguments whose types differ between the majors are `Any`: a URI is an `AnyUrl` on 1.x and a string on 2.x, a time
    limit is a `timedelta` on 1.x and a number of seconds on 2.x. `ResilientClient` takes either on both.

    Example:
        >>> async def count_tools(session: Session) -> int:
        ...     return len((await session.list_tools()).tools)
    """

    async def initialize(self) -> types.InitializeResult: ...

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: Any = None,
        progress_callback: _Progress | None = None,
        *,
        meta: Any = None,
    ) -> types.CallToolResult: ...

    @overload
    async def list_tools(self, *, params: types.PaginatedRequestParams | None) -> types.ListToolsResult: ...
    @overload
    async def list_tools(self) -> types.ListToolsResult: ...

    @overload
    async def list_resources(self, *, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult: ...
    @overload
    async def list_resources(self) -> types.ListResourcesResult: ...

    @overload
    async def list_resource_templates(
        self, *, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult: ...
    @overload
    async def list_resource_templates(self) -> types.ListResourceTemplatesResult: ...

    async def read_resource(self, uri: Any) -> types.ReadResourceResult: ...

    async def subscribe_resource(self, uri: Any) -> types.EmptyResult: ...

    async def unsubscribe_resource(self, uri: Any) -> types.EmptyResult: ...

    @overload
    async def list_prompts(self, *, params: types.PaginatedRequestParams | None) -> types.ListPromptsResult: ...
    @overload
    async def list_prompts(self) -> types.ListPromptsResult: ...

    async def get_prompt(self, name: str, arguments: dict[str, str] | None = None) -> types.GetPromptResult: ...

    async def complete(
        self,
        ref: types.ResourceTemplateReference | types.PromptReference,
        argument: dict[str, str],
        context_arguments: dict[str, str] | None = None,
    ) -> types.CompleteResult: ...

    async def send_ping(self) -> types.EmptyResult: ...

    async def set_logging_level(self, level: types.LoggingLevel) -> types.EmptyResult: ...

    async def send_progress_notification(
        self, progress_token: str | int, progress: float, total: float | None = None, message: str | None = None
    ) -> None: ...

    async def send_roots_list_changed(self) -> None: ...

    async def send_request(
        self,
        request: types.ClientRequest,
        result_type: type[_Result],
        request_read_timeout_seconds: Any = None,
        metadata: Any = None,
        progress_callback: _Progress | None = None,
    ) -> _Result: ...

    async def send_notification(self, notification: types.ClientNotification) -> None: ...
