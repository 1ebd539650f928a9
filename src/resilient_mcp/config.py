"""Reads the `mcpServers` file that MCP hosts share: which servers there are, how to reach them, and their policies.

It takes what Claude Desktop, Cursor (`mcpServers`) and VS Code (`servers`, comments, trailing commas) write, expands
`${VAR}` and `${VAR:-default}`, and adds one key of its own: `"resilience"`, a `Policy`, per server and for all. Every
problem of a file is reported at once, in a `ConfigError` that names file, server, key and remedy, and holds no secret:
neither what a variable expanded to nor any value of `env`, `headers` or `args`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticOmit, core_schema

from . import _sdk
from .policy import Policy
from .transports.http import safe_url


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file.

    Attributes:
        server: The server whose entry it is, or None for the file itself.
        key: The key inside the entry, with dots for what is nested; empty for the entry itself.
        text: What is wrong, and what to write instead.
    """

    server: str | None
    key: str
    text: str

    def __str__(self) -> str:
        where = [] if self.server is None else [f"server {self.server!r}"]
        where += [self.key] if self.key else []
        return ": ".join([*where, self.text])


class ConfigError(ValueError):
    """Raised when a file cannot be used; tells all of its problems.

    Attributes:
        path: The file.
        problems: What is wrong with it, in the file's order.
    """

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        super().__init__("\n".join(f"{path}: {problem}" for problem in problems))
        self.path = path
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One server of a file, ready for `ResilientClient`.

    Attributes:
        server: The SDK's `StdioServerParameters`, `StreamableHttpParameters` or `SseServerParameters`.
        policy: Its policy.
    """

    server: Any = field(repr=False)
    policy: Policy


def load(path: str | os.PathLike[str]) -> dict[str, ServerConfig]:
    """Read a file of servers.

    Entries with `"disabled": true` are left out. A policy is made of the file's `"resilience"` and, on top of it, key
    by key, the entry's.

    Args:
        path: The file: JSON, with `//` and `/* */` comments and trailing commas as VS Code allows them.

    Returns:
        The servers by name, in the file's order.

    Raises:
        ConfigError: It cannot be used; says everything that is wrong with it.
    """
    path = Path(path)
    reader = _Reader()
    servers = reader.read(path)
    if reader.problems:
        raise ConfigError(path, reader.problems)
    return servers


def json_schema() -> dict[str, Any]:
    """The JSON schema of such a file, for editors and tools."""
    schema = _File.model_json_schema(schema_generator=_WithoutCallables)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def expand(text: str) -> str:
    """`text` with its `${VAR}` and `${VAR:-default}` in place.

    Raises:
        ValueError: A variable is not set, or is none.
    """
    complaints: list[str] = []
    expanded = _expanded(text, complaints.append)
    if complaints:
        raise ValueError("; ".join(complaints))
    return expanded


# --- the shape of a file ---


class _Entry(BaseModel):
    """One server: `command` for a process that speaks over stdio, or `url` for one that is reached over HTTP."""

    model_config = ConfigDict(use_attribute_docstrings=True, title="Server", strict=True)

    command: str | None = None
    """The program to start."""
    args: list[str] = []
    """Its arguments."""
    env: dict[str, str] = {}
    """Environment variables for it, beside a few basic ones such as PATH and HOME."""
    cwd: str | None = None
    """The directory to start it in."""
    url: str | None = None
    """Where the server is."""
    type: Literal["stdio", "http", "streamable-http", "streamableHttp", "sse"] | None = None
    """How to reach it; by default `stdio` with `command`, and `http` (Streamable HTTP) with `url`."""
    headers: dict[str, str] = {}
    """HTTP headers for every request."""
    disabled: bool = False
    """Whether to leave this server out."""
    resilience: Policy = Policy()
    """The policy of this server; what it does not say is taken from the `resilience` of the file."""


class _File(BaseModel):
    """The servers of an MCP host."""

    model_config = ConfigDict(use_attribute_docstrings=True, title="MCP servers")

    mcp_servers: dict[str, _Entry] = Field(default={}, alias="mcpServers")
    """Name to server, as Claude Desktop, Cursor and most hosts write it."""
    servers: dict[str, _Entry] = {}
    """The same, as VS Code writes it."""
    resilience: Policy = Policy()
    """The policy of all servers."""


class _WithoutCallables(GenerateJsonSchema):
    """Leaves out the fields that only Python code can set."""

    def callable_schema(self, schema: core_schema.CallableSchema) -> JsonSchemaValue:  # noqa: ARG002
        raise PydanticOmit


# --- reading it ---

_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = re.compile(r'"(?:\\.|[^"\\\n])*"|,(?=\s*[}\]])')
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = frozenset({"env", "headers", "args"})
"""Keys whose values are never shown."""
_REMEDIES = {
    "string_type": "must be a string: put it in quotes",
    "list_type": 'must be a list: write ["one", "two"]',
    "dict_type": 'must be an object: write {"NAME": "value"}',
    "bool_type": "must be true or false, without quotes",
}
"""By pydantic's type of error: what is wrong, and what to write."""
_HTTP = frozenset({"http", "streamable-http", "streamableHttp"})
_NEEDLESS = {"command": ("headers",), "url": ("args", "env", "cwd")}
"""The two ways to reach a server, and the keys that say nothing to it."""


