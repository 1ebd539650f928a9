"""Servers at 2026-07-28 whose results request input: answered by the callbacks, or by hand."""

from __future__ import annotations

from mcp import MCPError
from mcp.client import InputRequiredRoundsExceededError
from mcp.types import (
    CreateMessageResult,
    ElicitRequest,
    ElicitResult,
    InputRequiredResult,
    ListRootsResult,
    Root,
    TextContent,
)

from .. import snippet


@snippet("desk", on=("memory", "http", "stdio"))
async def answer_by_a_callback(connect, server):
    async def on_elicit(context, params):
        print(params.message, sorted(params.requested_schema["properties"]))
        return ElicitResult(action="accept", content={"days": 3})

    async with connect(server, elicitation_callback=on_elicit) as client:
        print((await client.call_tool("reserve", {"book": "an atlas"})).content)
        print((await client.call_tool("reserve", {"book": "leaflet"})).content)


@snippet("desk")
async def decline_by_a_callback(connect, server):
    actions = ["decline", "cancel"]

    async def on_elicit(context, params):
        return ElicitResult(action=actions.pop(0))

    async with connect(server, elicitation_callback=on_elicit) as client:
        for _ in range(2):
            print((await client.call_tool("reserve", {"book": "an atlas"})).content)


@snippet("desk")
async def lend_a_model_and_the_roots(connect, server):
    async def on_sample(context, params):
        return CreateMessageResult(
            role="assistant", content=TextContent(text=f"{params.messages[0].content.text}!"), model="my-model"
        )

    async def on_list_roots(context):
        return ListRootsResult(roots=[Root(uri="file:///home/user")])

    async with connect(server, sampling_callback=on_sample, list_roots_callback=on_list_roots) as client:
        print((await client.call_tool("praise", {"book": "an atlas"})).content)
        print((await client.call_tool("folders")).structured_content)


@snippet("desk")
async def answer_for_a_prompt(connect, server):
    async def on_elicit(context, params):
        return ElicitResult(action="accept", content={"reader": "Kim"})

    async with connect(server, elicitation_callback=on_elicit) as client:
        print((await client.get_prompt("recommend")).messages)


@snippet("desk")
async def have_no_callback(connect, server):
    async with connect(server) as client:
        try:
            print(await client.call_tool("reserve", {"book": "an atlas"}))
        except MCPError as exc:
            print(exc.code, exc.message)


@snippet("desk")
async def answer_by_hand(connect, server):
    async with connect(server, elicitation_callback=never) as client:
        arguments = {"book": "an atlas"}
        result = await client.session.call_tool("reserve", arguments, allow_input_required=True)
        while isinstance(result, InputRequiredResult):
            answers = {}
            for key, request in (result.input_requests or {}).items():
                assert isinstance(request, ElicitRequest)
                print(request.params.message)
                answers[key] = ElicitResult(action="accept", content={"days": 5})
            result = await client.session.call_tool(
                "reserve",
                arguments,
                input_responses=answers,
                request_state=result.request_state,
                allow_input_required=True,
            )
        print(result.content)


@snippet("desk")
async def answer_by_hand_with_a_forged_state(connect, server):
    async with connect(server, elicitation_callback=never) as client:
        arguments = {"book": "an atlas"}
        first = await client.session.call_tool("reserve", arguments, allow_input_required=True)
        answers = {key: ElicitResult(action="decline") for key in first.input_requests}
        try:
            await client.session.call_tool(
                "reserve", arguments, input_responses=answers, request_state="forged", allow_input_required=True
            )
        except MCPError as exc:
            print(exc.code, exc.message, exc.data)


async def never(context, params):
    raise AssertionError


@snippet("desk")
async def ask_for_results_that_want_input(connect, server):
    async with connect(server, elicitation_callback=never) as client:
        session = client.session
        try:
            print(await session.call_tool("reserve", {"book": "an atlas"}))
        except RuntimeError as exc:
            print(type(exc).__name__)
        print(type(await session.get_prompt("recommend", allow_input_required=True)).__name__)


@snippet("desk")
async def lose_patience(connect, server):
    rounds = []

    async def on_elicit(context, params):
        rounds.append(params.message)
        return ElicitResult(action="accept", content={"reader": "Kim"})

    async with connect(server, elicitation_callback=on_elicit, input_required_max_rounds=3) as client:
        try:
            await client.call_tool("insatiable")
        except InputRequiredRoundsExceededError as exc:
            print(exc.max_rounds, len(rounds))
