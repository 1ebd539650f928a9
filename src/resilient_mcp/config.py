"""Reads the `mcpServers` file that MCP hosts share: the servers, how to reach them, and their policies.

It accepts the files of Claude Desktop, Cursor (`mcpServers`) and VS Code (`servers`, comments, trailing commas),
expands `${VAR}` and `${VAR:-default}`, and adds one key: `"resilience"`, a `Policy`, per server and for all. All
problems of a file are reported together, in a `ConfigError` that names file, server, key and remedy. It contains no
secrets: neither the value of a variable nor any value of `env`, `headers` or `args`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcp import StdioServerParameters
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticOmit, core_schema

from ._sdk.installed import SseServerParameters, StreamableHttpParameters, http
from .policy import Policy
from .text.credentials import safe_url
from .text.printable import printable
from .text.redact import Redactor
from .transports.http.headers import HeadersFunction
from .transports.http.headers_command import HeadersCommand


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a file.

    Attributes:
        server: The server whose entry has the problem, or None for the file itself.
        key: The key inside the entry, dotted where nested; empty for the entry itself.
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
    """Raised when a file cannot be used; lists all of its problems.

    Attributes:
        path: The file.
        problems: Its problems, in the order in which they were found.
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
        headers: Returns headers from its `headersHelper`, or None: pass it as `ResilientClient(headers=...)`.
    """

    server: Any = field(repr=False)
    policy: Policy
    headers: HeadersFunction | None = None


def load(path: str | os.PathLike[str]) -> dict[str, ServerConfig]:
    """Read a file of servers.

    Entries with `"disabled": true` are left out. A server's policy is its entry's `"resilience"`, merged key by key
    over the file's.

    Args:
        path: The file: JSON, with `//` and `/* */` comments and trailing commas as VS Code allows them.

    Returns:
        The servers by name, in the file's order.

    Raises:
        ConfigError: The file cannot be used; lists all of its problems.
    """
    return read(path)[0]


def read(path: str | os.PathLike[str]) -> tuple[dict[str, ServerConfig], list[str]]:
    """Read a file of servers, as `load` does.

    Returns:
        The servers by name, and the names of those that are disabled.

    Raises:
        ConfigError: The file cannot be used; lists all of its problems.
    """
    path = Path(path)
    reader = _Reader()
    servers = reader.read(path)
    if reader.problems:
        raise ConfigError(path, reader.problems)
    return servers, reader.disabled


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the file, for editors and tools."""
    schema = _File.model_json_schema(schema_generator=_WithoutCallables)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def expand(text: str) -> str:
    """Expand `${VAR}` and `${VAR:-default}` in `text`.

    Raises:
        ValueError: A variable is not set, or its name is not valid.
    """
    complaints: list[str] = []
    expanded = _expanded(text, complaints.append)
    if complaints:
        raise ValueError("; ".join(complaints))
    return expanded


# --- the shape of a file ---


class _Entry(BaseModel):
    """One server: `command` for a process that speaks stdio, or `url` for a server reached over HTTP."""

    model_config = ConfigDict(use_attribute_docstrings=True, title="Server", strict=True)

    command: str | None = None
    """The program to start."""
    args: list[str] = []
    """Its arguments."""
    env: dict[str, str] = {}
    """Environment variables for it, in addition to a few basic ones such as PATH and HOME."""
    cwd: str | None = None
    """The directory to start it in."""
    url: str | None = None
    """The server's URL."""
    type: Literal["stdio", "http", "streamable-http", "streamableHttp", "sse"] | None = None
    """How to reach it; by default `stdio` with `command`, and `http` (Streamable HTTP) with `url`."""
    headers: dict[str, str] = {}
    """HTTP headers for every request."""
    headersHelper: str | None = None  # noqa: N815 - as Claude Code spells it
    """A shell command that prints more headers, as a JSON object of strings. It runs for each connection, and again
    after a 401."""
    disabled: bool = False
    """Whether to leave this server out."""
    resilience: Policy = Policy()
    """The policy of this server; keys that it leaves out are taken from the file's `resilience`."""


class _File(BaseModel):
    """The servers of an MCP host."""

    model_config = ConfigDict(use_attribute_docstrings=True, title="MCP servers")

    mcp_servers: dict[str, _Entry] = Field(default={}, alias="mcpServers")
    """Name to server, as Claude Desktop, Cursor and most hosts write it."""
    servers: dict[str, _Entry] = {}
    """The same, as VS Code writes it."""
    resilience: Policy = Policy()
    """The default policy of all servers."""


