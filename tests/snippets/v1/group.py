"""A session in the SDK's own group of sessions."""

from __future__ import annotations

from mcp import ClientSessionGroup

from .. import snippet


@snippet()
async def add_a_session_to_a_group(connect, server):
    async with connect(server) as session:
        answer = await session.initialize()
        group = ClientSessionGroup(component_name_hook=lambda name, info: f"{info.name}.{name}")
        await group.connect_with_session(answer.serverInfo, session)
        print(sorted(group.tools), sorted(group.resources), sorted(group.prompts))
        result = await group.call_tool("garden.add", {"a": 20, "b": 22})
        print(result.structuredContent)
