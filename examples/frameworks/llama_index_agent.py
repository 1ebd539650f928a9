"""A LlamaIndex agent, through a crash of its server: `McpToolSpec(client=client)`.

LlamaIndex repeats no tool call by itself.
"""

import asyncio

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.tools.mcp import McpToolSpec
from mcp import StdioServerParameters
from models.llama_index import scripted_model
from script import KILL_BETWEEN_CALLS, Call

from resilient_mcp import Policy, ResilientClient
from resilient_mcp.demo import stdio_server


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    # "result": of an exception LlamaIndex tells the model the message alone, and not what to do.
    async with ResilientClient(server, policy=Policy(on_unavailable="result")) as client:
        tools = await McpToolSpec(client=client).to_tool_list_async()
        agent = FunctionAgent(tools=tools, llm=scripted_model(script), streaming=False)
        return str(await agent.run("How will the weather be?"))


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
