"""Extensions: tools, methods and result shapes beside the protocol's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp import MCPError
from mcp.client import ClaimContext, ClientExtension, ResultClaim, UnexpectedClaimedResult, advertise
from mcp.types import CallToolResult

from .. import snippet
from .shapes import LOANS, LoanStatus, LoanStatusParams, LoanStatusRequest, Ticket


class LoanDesk(ClientExtension):
    """Exchanges a ticket for the book."""

    identifier = LOANS

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="ticket", model=Ticket, resolve=self._collect)]

    async def _collect(self, ticket: Ticket, context: ClaimContext) -> CallToolResult:
        print("ticket", ticket.ticket_number, "for", context.tool_name)
        return await context.session.call_tool("collect", {"ticket": ticket.ticket_number})


@snippet("library")
async def use_the_tool_of_an_extension(connect, server):
    async with connect(server, extensions=[advertise(LOANS)]) as client:
        print(client.server_capabilities.extensions)
        print(sorted(tool.name for tool in (await client.list_tools()).tools))
        print((await client.call_tool("_renew", {"book": "atlas"})).content)


@snippet("library")
async def send_the_request_of_an_extension(connect, server):
    async with connect(server, extensions=[advertise(LOANS)]) as client:
        request = LoanStatusRequest(params=LoanStatusParams(reader="kim", limit=3))
        print((await client.session.send_request(request, LoanStatus)).books)


@snippet("library")
async def resolve_the_results_of_an_extension(connect, server):
    async with connect(server, extensions=[LoanDesk()]) as client:
        print((await client.call_tool("borrow", {"book": "atlas"})).content)


@snippet("library")
async def do_without_an_extension(connect, server):
    async with connect(server) as client:
        try:
            print(await client.call_tool("borrow", {"book": "atlas"}))
        except MCPError as exc:
            print(exc.code, exc.message, exc.data)


@snippet("library")
async def take_the_result_of_an_extension_as_it_is(connect, server):
    async with connect(server, extensions=[LoanDesk()]) as client:
        print(await client.session.call_tool("borrow", {"book": "atlas"}, allow_claimed=True))
        try:
            await client.session.call_tool("borrow", {"book": "atlas"})
        except UnexpectedClaimedResult as exc:
            print(exc.result)


@snippet("library")
async def name_an_extension_twice(connect, server):
    try:
        connect(server, extensions=[advertise(LOANS), LoanDesk()])
    except ValueError as exc:
        print(exc)
