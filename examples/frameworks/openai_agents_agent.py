"""An agent of the OpenAI Agents SDK, through a crash of its server: `mcp_servers=[ResilientMCPServer(client)]`."""

import asyncio

from agents import Agent, RunConfig, Runner
from mcp import StdioServerParameters
from models.openai_agents import ScriptedModel
from script import KILL_BETWEEN_CALLS, Call

from resilient_mcp import Policy, ResilientClient
from resilient_mcp.demo import stdio_server
from resilient_mcp.integrations.openai_agents import ResilientMCPServer


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    # "result": after an exception the framework tells the model to "try again", also after a call that may have run.
    client = ResilientClient(server, policy=Policy(on_unavailable="result"))
    # Its own retries are off, as by default: they repeat every call, also one that may have run.
    async with ResilientMCPServer(client, max_retry_attempts=0) as mcp_server:
        agent = Agent("forecaster", mcp_servers=[mcp_server], model=ScriptedModel(script))
        done = await Runner.run(agent, "How will the weather be?", run_config=RunConfig(tracing_disabled=True))
    return done.final_output


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