class _Reader:
    """Reads one file and gathers what is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def read(self, path: Path) -> dict[str, ServerConfig]:
        document = self._parse(path)
        entries = self._entries(document)
        default = document.get("resilience", {}) if isinstance(document, dict) else {}
        if self._policy(None, default) is None:
            default = {}  # said once, not once per server
        servers = {name: self._server(name, entry, default) for name, entry in entries.items()}
        return {name: server for name, server in servers.items() if server is not None}

    def _add(self, server: str | None, key: str, text: str) -> None:
        self.problems.append(Problem(server, key, text))

    def _parse(self, path: Path) -> Any:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as exc:
            self._add(None, "", f"cannot be read ({exc.strerror}): give the path of an mcpServers file")
            return None
        except UnicodeDecodeError as exc:
            self._add(None, "", f"is not UTF-8 (byte {exc.start}): save it as UTF-8")
            return None
        try:
            return json.loads(_plain(text), object_pairs_hook=self._object)
        except ValueError as exc:
            self._add(None, "", f"is not JSON ({exc}): correct it there")
        except RecursionError:
            self._add(None, "", "is nested too deeply: nothing in an mcpServers file needs that")
        return None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            self._add(None, "", f"has {', '.join(map(repr, twice))} twice in one object: rename or remove one")
        return made

    def _entries(self, document: Any) -> dict[str, Any]:
        if document is None:
            return {}
        if not isinstance(document, dict):
            self._add(None, "", 'is not an object: write {"mcpServers": {"name": {"command": "..."}}}')
            return {}
        keys = [key for key in ("mcpServers", "servers") if key in document]
        if len(keys) != 1:
            what = "has both 'mcpServers' and 'servers': keep one" if keys else _no_servers(document)
            self._add(None, "", what)
            return {}
        entries = document[keys[0]]
        if not isinstance(entries, dict):
            self._add(None, keys[0], 'must be an object: write {"name": {"command": "..."}}')
            return {}
        return entries

    def _policy(self, server: str | None, value: Any) -> Policy | None:
        if not isinstance(value, dict):
            self._add(server, "resilience", 'must be an object: write {"retry": {"attempts": 6}}')
            return None
        try:
            return Policy.model_validate(value)
        except ValidationError as exc:
            for error in exc.errors(include_url=False):
                key = ".".join(["resilience", *map(str, error["loc"])])
                shown = "" if isinstance(error["input"], dict) else f" (value {error['input']!r})"
                self._add(server, key, f"{_said(error['msg'])}{shown}")
        return None

    def _server(self, name: str, value: Any, default: Mapping[str, Any]) -> ServerConfig | None:
        before = len(self.problems)
        if not isinstance(value, dict):
            self._add(name, "", 'must be an object: write {"command": "..."} or {"url": "..."}')
            return None
        if value.get("disabled") is True:
            return None
        own = value.get("resilience", {})
        alone = self._policy(name, own)
        merged = self._policy(name, _merged(own, default)) if alone is not None else None
        self._check(name, value)
        entry = self._entry(name, {key: item for key, item in value.items() if key != "resilience"})
        server = None if entry is None else self._parameters(name, entry)
        if len(self.problems) > before or merged is None:
            return None
        return ServerConfig(server, merged)

    def _entry(self, name: str, value: dict[str, Any]) -> _Entry | None:
        try:
            return _Entry.model_validate(value)
        except ValidationError as exc:
            for error in exc.errors(include_url=False):
                key = ".".join(map(str, error["loc"]))
                message = _REMEDIES.get(error["type"]) or _said(error["msg"])
                shown = "" if error["loc"][0] in _SECRET else f" (value {_shown(str(error['loc'][0]), error['input'])})"
                self._add(name, key, f"{message}{shown}")
        return None

    def _check(self, name: str, value: dict[str, Any]) -> None:
        """What no single key shows."""
        given = {key for key in value if value[key] is not None}
        if "envFile" in given:
            self._add(name, "envFile", "is not read here: put its variables into 'env', or export them")
        ways = [way for way in _NEEDLESS if way in given]
        if len(ways) > 1:
            self._add(name, "", "has both 'command' and 'url': keep the one that is meant")
            return
        if not ways:
            wrong = [(key, close) for key in value for close in difflib.get_close_matches(key, _NEEDLESS, n=1)]
            hint = "did {!r} mean {!r}?".format(*wrong[0]) if wrong else "write the one that is meant"
            self._add(name, "", f"has neither 'command' nor 'url': {hint}")
            return
        kind, needed = value.get("type"), "command" if value.get("type") == "stdio" else "url"
        if kind in {"stdio", "sse", *_HTTP} and needed not in given:
            self._add(name, "type", f"is {kind!r}, which needs {needed!r}: add it, or leave 'type' out")
        for key in _NEEDLESS[ways[0]]:
            if value.get(key):
                self._add(name, key, f"says nothing to a server with {ways[0]!r}: remove it")

    def _parameters(self, name: str, entry: _Entry) -> Any:
        """The SDK's parameters, with all variables expanded."""

        def expand(key: str, text: str) -> str:
            return _expanded(text, lambda problem: self._add(name, key, problem))

        def expand_all(key: str, values: Mapping[str, str]) -> dict[str, str]:
            return {item: expand(f"{key}.{item}", text) for item, text in values.items()}

        before = len(self.problems)
        if entry.command is not None:
            command = expand("command", entry.command)
            if len(self.problems) == before and not command.strip():
                self._add(name, "command", f"is empty (value {entry.command!r}): write the program to start")
            return _sdk.StdioServerParameters(
                command=command,
                args=[expand(f"args.{n}", text) for n, text in enumerate(entry.args)],
                env=expand_all("env", entry.env) or None,
                cwd=None if entry.cwd is None else expand("cwd", entry.cwd),
            )
        if entry.url is None:
            return None
        url = expand("url", entry.url)
        if len(self.problems) == before and not _is_url(url):
            shown = _shown("url", entry.url)
            self._add(name, "url", f"is no URL (value {shown}): write one such as 'https://example.com/mcp'")
        headers = expand_all("headers", entry.headers) or None
        if entry.type == "sse":
            return _sdk.SseServerParameters(url=url, headers=headers)
        return _sdk.StreamableHttpParameters(url=url, headers=headers)


