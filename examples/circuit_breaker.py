"""A server that is away: the circuit opens and refuses calls until a probe finds the server again.

Three calls wait as long as the policy allows, and fail. Then the circuit opens: a call is not sent, and is refused once
the server has been away for longer than a call may wait. The client probes the server by itself, and admits calls
again when it is back.
"""

import asyncio
import time

from resilient_mcp import BreakerChanged, BreakerPolicy, Event, Policy, ResilienceError, ResilientClient, TimeoutPolicy
from resilient_mcp.demo import HttpServer

POLICY = Policy(breaker=BreakerPolicy(failures=3), timeout=TimeoutPolicy(ready=1))
back = asyncio.Event()


def show(event: Event) -> None:
    if isinstance(event, BreakerChanged):
        print(f"  circuit {event.old.value} -> {event.new.value}")
        if event.new.value == "half-open":
            back.set()


async def main() -> None:
    async with HttpServer() as server, ResilientClient(server.url, policy=POLICY, on_event=show) as client:
        server.stop()
        for _ in range(4):
            began = time.monotonic()
            try:
                await client.call_tool("forecast", {"city": "Oslo"})
            except ResilienceError as error:
                print(f"{type(error).__name__} after {time.monotonic() - began:.1f} s")
        await server.restart()
        await back.wait()
        result = await client.call_tool("forecast", {"city": "Oslo"})
        print(result.content[0].text)


if __name__ == "__main__":
    asyncio.run(main())
