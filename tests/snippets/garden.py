"""The server of most snippets: the features of the SDK's high-level server, on both majors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import anyio
from mcp import types
from pydantic import BaseModel

try:
    from mcp.server.mcpserver import Context, Image, MCPServer
    from mcp.server.mcpserver.prompts.base import AssistantMessage, UserMessage
except ImportError:
    from mcp.server.fastmcp import Context, Image
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.prompts.base import AssistantMessage, UserMessage

from mcp.shared.exceptions import UrlElicitationRequiredError

PLANTS = {"rose": 2, "fern": 1, "oak": 300}
BEDS = ["east", "north", "north-west", "west"]


class Plant(BaseModel):
    """What the garden knows of a plant."""

    name: str
    years: int


class Gardener(BaseModel):
    """The details of a gardener."""

    name: str
    beds: int = 1


def block(**fields: Any) -> Any:
    """A content block, from its JSON."""
    return types.CallToolResult.model_validate({"content": [fields]}).content[0]


@lru_cache  # it is stateless, and takes a tenth of a second to build
def build() -> MCPServer:
    server = MCPServer("garden", instructions="Ask for the plants before you water them.", log_level="ERROR")
    for add in (_tools, _long_tools, _asking_tools, _changing_tools, _resources, _prompts):
        add(server)
    return server


def _tools(server: MCPServer) -> None:
    hints = types.ToolAnnotations.model_validate({"title": "Looks a plant up", "readOnlyHint": True})

    @server.tool(title="Add two numbers")
    def add(a: int, b: int) -> int:
        """Add up."""
        return a + b

    @server.tool(annotations=hints)
    def describe(plant: str) -> Plant:
        """Say what is known about a plant."""
        if plant not in PLANTS:
            raise ValueError(f"there is no {plant} in this garden")
        return Plant(name=plant, years=PLANTS[plant])

    @server.tool(structured_output=False)
    def label(plant: str) -> str:
        """Write a label."""
        return f"* {plant} *"

    @server.tool()
    def picture() -> Image:
        """Draw the garden."""
        return Image(data=b"\x89PNG garden", format="png")

    @server.tool(structured_output=False)
    def leaflet() -> Any:
        """Return every kind of content."""
        rules = {"uri": "garden://rules", "mimeType": "text/plain", "text": "No picnics."}
        plan = {"uri": "garden://plan", "mimeType": "application/octet-stream", "blob": "AAEC"}
        return [
            block(type="text", text="Welcome"),
            block(type="resource", resource=rules),
            block(type="resource", resource=plan),
            block(type="image", data="aW1n", mimeType="image/png"),
            block(type="audio", data="d2F2", mimeType="audio/wav"),
            block(type="resource_link", name="rules", uri="garden://rules"),
        ]

    @server.tool()
    def meta(ctx: Context) -> dict[str, Any]:
        """Return the caller's own entries of the request's `_meta`."""
        sent: Any = ctx.request_context.meta
        entries = sent if isinstance(sent, dict) else sent.model_dump()
        return {key: value for key, value in entries.items() if key.startswith("example.com/")}

    @server.tool()
    def header(name: str, ctx: Context) -> str:
        """Return the value of a request header."""
        return str(ctx.request_context.request.headers.get(name))

    @server.tool()
    def visitor(ctx: Context) -> dict[str, Any]:
        """Return what the client says about itself."""
        sent = ctx.session.client_params
        return {
            "client": sent.model_dump(by_alias=True)["clientInfo"]["name"],
            "capabilities": sorted(sent.capabilities.model_dump(exclude_none=True)),
        }


def _long_tools(server: MCPServer) -> None:
    @server.tool()
    async def water(beds: int, ctx: Context) -> str:
        """Water some beds, one after the other."""
        for bed in range(1, beds + 1):
            await ctx.report_progress(bed, total=beds, message=f"bed {bed}")
        return f"{beds} beds"

    @server.tool()
    async def grow(ctx: Context) -> str:
        """Never finishes."""
        await ctx.report_progress(0.5)
        await anyio.sleep_forever()
        raise AssertionError

    @server.tool()
    async def compost(ctx: Context) -> str:
        """Closes the stream of its answer half-way; the client reconnects for the rest."""
        await ctx.report_progress(1, total=2, message="before")
        await ctx.close_sse_stream()
        await anyio.sleep(0.2)  # the SDK's server loses what it sends at the moment the client reconnects
        await ctx.report_progress(2, total=2, message="after")
        return "turned"

    @server.tool()
    async def gossip(ctx: Context) -> str:
        """Log a few lines."""
        await ctx.debug("a bee")
        await ctx.info("a bird")
        await ctx.warning("a snail")
        return "done"


def _asking_tools(server: MCPServer) -> None:
    @server.tool()
    async def hire(ctx: Context) -> str:
        """Ask who the new gardener is."""
        answer = await ctx.elicit("Who is the new gardener?", schema=Gardener)
        return (
            f"{answer.action}: {answer.data.name}, {answer.data.beds}" if answer.action == "accept" else answer.action
        )

    @server.tool()
    async def donate(ctx: Context) -> str:
        """Send the user to a page, and report when they are back."""
        answer = await ctx.elicit_url("Please pay here.", url="https://pay.example.com/garden", elicitation_id="gift-1")
        if answer.action == "accept":
            await ctx.session.send_elicit_complete("gift-1", related_request_id=ctx.request_id)
        return answer.action

    @server.tool()
    async def enter(ctx: Context) -> str:
        """Refuses until the user has visited a page."""
        page = {
            "mode": "url",
            "message": "Log in first.",
            "url": "https://login.example.com",
            "elicitationId": "login-1",
        }
        raise UrlElicitationRequiredError([types.ElicitRequestURLParams.model_validate(page)])

    @server.tool()
    async def poem(topic: str, ctx: Context) -> str:
        """Let the client's model write."""
        prompt = types.SamplingMessage(role="user", content=block(type="text", text=f"A poem about a {topic}"))
        answer = await ctx.session.create_message([prompt], max_tokens=50, related_request_id=ctx.request_id)
        return f"{answer.model}: {answer.content.text}"

    @server.tool()
    async def folders(ctx: Context) -> list[str]:
        """Name the client's folders."""
        return [f"{root.uri} {root.name}" for root in (await ctx.session.list_roots()).roots]


