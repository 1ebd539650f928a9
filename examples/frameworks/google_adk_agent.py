"""An ADK agent, through a crash of its server: `ResilientToolset(client)` in place of `McpToolset(...)`.

ADK repeats no tool call by itself; it asks for the list of tools a second time.
"""

import asyncio

from google.adk.agents import LlmAgent
from google.adk.runners import InMemoryRunner
from mcp import StdioServerParameters
from models.google_adk import ScriptedModel
from script import KILL_BETWEEN_CALLS, Call

from resilient_mcp import Policy, ResilientClient
from resilient_mcp.demo import stdio_server
from resilient_mcp.integrations.google_adk import ResilientToolset


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    # "result": of an exception ADK tells the model the message alone, and not what to do.
    async with ResilientClient(server, policy=Policy(on_unavailable="result")) as client:
        agent = LlmAgent(name="agent", model=ScriptedModel(script=script), tools=[ResilientToolset(client)])
        async with InMemoryRunner(agent) as runner:
            events = await runner.run_debug("How will the weather be?", quiet=True)
            return str(events[-1].content.parts[0].text)


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
