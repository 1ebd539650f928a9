"""The soak's server, built on the installed SDK, for every protocol era that it speaks."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio

from resilient_mcp._sdk.installed import MAJOR

from . import changing_server
from .changing_server import READ_ONLY, Context, State
from .counting_server import add_tools, execute, fate
from .soak_server import LATE, SDK_FATES, Saboteur


def build(journal: Saboteur, seed: int) -> Any:
    state = State()
    server = changing_server.build(None, state)

    async def count(key: str) -> Any:
        happens = fate(seed, key, journal.note("received", key), SDK_FATES)
        if happens == "slow before":
            await anyio.sleep(LATE)
        result = execute(journal, key, happens)
        if happens == "slow after":
            await anyio.sleep(LATE)
        return result

    add_tools(server, count)

    @server.tool(annotations=READ_ONLY, structured_output=False)
    async def change(uri: str, ctx: Context) -> str:
        journal.note("changed", uri)
        if (session := state.subscribed.get(uri)) is not None:
            with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the subscriber's session has ended
                await session.send_resource_updated(uri)
        if MAJOR != 1:
            await ctx.notify_resource_updated(uri)
        return "changed"

    @server.tool(annotations=READ_ONLY, structured_output=False)
    def held() -> str:
        return " ".join(sorted({*state.subscribed, *(+state.listened)}))

    @server.resource("soak://{name}")
    def resource(name: str) -> str:
        return journal.version(f"soak://{name}")

    return server
