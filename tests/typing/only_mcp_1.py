"""What differs with mcp 1.x: the callbacks and their contexts. Comments as in `rejected.py`."""

# pyright: strict

from datetime import timedelta
from typing import Any

from mcp import ClientSession, types
from mcp.client.session import MessageHandlerFnT, SamplingFnT
from mcp.shared.context import RequestContext
from mcp.shared.session import ProgressFnT, RequestResponder
from pydantic import AnyUrl

from resilient_mcp import ResilientClient, Session

Context = RequestContext[ClientSession, Any]
Message = RequestResponder[types.ServerRequest, types.ClientResult] | types.ServerNotification | Exception


async def elicit(context: Context, params: types.ElicitRequestParams) -> types.ElicitResult | types.ErrorData:
    return types.ElicitResult(action="decline")


async def roots(context: Context) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


async def handle(message: Message) -> None:
    print(message)


async def handle_text(message: str) -> None:
    print(message)


def clients(sample: SamplingFnT, handler: MessageHandlerFnT) -> None:
    ResilientClient("https://example.com/mcp", elicitation_callback=elicit, list_roots_callback=roots)
    ResilientClient("https://example.com/mcp", sampling_callback=sample, message_handler=handle)
    ResilientClient("https://example.com/mcp", message_handler=handler)
    ResilientClient("https://example.com/mcp", message_handler=handle_text)  # error: arg-type | reportArgumentType


async def use(session: Session, client: ResilientClient, progress: ProgressFnT) -> None:
    await session.call_tool("x", {}, timedelta(seconds=5), progress)
    await client.call_tool("x", {}, timedelta(seconds=5), progress)
    await session.read_resource(AnyUrl("file:///notes"))
