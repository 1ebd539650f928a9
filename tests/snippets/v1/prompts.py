"""Prompts and the completion of their arguments."""

from __future__ import annotations

from mcp import McpError
from mcp.types import PromptReference, ResourceTemplateReference, TextContent

from .. import snippet


@snippet(on=("memory", "http", "sse"))
async def list_the_prompts(connect, server):
    async with connect(server) as session:
        await session.initialize()
        for prompt in (await session.list_prompts()).prompts:
            print(prompt.name, prompt.title, prompt.description)
            for argument in prompt.arguments or []:
                print("  ", argument.name, argument.required)


@snippet()
async def get_a_prompt(connect, server):
    async with connect(server) as session:
        await session.initialize()
        prompt = await session.get_prompt("welcome", arguments={"name": "Alex", "style": "short"})
        print(prompt.description, prompt.messages[0].role, prompt.messages[0].content)
        print((await session.get_prompt("welcome", {"name": "Kim"})).messages[0].content)


@snippet(on=("memory",))
async def get_a_prompt_of_many_messages(connect, server):
    async with connect(server) as session:
        await session.initialize()
        for message in (await session.get_prompt("advise", {"plant": "fern"})).messages:
            if isinstance(message.content, TextContent):
                print(message.role, message.content.text)


@snippet(on=("memory",))
async def forget_an_argument_of_a_prompt(connect, server):
    async with connect(server) as session:
        await session.initialize()
        try:
            await session.get_prompt("welcome")
        except McpError as exc:
            print(exc.error.code, exc.error.message)


@snippet()
async def complete_arguments(connect, server):
    async with connect(server) as session:
        await session.initialize()
        [template] = [
            template
            for template in (await session.list_resource_templates()).resourceTemplates
            if "plant" in template.uriTemplate
        ]
        reference = ResourceTemplateReference(type="ref/resource", uri=template.uriTemplate)
        answer = await session.complete(ref=reference, argument={"name": "bed", "value": "nor"})
        print(answer.completion.values, answer.completion.total, answer.completion.hasMore)
        answer = await session.complete(ref=reference, argument={"name": "plant", "value": ""})
        print(answer.completion.values)
        answer = await session.complete(
            ref=reference, argument={"name": "plant", "value": ""}, context_arguments={"bed": "west"}
        )
        print(answer.completion.values)
        prompt = PromptReference(type="ref/prompt", name="advise")
        print((await session.complete(ref=prompt, argument={"name": "plant", "value": ""})).completion)
