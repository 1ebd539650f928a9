"""A server whose token expires: `headers=` takes a function, which is called for each connection and after a 401.

The token expires while ten calls are made at once. One of them fetches a new token, all ten are sent again with it, and
the session goes on: no call fails, and none runs twice.
"""

import asyncio
from collections.abc import Mapping

from resilient_mcp import ResilientClient
from resilient_mcp.testing import HttpReply, Request, ScriptedHttpServer


class Login:
    """Both sides of a login: in your code, a vault or an identity provider, and the server."""

    valid = 1  # the number of the token that the server accepts
    fetched = 0

    async def headers(self) -> Mapping[str, str]:
        """Fetch a token."""
        self.fetched += 1
        return {"Authorization": f"Bearer token-{self.valid}"}

    def guard(self, request: Request) -> HttpReply | None:
        """Reject every other token."""
        if request.headers.get("authorization") == f"Bearer token-{self.valid}":
            return None
        return HttpReply.refusal(401)


async def main() -> None:
    login = Login()
    async with ScriptedHttpServer(login.guard) as server, ResilientClient(server.url, headers=login.headers) as client:
        await client.call_tool("echo", {"text": "before"})
        login.valid += 1  # the first token expires
        calls = [client.call_tool("echo", {"text": str(n)}) for n in range(10)]
        answers = [result.content[0].text for result in await asyncio.gather(*calls)]
        print("answers:", " ".join(answers))
        print("tokens fetched:", login.fetched)
        print("connections to the server so far:", client.generation)


if __name__ == "__main__":
    asyncio.run(main())
