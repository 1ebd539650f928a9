"""A Streamable HTTP server is restarted on the same port while a client is in use.

The new process does not know the client's session. `ResilientClient` negotiates a new one, if the protocol version has
sessions, and sends the call again; its caller only sees the answer.
"""

import asyncio
import time

from resilient_mcp import Connected, Event, ResilientClient, RetryScheduled
from resilient_mcp.demo import HttpServer


def show(event: Event) -> None:
    if isinstance(event, Connected):
        print(f"  connected, speaking MCP {event.protocol_version}")
    elif isinstance(event, RetryScheduled):
        print(f"  {event.reason}: retrying")


async def ask(client: ResilientClient, city: str) -> None:
    began = time.monotonic()
    server = await client.call_tool("pid")
    forecast = await client.call_tool("forecast", {"city": city})
    seconds = time.monotonic() - began
    print(f"{forecast.content[0].text} (from process {server.content[0].text}, {seconds:.2f} s)")


async def main() -> None:
    async with HttpServer() as server, ResilientClient(server.url, name="weather", on_event=show) as client:
        await ask(client, "Oslo")
        print("restarting the server ...")
        await server.restart()
        await ask(client, "Bergen")


if __name__ == "__main__":
    asyncio.run(main())
