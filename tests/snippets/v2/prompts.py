"""Prompts and the completion of their arguments."""

from __future__ import annotations

from mcp import MCPError
from mcp.types import PromptReference, ResourceTemplateReference, TextContent

from .. import snippet


@snippet(on=("memory", "http", "sse"))
async def list_the_prompts(connect, server):
    async with connect(server) as client:
        for prompt in (await client.list_prompts()).prompts:
            print(prompt.name, prompt.title, prompt.arguments)


@snippet()
async def get_a_prompt(connect, server):
    async with connect(server) as client:
        for message in (await client.get_prompt("welcome", {"name": "Alex", "style": "short"})).messages:
            print(message.role, message.content)
        advice = await client.get_prompt("advise", {"plant": "fern"})
        print([(message.role, message.content.text) for message in advice.messages])
        assert isinstance(advice.messages[0].content, TextContent)


@snippet()
async def forget_an_argument_of_a_prompt(connect, server):
    async with connect(server) as client:
        try:
            await client.get_prompt("welcome")
        except MCPError as exc:
            print(exc.code, exc.message)


@snippet()
async def complete_arguments(connect, server):
    async with connect(server) as client:
        reference = ResourceTemplateReference(type="ref/resource", uri="garden://beds/{bed}/{plant}")
        answer = await client.complete(ref=reference, argument={"name": "bed", "value": "nor"})
        print(answer.completion.values, answer.completion.total, answer.completion.has_more)
        answer = await client.complete(
            ref=reference, argument={"name": "plant", "value": ""}, context_arguments={"bed": "west"}
        )
        print(answer.completion.values)
        prompt = PromptReference(name="advise")
        print((await client.complete(prompt, argument={"name": "plant", "value": ""})).completion.values)
