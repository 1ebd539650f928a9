"""A PydanticAI agent, through a crash of its server: `MCPToolset(ResilientTransport(server))`."""

import asyncio

from mcp import StdioServerParameters
from pydantic_ai import Agent, ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.function import AgentInfo, FunctionModel
from script import KILL_BETWEEN_CALLS, Call, next_turn

from resilient_mcp.demo import stdio_server
from resilient_mcp.integrations.fastmcp import ResilientTransport


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    def model(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        parts = [part for message in messages for part in message.parts]
        turn = next_turn([str(part.content) for part in parts if isinstance(part, ToolReturnPart)], script)
        return ModelResponse(parts=[TextPart(turn) if isinstance(turn, str) else ToolCallPart(*turn)])

    # "failed": by default the model is asked to try a failed call again, also one that may have run. The time limits
    # are the policy's; by default PydanticAI gives a server five seconds to start.
    transport = ResilientTransport(server)
    tools = MCPToolset(transport, tool_error_behavior="failed", init_timeout=None, read_timeout=None)
    return (await Agent(FunctionModel(model), toolsets=[tools]).run("How will the weather be?")).output


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
