"""Servers of mcp 2.x beside the garden: the low-level API, the newest protocol version and extensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import mcp.types as types
from mcp import MCPError
from mcp.server import CacheHint, MCPServer, Server, ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp.server.extension import Extension, MethodBinding, ToolBinding
from mcp.server.mcpserver import (
    AcceptedElicitation,
    Context,
    Elicit,
    ElicitationResult,
    ListRoots,
    Resolve,
    Sample,
    require_client_extension,
)
from mcp.server.mcpserver.prompts.base import UserMessage
from pydantic import BaseModel

from .shapes import LOANS, LoanStatus, LoanStatusParams

SHELVES = [f"shelf-{n}" for n in range(1, 8)]
PAGE = 3
ANY_OBJECT = {"type": "object", "properties": {}}
Ctx = ServerRequestContext[Any, Any]
Paginated = types.PaginatedRequestParams | None


def text(content: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=content)])


def archive() -> Server:
    """Lists by pages, subscriptions, log levels, and a tool that breaks its own output schema."""
    wanted: set[str] = set()
    level: types.LoggingLevel = "info"

    def page(params: Paginated) -> tuple[list[str], str | None]:
        start = 0 if params is None or params.cursor is None else int(params.cursor)
        end = start + PAGE
        return SHELVES[start:end], str(end) if end < len(SHELVES) else None

    async def list_tools(ctx: Ctx, params: Paginated) -> types.ListToolsResult:
        number = {"type": "object", "properties": {"pages": {"type": "integer"}}, "required": ["pages"]}
        count = types.Tool(name="count", input_schema=ANY_OBJECT, output_schema=number)
        others = [types.Tool(name=name, input_schema=ANY_OBJECT) for name in ("file", "whisper", "refuse")]
        return types.ListToolsResult(tools=[count, *others])

    async def list_resources(ctx: Ctx, params: Paginated) -> types.ListResourcesResult:
        names, cursor = page(params)
        shelves = [types.Resource(uri=f"archive://{name}", name=name) for name in names]
        return types.ListResourcesResult(resources=shelves, next_cursor=cursor)

    async def list_prompts(ctx: Ctx, params: Paginated) -> types.ListPromptsResult:
        names, cursor = page(params)
        return types.ListPromptsResult(prompts=[types.Prompt(name=name) for name in names], next_cursor=cursor)

    async def subscribe(ctx: Ctx, params: types.SubscribeRequestParams) -> types.EmptyResult:
        wanted.add(params.uri)
        return types.EmptyResult()

    async def unsubscribe(ctx: Ctx, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        wanted.discard(params.uri)
        return types.EmptyResult()

    async def set_level(ctx: Ctx, params: types.SetLevelRequestParams) -> types.EmptyResult:
        nonlocal level
        level = params.level
        return types.EmptyResult()

    async def call_tool(ctx: Ctx, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name == "count":
            return types.CallToolResult(content=[], structured_content={"pages": "many"})
        if params.name == "refuse":
            raise MCPError(code=types.INVALID_PARAMS, message="closed on Mondays", data={"until": "Tuesday"})
        if params.name == "file":
            for uri in sorted(wanted):
                await ctx.session.send_resource_updated(uri)
            return text(f"{len(wanted)} notified")
        if params.name == "whisper":
            message = f"the level is {level}"
            await ctx.session.send_log_message(level, message, logger="archive", related_request_id=ctx.request_id)
            return text("whispered")
        return text("not on the list")

    return Server(
        "archive",
        version="3.1",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_prompts=list_prompts,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_set_logging_level=set_level,
    )


class Reservation(BaseModel):
    """The details of a reservation."""

    days: int


def _ask_days(book: str) -> Reservation | Elicit[Reservation]:
    return Reservation(days=1) if book == "leaflet" else Elicit(f"For how many days is {book}?", Reservation)


def _ask_model(book: str) -> Sample:
    prompt = types.SamplingMessage(role="user", content=types.TextContent(text=f"Praise {book}"))
    return Sample([prompt], max_tokens=20)


def _ask_roots() -> ListRoots:
    return ListRoots()


def desk() -> MCPServer:
    """Requests input in its results, as servers at 2026-07-28 do."""
    server = MCPServer("desk", log_level="ERROR")

    @server.tool()
    async def reserve(book: str, wish: Annotated[ElicitationResult[Reservation], Resolve(_ask_days)]) -> str:
        """Reserve a book."""
        if isinstance(wish, AcceptedElicitation):
            return f"{book} for {wish.data.days} days"
        return f"{book}: {type(wish).__name__}"

    @server.tool()
    async def praise(book: str, words: Annotated[types.CreateMessageResult, Resolve(_ask_model)]) -> str:
        """Let the client's model write."""
        return f"{words.model}: {words.content.text}"

    @server.tool()
    async def folders(roots: Annotated[types.ListRootsResult, Resolve(_ask_roots)]) -> list[str]:
        """Name the client's folders."""
        return [str(root.uri) for root in roots.roots]

    reader = types.ElicitRequest(
        params=types.ElicitRequestFormParams(
            message="Who reads?",
            requested_schema={"type": "object", "properties": {"reader": {"type": "string"}}, "required": ["reader"]},
        )
    )

    @server.tool()
    async def insatiable(ctx: Context) -> types.CallToolResult | types.InputRequiredResult:
        """Ask again and again."""
        return types.InputRequiredResult(input_requests={"reader": reader})

    @server.prompt()
    async def recommend(ctx: Context) -> list[UserMessage] | types.InputRequiredResult:
        """Recommend a book to somebody."""
        answer = (ctx.input_responses or {}).get("reader")
        if not isinstance(answer, types.ElicitResult) or answer.content is None:
            return types.InputRequiredResult(input_requests={"reader": reader})
        return [UserMessage(f"Recommend a book to {answer.content['reader']}.")]

    return server


