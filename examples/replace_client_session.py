"""Code written for the SDK's `ClientSession` runs on `ResilientClient` unchanged.

`tour` does not know which of the two it gets. Only the construction differs: one line instead of a transport, a session
and a handshake. The server is killed during the second tour, which is not affected.
"""

import asyncio
import os
import signal

from mcp import ClientSession, stdio_client

from resilient_mcp import ResilientClient
from resilient_mcp.demo import stdio_server


async def tour(session: ClientSession | ResilientClient, *, kill: bool = False) -> None:
    await session.initialize()
    tools = await session.list_tools()
    print("  tools:", ", ".join(tool.name for tool in tools.tools))
    if kill:
        pid = await session.call_tool("pid")
        os.kill(int(pid.content[0].text), signal.SIGKILL)
        print("  (the server was killed)")
    result = await session.call_tool("forecast", {"city": "Bergen"})
    print("  forecast:", result.content[0].text)


async def main() -> None:
    server = stdio_server()  # the SDK's StdioServerParameters

    print("ClientSession:")
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await tour(session)

    print("ResilientClient:")
    async with ResilientClient(server) as session:
        await tour(session, kill=True)


if __name__ == "__main__":
    asyncio.run(main())