def _changing_tools(server: MCPServer) -> None:
    @server.tool()
    async def rearrange(ctx: Context) -> str:
        """Say that every list has changed."""
        await ctx.session.send_tool_list_changed()
        await ctx.session.send_resource_list_changed()
        await ctx.session.send_prompt_list_changed()
        return "rearranged"


def _resources(server: MCPServer) -> None:
    @server.resource("garden://rules", title="The rules", mime_type="text/plain")
    def rules() -> str:
        """What is not allowed."""
        return "No picnics."

    @server.resource("garden://plan", mime_type="application/octet-stream")
    def plan() -> bytes:
        """Where the beds are."""
        return b"\x00\x01\x02"

    @server.resource("garden://beds/{bed}", title="A bed")
    def bed(bed: str) -> str:
        """What grows in a bed."""
        return f"roses in the {bed}"

    @server.resource("garden://beds/{bed}/{plant}")
    def in_bed(bed: str, plant: str) -> str:
        """How a plant does."""
        return f"the {plant} in the {bed} does well"


def _prompts(server: MCPServer) -> None:
    @server.prompt(title="Welcome a visitor")
    def welcome(name: str, style: str = "warm") -> str:
        """Welcome somebody."""
        return f"Write a {style} welcome for {name}."

    @server.prompt()
    def advise(plant: str) -> list[Any]:
        """Talk about a plant."""
        return [UserMessage(f"My {plant} is ill."), AssistantMessage("What does it look like?")]

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> types.Completion | None:
        if argument.name == "plant":
            bed = (context.arguments or {}).get("bed") if context is not None else None
            return types.Completion(values=sorted(PLANTS) if bed is None else [f"rose of the {bed}"])
        found = [bed for bed in BEDS if bed.startswith(argument.value)]
        return types.Completion.model_validate({"values": found, "total": len(found), "hasMore": False})
