"""The names of servers that were given none."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_mcp.transports.names import name_of_command

COMMANDS = {
    "my-server": "my-server",
    "/opt/tools/my-server --port 1": "my-server",
    "npx": "npx",
    "npx -y @modelcontextprotocol/server-everything": "@modelcontextprotocol/server-everything",
    "npx -y @scope/server@1.2.3 /data": "@scope/server",
    "npx --yes server@latest": "server",
    "npx -p typescript -p tsx tsx": "tsx",
    "npx -c 'echo 1'": "npx",
    "npx.cmd -y server": "server",
    "npm exec server -- --port 1": "server",
    "pnpm dlx server": "server",
    "bunx server": "server",
    "uvx mcp-server-git": "mcp-server-git",
    "uvx mcp-server-git==1.0 --repository /x": "mcp-server-git",
    "uvx --from git+https://example.com/people/weather.git@main weather-mcp": "weather-mcp",
    "uvx --python 3.12 'server[all]>=2'": "server",
    "uvx git+https://token@example.com/people/weather.git@main#subdirectory=x": "weather",
    "uv run server.py": "server.py",
    "uv --directory /srv/weather run server.py": "server.py",
    "uv run --with mcp mcp-server": "mcp-server",
    "uv run weather/server.py": "weather/server.py",
    "uv tool run server": "server",
    "uv run -m weather.server": "weather.server",
    "pipx run server==2": "server",
    "python -m mcp_server_git --repository /x": "mcp_server_git",
    "python3.12 -u /srv/weather/server.py": "weather/server.py",
    "python -X dev -W error weather.py": "weather.py",
    "python -c 'print(1)'": "python",
    "python -m": "python",
    "python": "python",
    "'C:\\Python\\python.exe' 'C:\\srv\\weather\\main.py'": "weather/main.py",
    "node /srv/weather/dist/index.js": "weather/index.js",
    "node --import tsx ./src/weather.ts": "weather.ts",
    "node --max-old-space-size=100 index.js": "index.js",
    "node -e 'x'": "node",
    "tsx src/index.ts": "index.ts",
    "bun run server.ts": "server.ts",
    "deno run -A npm/server.ts": "npm/server.ts",
    "docker run -i --rm -e TOKEN mcp/github": "mcp/github",
    "docker run -it --name x --mount type=bind,src=/a,dst=/b ghcr.io/github/github-mcp-server:latest stdio": (
        "github/github-mcp-server"
    ),
    "docker run --rm --env=A=b registry:5000/tools/x@sha256:00 --flag": "tools/x",
    "docker": "docker",
    "docker run --rm": "docker",
    "nginx -g x": "nginx",
    "java -jar /srv/weather-1.0.jar": "weather-1.0.jar",
    "java -cp a.jar com.example.Main": "com.example.Main",
    "dotnet /srv/Weather.dll": "Weather.dll",
    "cmd /c npx -y server": "server",
    "sh -c 'exec npx -y server 2>/dev/null'": "server",
    "bash -lc 'TOKEN=x uvx server'": "server",
    "sh -c": "sh",
    "sh -c 'unbalanced \"'": "sh",
    "env -i A=b python -m weather": "weather",
    "nice nice nice nice nice npx server": "nice",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_is_named_after_its_package_or_script(command: str):
    """npx, uvx, python, node, docker or a shell give the name only where there is nothing else."""
    program, *args = shlex.split(command)
    assert name_of_command(program, args) == COMMANDS[command]


@given(
    st.sampled_from(["npx", "uvx", "python", "node", "docker", "sh", "env"]),
    st.lists(st.text("ab-/@=:. '\"\\", max_size=8) | st.sampled_from(["-m", "-c", "run", "--"]), max_size=8),
)
def test_any_command_has_a_name(program: str, args: list[str]):
    """No argument raises, and no name is empty."""
    assert name_of_command(program, args)
