"""A Microsoft Agent Framework agent, through a crash of its server: `MCPStdioTool(name, mcp_client=Client(...))`.

Agent Framework reconnects, and repeats calls, on connections that it opens itself, but not on one that it is given.
"""

import asyncio

from agent_framework import Agent, MCPStdioTool
from mcp import Client, StdioServerParameters
from models.agent_framework import ScriptedClient
from script import KILL_BETWEEN_CALLS, Call

from resilient_mcp import ResilientClient
from resilient_mcp.demo import stdio_server


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    # Without the details the model would learn only that the function failed.
    model = ScriptedClient(script, function_invocation_configuration={"include_detailed_errors": True})
    async with (
        Client(ResilientClient(server).as_transport()) as client,
        MCPStdioTool("demo", mcp_client=client) as tools,
    ):
        return (await Agent(model, tools=tools).run("How will the weather be?")).text


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
