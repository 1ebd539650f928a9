"""A Strands agent, through a crash of its server: `MCPClient(client.as_transport)`.

Strands repeats a tool call only where a hook asks for it.
"""

import asyncio

from mcp import StdioServerParameters
from models.strands import ScriptedModel
from script import KILL_BETWEEN_CALLS, Call
from strands import Agent
from strands.tools.mcp import MCPClient

from resilient_mcp import ResilientClient
from resilient_mcp.demo import stdio_server


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    with MCPClient(ResilientClient(server).as_transport) as mcp_client:
        agent = Agent(ScriptedModel(script), tools=mcp_client.list_tools_sync(), callback_handler=None)
        done = await agent.invoke_async("How will the weather be?")
    return str(done).strip()


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