class _WithoutCallables(GenerateJsonSchema):
    """Omits the fields that only Python code can set."""

    def callable_schema(self, schema: core_schema.CallableSchema) -> JsonSchemaValue:  # noqa: ARG002
        raise PydanticOmit


# --- reading it ---

# Strings and comments may be unclosed: if their end were required, the search for it would begin again at each quote.
_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"?|//[^\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)
_TRAILING_COMMA = re.compile(r'"(?:\\.|[^"\\\n])*"?|,(?=\s*[}\]])', re.DOTALL)
_KEYS = tuple(_Entry.model_fields)
_LONGEST_KEY = 64
# Keys that one message names.
_SHOWN = 10
# The closing brace is optional, so that an unclosed variable matches up to the end of the text. If it were required,
# the search would run to the end again from each `${`: quadratic time.
_VARIABLE = re.compile(r"\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Keys whose values are never shown.
_SECRET = frozenset({"env", "headers", "headersHelper", "args"})
# What is wrong and what to write instead, by pydantic's error type.
_REMEDIES = {
    "string_type": "must be a string: put it in quotes",
    "list_type": 'must be a list: write ["one", "two"]',
    "dict_type": 'must be an object: write {"NAME": "value"}',
    "bool_type": "must be true or false, without quotes",
}
_A_FILE = 'write {"mcpServers": {"name": {"command": "..."}}}'
_HTTP = frozenset({"http", "streamable-http", "streamableHttp"})
# The two ways to reach a server, each with the keys that have no effect with it.
_NEEDLESS = {"command": ("headers", "headersHelper"), "url": ("args", "env", "cwd")}
# What other hosts, and people, call `url` and `command`. In an entry that has one of the two, such a key belongs to
# another host and is ignored.
_OTHER_NAMES = {
    **dict.fromkeys(["serverUrl", "httpUrl", "uri", "endpoint", "address", "baseUrl", "base_url"], "url"),
    **dict.fromkeys(["cmd", "program", "executable"], "command"),
}


class _Reader:
    """Reads one file and collects its problems and the names of its disabled servers."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.disabled: list[str] = []

    def read(self, path: Path) -> dict[str, ServerConfig]:
        document = self._parse(path)
        entries = self._entries(document)
        keys = document if isinstance(document, dict) else {}
        default = keys.get("resilience", {})
        for key in keys:
            if key != "resilience" and _is_slip(key, "resilience"):
                self._add(None, key, "is not a key of the file: did you mean 'resilience'?")
        if self._policy(None, default) is None:
            default = {}  # reported once, not again for each server that merges it
        servers = {name: self._server(name, entry, default) for name, entry in entries.items()}
        return {name: server for name, server in servers.items() if server is not None}

    def _add(self, server: str | None, key: str, text: str) -> None:
        self.problems.append(Problem(server, key, text))

    def _parse(self, path: Path) -> Any:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as exc:
            self._add(None, "", f"cannot be read ({exc.strerror}): {_other_file(path)}")
            return None
        except UnicodeDecodeError as exc:
            self._add(None, "", f"is not UTF-8 (byte {exc.start}): save it as UTF-8")
            return None
        if not (text := _plain(text)).strip():
            self._add(None, "", f"is empty: {_A_FILE}")
            return None
        try:
            return json.loads(text, object_pairs_hook=self._object)
        except ValueError as exc:
            self._add(None, "", f"is not JSON ({exc}): fix it there")
        except RecursionError:
            self._add(None, "", "is nested too deeply: an mcpServers file needs only a few levels")
        return None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = sorted(key for key, count in counts.items() if count > 1)
            shown = ", ".join(printable(repr(key), _LONGEST_KEY) for key in twice[:_SHOWN])
            more = f" and {len(twice) - _SHOWN} more" if len(twice) > _SHOWN else ""
            self._add(None, "", f"has {shown}{more} twice in one object: rename or remove one")
        return made

    def _entries(self, document: Any) -> dict[str, Any]:
        if document is None:
            return {}
        if not isinstance(document, dict):
            self._add(None, "", f"is not an object: {_A_FILE}")
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
            for key, problem in policy_problems(exc):
                self._add(server, ".".join(["resilience", *key]), problem)
        return None

    def _server(self, name: str, value: Any, default: Mapping[str, Any]) -> ServerConfig | None:
        before = len(self.problems)
        if not isinstance(value, dict):
            self._add(name, "", 'must be an object: write {"command": "..."} or {"url": "..."}')
            return None
        if value.get("disabled") is True:
            self.disabled.append(name)
            return None
        own = value.get("resilience", {})
        alone = self._policy(name, own)
        merged = self._policy(name, _merged(own, default)) if alone is not None else None
        self._check(name, value)
        entry = self._entry(name, {key: item for key, item in value.items() if key != "resilience"})
        server = None if entry is None else self._parameters(name, entry)
        if len(self.problems) > before or merged is None or entry is None:
            return None
        helper = entry.headersHelper
        headers = None if helper is None or server is None else HeadersCommand(helper, name=name, url=server.url)
        return ServerConfig(server, merged, headers)

    def _entry(self, name: str, value: dict[str, Any]) -> _Entry | None:
        try:
            return _Entry.model_validate(value)
        except ValidationError as exc:
            for error in exc.errors(include_url=False):
                key = ".".join(map(str, error["loc"]))
                message = _REMEDIES.get(error["type"]) or _said(error["msg"])
                hidden = error["loc"][0] in _SECRET
                shown = "" if hidden else _in_brackets(str(error["loc"][0]), error["input"])
                self._add(name, key, f"{message}{shown}")
        return None

    def _check(self, name: str, value: dict[str, Any]) -> None:
        """Report the problems that involve several keys, or keys that are not known."""
        given = {key for key in value if value[key] is not None}
        if "envFile" in given:
            self._add(name, "envFile", "is not supported: put its variables into 'env', or export them")
        ways = [way for way in _NEEDLESS if way in given]
        if len(ways) > 1:
            self._add(name, "", "has both 'command' and 'url': remove one of them")
            return
        meant = {key: known for key in value if (known := _meant(key, has_way=bool(ways))) is not None}
        for key, known in meant.items():
            self._add(name, key, f"is not a key of a server: did you mean {known!r}?")
        if not ways:
            if _NEEDLESS.keys().isdisjoint(meant.values()):
                self._add(name, "", "has neither 'command' nor 'url': add one of them")
            return
        kind, needed = value.get("type"), "command" if value.get("type") == "stdio" else "url"
        if isinstance(kind, str) and kind in {"stdio", "sse", *_HTTP} and needed not in given:
            self._add(name, "type", f"is {kind!r}, which needs {needed!r}: add it, or leave 'type' out")
        if "headersHelper" in given and value.get("type") == "sse":
            self._add(name, "headersHelper", "has no effect with type 'sse': remove it")
        for key in _NEEDLESS[ways[0]]:
            if value.get(key):
                self._add(name, key, f"has no effect with {ways[0]!r}: remove it")

    def _parameters(self, name: str, entry: _Entry) -> Any:
        """The entry as the SDK's parameters, with all variables expanded."""

        def expand(key: str, text: str) -> str:
            shows = key.partition(".")[0] not in _SECRET
            return _expanded(text, lambda problem: self._add(name, key, problem), shows=shows)

        def expand_all(key: str, values: Mapping[str, str]) -> dict[str, str]:
            return {item: expand(f"{key}.{item}", text) for item, text in values.items()}

        before = len(self.problems)
        if entry.command is not None:
            command = expand("command", entry.command)
            if len(self.problems) == before and not command.strip():
                self._add(name, "command", f"is empty (value {entry.command!r}): write the program to start")
            return StdioServerParameters(
                command=command,
                args=[expand(f"args.{n}", text) for n, text in enumerate(entry.args)],
                env=expand_all("env", entry.env) or None,
                cwd=None if entry.cwd is None else expand("cwd", entry.cwd),
            )
        if entry.url is None:
            return None
        url = expand("url", entry.url)
        if len(self.problems) == before and not _is_url(url):
            shown = _in_brackets("url", entry.url)
            self._add(name, "url", f"is not a URL{shown}: write one such as 'https://example.com/mcp'")
        headers = expand_all("headers", entry.headers) or None
        if entry.type == "sse":
            return SseServerParameters(url=url, headers=headers)
        return StreamableHttpParameters(url=url, headers=headers)


# --- helpers ---


def _plain(text: str) -> str:
    """`text` without comments and trailing commas; all other characters keep their positions, for error messages."""
    text = _COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), text)
    return _TRAILING_COMMA.sub(lambda m: " " if m[0] == "," else m[0], text)


