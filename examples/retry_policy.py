"""One `Policy` per server: time limits, number of attempts, and which tools may run twice.

Tools that match `forecast*` only read: they get three attempts of half a second each. Tools that match `place_*` are
never sent twice, whatever their annotations say, so an error reports that the call may have run.
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
        print(f"  {event.reason}: retrying")


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
        await attempt(client, "forecast", {"city": "Bergen", "seconds": 5})  # exceeds its time limit on every attempt
        await attempt(client, "place_order", {"item": "umbrella"})  # the server dies before it answers
        await attempt(client, "forecast", {"city": "Bergen"})  # the restarted server


if __name__ == "__main__":
    asyncio.run(main())
