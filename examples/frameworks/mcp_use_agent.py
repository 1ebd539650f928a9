"""An mcp-use agent, through a crash of its server: `ResilientMCPClient({"weather": client})` for its `MCPClient`.

The framework repeats no tool call by itself, and finds no connection lost that it would make again.
"""

import asyncio
import os

os.environ["MCP_USE_ANONYMIZED_TELEMETRY"] = "false"  # it is read at import: nothing here needs a network

from mcp import StdioServerParameters
from mcp_use import MCPAgent
from models.langchain import ScriptedModel
from script import KILL_BETWEEN_CALLS, Call

from resilient_mcp import ResilientClient
from resilient_mcp.demo import stdio_server
from resilient_mcp.integrations.mcp_use import ResilientMCPClient


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    mcp_client = ResilientMCPClient({"weather": ResilientClient(server)})
    agent = MCPAgent(ScriptedModel(script=script), mcp_client, max_steps=10)
    try:
        return await agent.run("How will the weather be?")
    finally:
        await agent.close()


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
