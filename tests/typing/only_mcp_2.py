"""What differs with mcp 2.x: callbacks, contexts, `mcp.Client`, type adapters. Comments as in `rejected.py`."""

# pyright: strict

from mcp import Client, types
from mcp.client.session import ClientRequestContext, IncomingMessage, MessageHandlerFnT, SamplingFnT
from mcp.shared.dispatcher import ProgressFnT
from pydantic import TypeAdapter
from typing_extensions import assert_type

from resilient_mcp import ResilientClient, Session


async def elicit(
    context: ClientRequestContext, params: types.ElicitRequestParams
) -> types.ElicitResult | types.ErrorData:
    return types.ElicitResult(action="decline")


async def roots(context: ClientRequestContext) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


async def handle(message: IncomingMessage) -> None:
    print(message)


async def handle_text(message: str) -> None:
    print(message)


def clients(sample: SamplingFnT, handler: MessageHandlerFnT) -> None:
    ResilientClient("https://example.com/mcp", elicitation_callback=elicit, list_roots_callback=roots)
    ResilientClient("https://example.com/mcp", sampling_callback=sample, message_handler=handle)
    ResilientClient("https://example.com/mcp", message_handler=handler, mode="legacy")
    ResilientClient("https://example.com/mcp", message_handler=handle_text)  # error: arg-type | reportArgumentType


async def send(client: ResilientClient) -> None:
    either = TypeAdapter[types.CallToolResult | types.InputRequiredResult](types.CallToolResult)
    answer = await client.send_request(types.ListToolsRequest(), either)
    assert_type(answer, types.CallToolResult | types.InputRequiredResult)


async def use(session: Session, progress: ProgressFnT) -> None:
    await session.call_tool("x", {}, 5.0, progress)
    await session.read_resource("file:///notes")


async def choose(client: Client) -> None:
    await use(client.session, print_progress)
    await use(client, print_progress)  # error: arg-type | reportArgumentType


async def view(client: ResilientClient) -> None:
    await use(client.session, print_progress)
    assert_type(await client.session.call_tool("x", {"city": "Oslo"}, 5, print_progress), types.CallToolResult)
    assert_type(await client.session.list_tools(), types.ListToolsResult)
    print(await client.session.call_tool("x", allow_input_required=True))
    assert_type(await client.session.get_prompt("x"), str)  # error: assert-type | reportAssertTypeFailure


async def print_progress(progress: float, total: float | None, message: str | None) -> None:
    print(progress, total, message)
