"""A Semantic Kernel agent, through a crash of its server: `plugins=[ResilientPlugin(client, "weather")]`.

Semantic Kernel repeats no tool call by itself.
"""

import asyncio

from mcp import StdioServerParameters
from models.semantic_kernel import ScriptedModel
from script import KILL_BETWEEN_CALLS, Call
from semantic_kernel.agents import ChatCompletionAgent

from resilient_mcp import Policy, ResilientClient
from resilient_mcp.demo import stdio_server
from resilient_mcp.integrations.semantic_kernel import ResilientPlugin


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    # "result": Semantic Kernel tells the model of an exception in words of its own, and of a result in ours.
    client = ResilientClient(server, policy=Policy(on_unavailable="result"))
    async with ResilientPlugin(client, "weather") as plugin:
        model = ScriptedModel(script=script, plugin="weather")
        agent = ChatCompletionAgent(name="forecaster", service=model, plugins=[plugin])
        return str(await agent.get_response("How will the weather be?"))


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