def _no_servers(document: Mapping[str, Any]) -> str:
    keys = ", ".join(map(repr, list(document)[:_SHOWN])) or "none"
    return f"has no key 'mcpServers' (or 'servers', as VS Code writes it); its keys are {keys}"


def _merged(own: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """`own` merged over `default`, key by key; its keys come first, since the first matching tool pattern decides."""
    made = dict(own)
    for key, value in default.items():
        if key not in made:
            made[key] = value
        elif isinstance(value, dict) and isinstance(made[key], dict):
            made[key] = _merged(made[key], value)
    return made


def _expanded(text: str, complain: Callable[[str], None], *, shows: bool = True) -> str:
    """Expand the variables in `text`.

    A variable that cannot be expanded is passed to `complain` and left out. With `shows=False` an invalid one is not
    quoted, for it may be part of a secret.
    """

    def value(match: re.Match[str]) -> str:
        inner = match[1].removeprefix("env:")
        name, has_default, default = inner.partition(":-")
        if not match[2]:
            return match[0]  # unclosed: not a variable
        if inner.startswith("input:"):
            complain(f"uses {match[0]}, which only VS Code supports: write ${{VAR}} and export VAR")
        elif not _NAME.fullmatch(name):
            shown = printable(match[0]) if shows else "a ${...}"
            complain(f"has {shown}, which is not a variable: write ${{VAR}} or ${{VAR:-default}}")
        else:
            found = os.environ.get(name)
            if found is None and not has_default:
                complain(f"needs the environment variable {name!r}: export it, or write ${{{name}:-default}}")
            return (found or default) if has_default else (found or "")
        return ""

    return _VARIABLE.sub(value, text)


def _is_url(text: str) -> bool:
    try:
        parsed = http.URL(text)
    except (http.InvalidURL, ValueError):
        return False
    return parsed.scheme in {"http", "https"} and bool(parsed.host)


def _other_file(path: Path) -> str:
    """The remedy for a file that cannot be read."""
    with suppress(OSError):
        beside = [other.name for other in path.parent.iterdir() if other.suffix == ".json" and other.is_file()]
        if not path.exists() and (close := difflib.get_close_matches(path.name, beside, n=1)):
            return f"did you mean {str(path.with_name(close[0]))!r}?"
    return "give the path of an mcpServers file"


def _meant(key: str, *, has_way: bool) -> str | None:
    """The known key that `key` is a typo of, or None; `has_way` if the entry has a `command` or a `url`.

    Other hosts add keys of their own to an entry, so only a single typo counts: `arg` for `args`, but not `enabled` or
    `disabledTools` for `disabled`. Only an entry with neither `command` nor `url` is searched for looser matches.
    """
    if key in _KEYS or key == "envFile":
        return None
    if (other := _OTHER_NAMES.get(key)) is not None:
        return None if has_way else other
    for known in _KEYS:
        if _is_slip(key, known):
            return known
    close = [] if has_way else difflib.get_close_matches(key[:_LONGEST_KEY], _NEEDLESS, n=1)
    return close[0] if close else None


def _is_slip(key: str, known: str) -> bool:
    """Whether they differ only in case and in at most one letter: wrong, missing, extra or swapped with the next."""
    key = key.lower()
    if len(key) == len(known):
        swaps = (known[:n] + known[n + 1] + known[n] + known[n + 2 :] for n in range(len(known) - 1))
        return sum(mine != its for mine, its in zip(key, known, strict=True)) <= 1 or key in swaps
    shorter, longer = sorted((key, known), key=len)
    return len(longer) - len(shorter) == 1 and any(longer[:n] + longer[n + 1 :] == shorter for n in range(len(longer)))


def policy_problems(error: ValidationError) -> list[tuple[list[str], str]]:
    """The problems of a policy, as keys and text; values are shown without secrets."""
    problems = []
    for fault in error.errors(include_url=False):
        keys, value = list(map(str, fault["loc"])), fault["input"]
        text = _said(fault["msg"])
        if isinstance(value, dict):  # the validator's message quotes one of the values
            for key, item in value.items():
                text = text.replace(f" (value {item!r})", _in_brackets(str(key), item))
        problems.append((keys, text + _in_brackets(keys[-1] if keys else "", value)))
    return problems


def _in_brackets(key: str, value: Any) -> str:
    """A value of the file as a suffix of a message; empty for a list or an object.

    It is shown as written, before expansion, without what looks like a secret, and of a URL only host and path.
    """
    if isinstance(value, dict | list):
        return ""
    if key == "url" and isinstance(value, str):
        value = safe_url(value)
    # The redactor needs the key, which may say that the value is a credential.
    return f" (value {Redactor().line(f'{key[-_LONGEST_KEY:]}={value!r}').partition('=')[2]})"


def _said(message: str) -> str:
    """Pydantic's message, as the end of one of this module's."""
    own = message.removeprefix("Value error, ")
    return own if own != message else message[:1].lower() + message[1:]
