"""A LangChain agent, through a crash of its server: `load_mcp_tools(client)`.

It repeats no tool call by itself; LangGraph's `RetryPolicy` and LangChain's `ToolRetryMiddleware` would.
"""

import asyncio

from langchain.agents import create_agent
from langchain_mcp_adapters.tools import load_mcp_tools
from mcp import StdioServerParameters
from models.langchain import ScriptedModel
from script import KILL_BETWEEN_CALLS, Call

from resilient_mcp import Policy, ResilientClient
from resilient_mcp.demo import stdio_server


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    # "result": an exception would end the run, or be repeated by one of the two; a result is for the model to read.
    async with ResilientClient(server, policy=Policy(on_unavailable="result")) as client:
        agent = create_agent(ScriptedModel(script=script), await load_mcp_tools(client))
        state = await agent.ainvoke({"messages": [("user", "How will the weather be?")]})
    return state["messages"][-1].text


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
