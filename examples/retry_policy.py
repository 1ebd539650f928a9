"""One `Policy` per server: how long, how often, and which tools may run twice.

A tool whose name matches `forecast*` gets half a second and is tried three times in all: it only reads. One that
matches `place_*` is never sent twice, whatever the server says of it, so its failure says that it may have run.
"""

import asyncio

from resilient_mcp import Event, Policy, ResilienceError, ResilientClient, RetryPolicy, RetryScheduled, ToolPolicy
from resilient_mcp.demo import stdio_server

POLICY = Policy(
    tools={
        "forecast*": ToolPolicy(repeatable=True, attempt_timeout=0.5, retry=RetryPolicy(attempts=3, base=0.1)),
        "place_*": ToolPolicy(repeatable=False),
    },
)


def show_retries(event: Event) -> None:
    if isinstance(event, RetryScheduled):
        print(f"  {event.reason}: will be sent again")


async def attempt(client: ResilientClient, tool: str, arguments: dict) -> None:
    print(f"{tool}:")
    try:
        result = await client.call_tool(tool, arguments)
        print(f"  answer: {result.content[0].text}")
    except ResilienceError as error:
        print(f"  {type(error).__name__} after {error.attempts} attempt(s)")
        print(f"  advice for a model: {error.advice}")


async def main() -> None:
    async with ResilientClient(stdio_server(), name="shop", policy=POLICY, on_event=show_retries) as client:
        await attempt(client, "forecast", {"city": "Bergen", "seconds": 5})  # too slow for its limit, each time
        await attempt(client, "place_order", {"item": "umbrella"})  # dies before it answers
        await attempt(client, "forecast", {"city": "Bergen"})  # the restarted server


if __name__ == "__main__":
    asyncio.run(main())
