"""The experimental tasks of 2025-11-25."""

from __future__ import annotations

import anyio
from mcp import types
from mcp.client.experimental.task_handlers import ExperimentalTaskHandlers
from mcp.types import CallToolResult

from .. import snippet


@snippet("workshop")
async def run_a_tool_as_a_task(connect, server):
    async with connect(server) as session:
        await session.initialize()
        created = await session.experimental.call_tool_as_task("repair", {}, ttl=60000)
        async for status in session.experimental.poll_task(created.task.taskId):
            last = status.status
        print(last)
        final = await session.experimental.get_task_result(created.task.taskId, CallToolResult)
        print(final.content[0].text)


@snippet("workshop", on=("http",))
async def answer_a_task_that_asks(connect, server):
    async def handle_elicitation(context, params):
        print("asked:", params.message)
        return types.ElicitResult(action="accept", content={"sure": True})

    async with connect(server, elicitation_callback=handle_elicitation) as session:
        await session.initialize()
        created = await session.experimental.call_tool_as_task("demolish")
        async for status in session.experimental.poll_task(created.task.taskId):
            if status.status == "input_required":
                break
        final = await session.experimental.get_task_result(created.task.taskId, CallToolResult)
        print(final.content[0].text)


@snippet("workshop", on=("memory",))
async def list_and_cancel_tasks(connect, server):
    async with connect(server) as session:
        await session.initialize()
        created = await session.experimental.call_tool_as_task("wait", ttl=60000)
        with anyio.fail_after(5):
            print((await session.experimental.get_task(created.task.taskId)).status)
            listed = [task.taskId for task in (await session.experimental.list_tasks()).tasks]
            print(created.task.taskId in listed)
            print((await session.experimental.cancel_task(created.task.taskId)).status)


@snippet(on=("memory",))
async def declare_tasks_of_the_client(connect, server):
    async def get_task(context, params):
        raise NotImplementedError

    async def get_task_result(context, params):
        raise NotImplementedError

    handlers = ExperimentalTaskHandlers(get_task=get_task, get_task_result=get_task_result)
    async with connect(server, experimental_task_handlers=handlers) as session:
        await session.initialize()
        print((await session.call_tool("visitor")).structuredContent)
