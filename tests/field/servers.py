"""Pinned servers that people start with `npx` and `uvx`, each with a call that needs nothing but this machine.

None connects to the network by itself; those that need an account get a made-up key, and only their lists are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CLOSED = "127.0.0.1:9"
"""Where nothing listens."""


@dataclass(frozen=True)
class Server:
    """A package, started as its README says.

    Attributes:
        package: The package.
        version: Its version.
        args: Its arguments; `{folder}` is replaced by its working folder, a git repository with the file `notes.txt`.
        env: Its environment, with `{folder}` as well.
        call: A tool and arguments that it answers, or None.
        program: The name of its command, if different from the package's.
        beside: A package to install with it.
        npm: Whether it comes from npm instead of PyPI.
    """

    package: str
    version: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    call: tuple[str, dict[str, Any]] | None = None
    program: str = ""
    beside: str = ""
    npm: bool = False

    @property
    def command(self) -> list[str]:
        """The command as users write it into their configuration."""
        if self.npm:
            return ["npx", "-y", f"{self.package}@{self.version}", *self.args]
        source = f"{self.package}=={self.version}"
        beside = ["--with", self.beside] if self.beside else []
        return ["uvx", *beside, *(["--from", source, self.program] if self.program else [source]), *self.args]


def npm(package: str, version: str, *args: str, call: Any = None, **env: str) -> Server:
    return Server(package, version, args, env, call, npm=True)


def pypi(
    package: str, version: str, *args: str, call: Any = None, program: str = "", beside: str = "", **env: str
) -> Server:
    return Server(package, version, args, env, call, program, beside)


SERVERS = (
    npm("@modelcontextprotocol/server-everything", "2026.8.31", call=("echo", {"message": "hi"})),
    npm(
        "@modelcontextprotocol/server-filesystem",
        "2026.8.31",
        "{folder}",
        call=("read_text_file", {"path": "{folder}/notes.txt"}),
    ),
    npm(
        "@modelcontextprotocol/server-memory",
        "2026.8.31",
        call=("read_graph", {}),
        MEMORY_FILE_PATH="{folder}/memory.jsonl",
    ),
    npm(
        "@modelcontextprotocol/server-sequential-thinking",
        "2026.8.31",
        call=(
            "sequentialthinking",
            {"thought": "one", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1},
        ),
    ),
    npm("@modelcontextprotocol/server-github", "2025.4.8", GITHUB_PERSONAL_ACCESS_TOKEN="made-up"),
    npm("@modelcontextprotocol/server-slack", "2025.4.25", SLACK_BOT_TOKEN="made-up", SLACK_TEAM_ID="made-up"),
    npm("@modelcontextprotocol/server-postgres", "0.6.2", f"postgresql://{CLOSED}/none"),
    npm("@playwright/mcp", "0.0.83"),
    npm("@eslint/mcp", "0.3.13", call=("lint-files", {"filePaths": ["{folder}/code.js"]})),
    npm("kubernetes-mcp-server", "0.0.67", "--kubeconfig", "{folder}/kubeconfig", call=("configuration_view", {})),
    npm("mcp-server-kubernetes", "4.1.7", call=("ping", {}), KUBECONFIG="{folder}/kubeconfig"),
    npm("@upstash/context7-mcp", "4.1.1"),
    npm("@notionhq/notion-mcp-server", "2.5.2", NOTION_TOKEN="made-up"),
    npm("firecrawl-mcp", "3.26.0", FIRECRAWL_API_KEY="made-up"),
    npm("tavily-mcp", "0.2.22", TAVILY_API_KEY="made-up"),
    npm("@brave/brave-search-mcp-server", "2.1.4", BRAVE_API_KEY="made-up"),
    npm("@antv/mcp-server-chart", "0.9.10"),
    npm("mcp-server-code-runner", "0.1.8", call=("run-code", {"languageId": "javascript", "code": "console.log(1)"})),
    pypi(
        "mcp-server-time",
        "2026.10.19",
        "--local-timezone=UTC",
        call=("get_current_time", {"timezone": "Europe/Oslo"}),
    ),
    pypi("mcp-server-fetch", "2026.10.24", call=("fetch", {"url": f"http://{CLOSED}/"})),
    pypi("mcp-server-git", "2026.10.19", call=("git_status", {"repo_path": "{folder}"})),
    pypi("mcp-server-sqlite", "2025.4.25", "--db-path", "{folder}/data.db", beside="mcp<2", call=("list_tables", {})),
    pypi("mcp-server-calculator", "0.2.1", call=("calculate", {"expression": "2 + 3"})),
    pypi("markitdown-mcp", "0.0.1a8", call=("convert_to_markdown", {"uri": "data:text/plain,hello"})),
    pypi("excel-mcp-server", "2.2.2", "stdio", call=("create_workbook", {"path": "{folder}/book.xlsx"})),
    pypi(
        "office-word-mcp-server",
        "1.1.11",
        program="word_mcp_server",
        call=("list_available_documents", {"directory": "{folder}"}),
    ),
    pypi(
        "mcp-server-motherduck",
        "1.1.0",
        "--db-path",
        ":memory:",
        "--read-write",
        call=("execute_query", {"sql": "select 1"}),
    ),
    pypi("redis-mcp-server", "0.5.1", "--url", f"redis://{CLOSED}/0", call=("dbsize", {})),
    pypi("mcp-shell-server", "1.1.14", call=("shell_execute", {"command": ["ls"]}), ALLOW_COMMANDS="ls"),
    pypi("duckduckgo-mcp-server", "0.7.0"),
    pypi("arxiv-mcp-server", "0.8.2", "--storage-path", "{folder}/papers", call=("list_papers", {})),
    pypi("awslabs.aws-documentation-mcp-server", "1.2.3"),
    pypi("wikipedia-mcp", "2.0.1"),
    pypi(
        "mcp-server-duckdb",
        "1.1.0",
        "--db-path",
        "{folder}/duck.db",
        beside="mcp<2",
        call=("query", {"query": "select 1"}),
    ),
)