def board() -> MCPServer:
    """Changes that are reported to listeners."""
    server = MCPServer("board", log_level="ERROR")
    notes = {"todo": "water", "done": "-"}

    @server.resource("board://{name}")
    def note(name: str) -> str:
        """Read a note."""
        return notes[name]

    @server.tool()
    async def write(name: str, content: str, ctx: Context) -> str:
        """Write a note."""
        notes[name] = content
        await ctx.notify_resource_updated(f"board://{name}")
        return "written"

    @server.tool()
    async def extend(ctx: Context) -> str:
        """Say that the lists have changed."""
        await ctx.notify_tools_changed()
        await ctx.notify_prompts_changed()
        await ctx.notify_resources_changed()
        return "extended"

    return server


class Loans(Extension):
    """A tool, a method of its own, and a ticket in place of a result."""

    identifier = LOANS

    def settings(self) -> dict[str, Any]:
        return {"days": 14}

    def tools(self) -> Sequence[ToolBinding]:
        return [ToolBinding(fn=_renew)]

    def methods(self) -> Sequence[MethodBinding]:
        return [MethodBinding("example.com/loans.status", LoanStatusParams, _status)]

    async def intercept_tool_call(
        self, params: types.CallToolRequestParams, ctx: Ctx, call_next: CallNext
    ) -> HandlerResult:
        if params.name != "borrow":
            return await call_next(ctx)
        require_client_extension(ctx, LOANS)
        return {"resultType": "ticket", "ticketNumber": 7}


def _renew(book: str) -> str:
    """Renew a loan."""
    return f"{book} renewed"


async def _status(ctx: Ctx, params: LoanStatusParams) -> LoanStatus:
    return LoanStatus(books=[f"{params.reader}-{n}" for n in range(params.limit)])


def library() -> MCPServer:
    """An extension, with the tools that its tickets are for."""
    server = MCPServer("library", extensions=[Loans()], log_level="ERROR")

    @server.tool()
    def borrow(book: str) -> types.CallToolResult:
        """Borrow a book."""
        raise NotImplementedError

    @server.tool()
    def collect(ticket: int) -> str:
        """Collect the book of a ticket."""
        return f"the book of ticket {ticket}"

    return server


def almanac() -> Server:
    """Lists that may be cached, with a count of requests for each."""
    asked = {"tools": 0, "resources": 0}

    async def list_tools(ctx: Ctx, params: Paginated) -> types.ListToolsResult:
        asked["tools"] += 1
        return types.ListToolsResult(tools=[types.Tool(name="asked", input_schema=ANY_OBJECT)])

    async def list_resources(ctx: Ctx, params: Paginated) -> types.ListResourcesResult:
        asked["resources"] += 1
        name = f"edition-{asked['resources']}"
        return types.ListResourcesResult(resources=[types.Resource(uri=f"almanac://{name}", name=name)])

    async def call_tool(ctx: Ctx, params: types.CallToolRequestParams) -> types.CallToolResult:
        return text(str(asked))

    hint = CacheHint(ttl_ms=60_000, scope="public")
    return Server(
        "almanac",
        on_list_tools=list_tools,
        on_list_resources=list_resources,
        on_call_tool=call_tool,
        cache_hints={"tools/list": hint, "resources/list": hint},
    )


BUILDERS = {"archive": archive, "desk": desk, "board": board, "library": library, "almanac": almanac}
