"""An agno agent, through a crash of its server: `MCPTools(session=client)`.

Agno repeats no tool call by itself.
"""

import asyncio

from agno.agent import Agent
from agno.tools.mcp import MCPTools
from mcp import StdioServerParameters
from models.agno import ScriptedModel
from script import KILL_BETWEEN_CALLS, Call

from resilient_mcp import Policy, ResilientClient
from resilient_mcp.demo import stdio_server


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    # "result": agno tells the model of an exception in words of its own, and of an error result in ours.
    policy = Policy(on_unavailable="result")
    async with ResilientClient(server, policy=policy) as client, MCPTools(session=client) as tools:
        agent = Agent(model=ScriptedModel(script), tools=[tools], telemetry=False)
        return str((await agent.arun("How will the weather be?")).content)


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