# --- helpers ---


def _plain(text: str) -> str:
    """`text` without comments and trailing commas; every other character stays where it is."""
    text = _COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), text)
    return _TRAILING_COMMA.sub(lambda m: " " if m[0] == "," else m[0], text)


def _no_servers(document: Mapping[str, Any]) -> str:
    keys = ", ".join(map(repr, list(document)[:10])) or "none"
    return f"has no key 'mcpServers' (or 'servers', as VS Code writes it); its keys are {keys}"


def _merged(own: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """`own` on top of `default`, key by key; its keys come first, because of tool patterns the first match decides."""
    made = dict(own)
    for key, value in default.items():
        if key not in made:
            made[key] = value
        elif isinstance(value, dict) and isinstance(made[key], dict):
            made[key] = _merged(made[key], value)
    return made


def _expanded(text: str, complain: Callable[[str], None]) -> str:
    """`text` with its variables in place; what cannot be expanded is complained of and left out."""

    def value(match: re.Match[str]) -> str:
        inner = match[1].removeprefix("env:")
        name, has_default, default = inner.partition(":-")
        if inner.startswith("input:"):
            complain(f"asks for {match[0]}, which only VS Code can: write ${{VAR}} and export VAR")
        elif not _NAME.fullmatch(name):
            complain(f"has {match[0]}, which is no variable: write ${{VAR}} or ${{VAR:-default}}")
        else:
            found = os.environ.get(name)
            if found is None and not has_default:
                complain(f"needs the environment variable {name!r}: export it, or write ${{{name}:-default}}")
            return (found or default) if has_default else (found or "")
        return ""

    return _VARIABLE.sub(value, text)


def _is_url(text: str) -> bool:
    try:
        parsed = _sdk.http.URL(text)
    except (_sdk.http.InvalidURL, ValueError):
        return False
    return parsed.scheme in {"http", "https"} and bool(parsed.host)


def _shown(key: str, value: Any) -> str:
    """A value of the file as a message may show it: before expansion, and of a URL nothing but host and path."""
    if key != "url" or not isinstance(value, str):
        return repr(value)
    return repr(value.partition("?")[0].rpartition("@")[2]) if not _is_url(value) else repr(safe_url(value))


def _said(message: str) -> str:
    """What pydantic says, as the end of a message of ours."""
    own = message.removeprefix("Value error, ")
    return own if own != message else message[:1].lower() + message[1:]
