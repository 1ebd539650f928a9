"""A CrewAI agent, through a crash of its server: `MCPServerAdapter` starts `resilient-mcp wrap -- COMMAND`.

The adapter repeats nothing. CrewAI's other way to a server, `Agent(mcps=[...])`, would: up to three times, whatever the
error was, also a call that only took longer than 30 seconds.
"""

import asyncio
import os
import sysconfig

os.environ["CREWAI_DISABLE_TELEMETRY"] = "true"  # it is read at import: nothing here needs a network

from crewai import Agent
from crewai_tools import MCPServerAdapter
from mcp import StdioServerParameters
from models.crewai import ScriptedModel
from script import KILL_BETWEEN_CALLS, Call

from resilient_mcp.demo import stdio_server

WRAP = f"{sysconfig.get_path('scripts')}/resilient-mcp"


async def main(server: StdioServerParameters, script: list[Call]) -> str:
    wrapped = server.model_copy(update={"command": WRAP, "args": ["wrap", "--", server.command, *server.args]})
    with MCPServerAdapter(wrapped) as tools:
        model = ScriptedModel(model="scripted", script=script)
        agent = Agent(role="forecaster", goal="forecasts", backstory="none", llm=model, tools=tools)
        return (await agent.kickoff_async("How will the weather be?")).raw


if __name__ == "__main__":
    print(asyncio.run(main(stdio_server(), KILL_BETWEEN_CALLS)))
