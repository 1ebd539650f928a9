"""FastMCP's client, through a crash of its server: `Client(ResilientTransport(server))` in place of `Client(server)`.

FastMCP repeats no call by itself.
"""

import asyncio

from fastmcp import Client
from mcp import StdioServerParameters
from script import KILL_BETWEEN_CALLS, Call, next_turn

from resilient_mcp.demo import stdio_server
from resilient_mcp.integrations.fastmcp import ResilientTransport


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    results: list[str] = []
    async with Client(ResilientTransport(server)) as client:
        while not isinstance(turn := next_turn(results, script), str):
            result = await client.call_tool(*turn, raise_on_error=False)
            results.append(result.content[0].text)
    return turn


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
