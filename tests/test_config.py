"""Server files: files of other hosts are read as intended, and all problems are reported together, without secrets."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import jsonschema
import pytest
from mcp import StdioServerParameters

from resilient_mcp import Policy, config
from resilient_mcp._sdk.installed import SseServerParameters, StreamableHttpParameters
from resilient_mcp.config import ConfigError

CLAUDE = """{
  "mcpServers": {
    "files": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "/tmp"]},
    "weather": {"command": "uvx", "args": ["weather"], "env": {"API_KEY": "${WEATHER_KEY}"}, "cwd": "/srv"}
  }
}"""
VS_CODE = """\ufeff{
  // what this workspace uses
  "servers": {
    "docs": {
      "type": "http", /* Streamable HTTP */
      "url": "https://${DOCS_HOST:-docs.example.com}/mcp", // not a comment: the two slashes in the URL
      "headers": {"Authorization": "Bearer ${env:WEATHER_KEY}"},
    },
    "old": {"type": "sse", "url": "http://127.0.0.1:9/sse"},
  },
}"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mcp.json"
    path.write_text(text, encoding="utf-8")
    return path


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text))
    message = str(caught.value)
    assert message.splitlines() == [f"{tmp_path / 'mcp.json'}: {problem}" for problem in caught.value.problems]
    return [str(problem) for problem in caught.value.problems]


def of_server(tmp_path: Path, entry: object) -> list[str]:
    return problems(tmp_path, json.dumps({"mcpServers": {"x": entry}}))


def test_a_file_of_claude_desktop_or_cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Commands are read with arguments, environment and directory, and environment variables are expanded."""
    monkeypatch.setenv("WEATHER_KEY", "s3cret")
    servers = config.load(write(tmp_path, CLAUDE))
    assert list(servers) == ["files", "weather"]
    files, weather = (entry.server for entry in servers.values())
    assert isinstance(files, StdioServerParameters)
    assert files.args[:2] == ["-y", "@modelcontextprotocol/server-filesystem"]
    assert files.env is None
    assert weather.env == {"API_KEY": "s3cret"}
    assert str(weather.cwd) == "/srv"
    assert "s3cret" not in repr(servers)


def test_a_file_of_vs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`servers`, comments, trailing commas, a byte order mark, `${env:VAR}` and defaults are read."""
    monkeypatch.setenv("WEATHER_KEY", "s3cret")
    monkeypatch.setenv("DOCS_HOST", "")
    servers = config.load(write(tmp_path, VS_CODE))
    docs, old = (entry.server for entry in servers.values())
    assert isinstance(docs, StreamableHttpParameters)
    assert docs.url == "https://docs.example.com/mcp"
    assert docs.headers == {"Authorization": "Bearer s3cret"}
    assert isinstance(old, SseServerParameters)


def test_a_servers_policy_overrides_the_common_one(tmp_path: Path):
    """A server's policy overrides the common one key by key, and its tool patterns come first."""
    text = """{
      "resilience": {"retry": {"attempts": 6, "base": 1}, "tools": {"get_*": {"repeatable": true}}},
      "mcpServers": {
        "a": {"command": "x", "resilience": {"retry": {"attempts": 2}, "tools": {"get_one": {"repeatable": false}}}},
        "b": {"command": "x"},
        "c": {"command": "no", "disabled": true}
      }
    }"""
    servers = config.load(write(tmp_path, text))
    assert list(servers) == ["a", "b"]
    a, b = (entry.policy for entry in servers.values())
    assert (a.retry.attempts, a.retry.base) == (2, 1)
    assert a.tool("get_one").repeatable is False
    assert a.tool("get_two").repeatable is True
    assert b == Policy.model_validate(json.loads(text)["resilience"])


def test_all_problems_are_reported_together(tmp_path: Path):
    """Each problem names its server, key and value, and what to do."""
    text = """{
      "resilience": {"retri": {}},
      "mcpServers": {
        "a": {"comand": "npx", "args": ["-y", 5]},
        "b": {"type": "htp", "url": "https://example.com"},
        "c": {"command": "x", "resilience": {"retry": {"attempts": 0}}},
        "d": 5
      }
    }"""
    assert problems(tmp_path, text) == [
        "resilience: Policy has no key 'retri': did you mean 'retry'?",
        "server 'a': comand: is not a key of a server: did you mean 'command'?",
        "server 'a': args.1: must be a string: put it in quotes",
        "server 'b': type: input should be 'stdio', 'http', 'streamable-http', 'streamableHttp' or 'sse' (value 'htp')",
        "server 'c': resilience.retry.attempts: input should be greater than or equal to 1 (value 0)",
        'server \'d\': must be an object: write {"command": "..."} or {"url": "..."}',
    ]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({}, "has neither 'command' nor 'url': add one of them"),
        ({"command": "x", "url": "y"}, "has both 'command' and 'url': remove one of them"),
        ({"command": " "}, "command: is empty (value ' '): write the program to start"),
        (
            {"url": "example.com"},
            "url: is not a URL (value 'example.com'): write one such as 'https://example.com/mcp'",
        ),
        (
            {"url": "http://x:port"},
            "url: is not a URL (value 'http://x:***'): write one such as 'https://example.com/mcp'",
        ),
        ({"type": "stdio", "url": "http://x"}, "type: is 'stdio', which needs 'command': add it, or leave 'type' out"),
        ({"type": "http", "command": "x"}, "type: is 'http', which needs 'url': add it, or leave 'type' out"),
        ({"command": "x", "headers": {"a": "b"}}, "headers: has no effect with 'command': remove it"),
        ({"command": "x", "args": "y"}, 'args: must be a list: write ["one", "two"]'),
        ({"command": "x", "env": ["Y=1"]}, 'env: must be an object: write {"NAME": "value"}'),
        ({"command": "x", "disabled": "no"}, "disabled: must be true or false, without quotes (value 'no')"),
        ({"command": "x", "envFile": ".env"}, "envFile: is not supported: put its variables into 'env', or export"),
        ({"command": "x", "resilience": 5}, 'resilience: must be an object: write {"retry": {"attempts": 6}}'),
        (
            {"command": "${nope}"},
            "command: needs the environment variable 'nope': export it, or write ${nope:-default}",
        ),
        (
            {"command": "${input:key}"},
            "command: uses ${input:key}, which only VS Code supports: write ${VAR} and export",
        ),
        ({"command": "${a b}"}, "command: has ${a b}, which is not a variable: write ${VAR} or ${VAR:-default}"),
    ],
)
def test_each_problem_of_a_server(tmp_path: Path, entry: object, problem: str):
    """Each mistake in the entry of a server has its own message."""
    (message,) = of_server(tmp_path, entry)
    assert message.startswith(f"server 'x': {problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ('{\n// c\n"servers" 5}', "is not JSON (Expecting ':' delimiter: line 3 column 11"),
        ("", 'is empty: write {"mcpServers": {"name": {"command": "..."}}}'),
        (" // nothing\n", "is empty"),
        ("[]", "is not an object: write"),
        ('{"mcpServers": {}, "Resiliance": {}}', "Resiliance: is not a key of the file: did you mean 'resilience'?"),
        ('{"mcpServer": {}}', "has no key 'mcpServers' (or 'servers', as VS Code writes it); its keys are 'mcpServer'"),
        ('{"mcpServers": {}, "servers": {}}', "has both 'mcpServers' and 'servers': keep one"),
        ('{"mcpServers": []}', "mcpServers: must be an object"),
        ('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}', "has 'a' twice in one object"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"mcpServers": {}, "resilience": []}', "resilience: must be an object"),
    ],
)
def test_each_problem_of_a_file(tmp_path: Path, text: str, problem: str):
    """Each mistake in the file itself has its own message."""
    assert any(message.startswith(problem) for message in problems(tmp_path, text))


@pytest.mark.parametrize(
    ("entry", "key", "meant"),
    [
        ({"serverUrl": "http://x"}, "serverUrl", "url"),
        ({"httpUrl": "http://x"}, "httpUrl", "url"),
        ({"uri": "http://x"}, "uri", "url"),
        ({"endpoint": "http://x"}, "endpoint", "url"),
        ({"URL": "http://x"}, "URL", "url"),
        ({"cmd": "x"}, "cmd", "command"),
        ({"commmannd": "x"}, "commmannd", "command"),
        ({"commnad": "x"}, "commnad", "command"),
        ({"Command": "x"}, "Command", "command"),
        ({"command": "x", "arg": []}, "arg", "args"),
        ({"command": "x", "evn": {}}, "evn", "env"),
        ({"command": "x", "Env": {}}, "Env", "env"),
        ({"command": "x", "cdw": "/"}, "cdw", "cwd"),
        ({"command": "x", "disable": True}, "disable", "disabled"),
        ({"command": "x", "resiliance": {}}, "resiliance", "resilience"),
        ({"url": "http://x", "header": {}}, "header", "headers"),
    ],
)
def test_misspelt_keys(tmp_path: Path, entry: object, key: str, meant: str):
    """A misspelt key, or another host's name for `url` or `command`, is reported once, with the right key suggested."""
    assert of_server(tmp_path, entry) == [f"server 'x': {key}: is not a key of a server: did you mean {meant!r}?"]


OTHERS = [
    "active", "alwaysAllow", "auth", "authProviderType", "autoApprove", "availableTools", "bundled", "chatMenu",
    "connectionTimeout", "customUserVars", "description", "dev", "disabledTools", "enabled", "enabledTools",
    "env_keys", "environment", "excludeTools", "exclude_tags", "extensionName", "gallery", "icon",
    "iconPath", "id", "includeTools", "include_tags", "initTimeout", "init_timeout", "keep_alive", "kind",
    "metadata", "name", "note", "oauth", "oauthScopes", "order", "priority", "requestOptions", "roots", "sampling",
    "sandbox", "scope", "serverInstructions", "settings", "source", "sse_read_timeout", "startup",
    "startup_timeout_sec", "stderr", "tags", "targetAudience", "tcp", "timeout", "title", "tool_timeout_sec",
    "tools", "transport", "transportType", "trust", "version", "watchPaths",
]  # fmt: skip


@pytest.mark.parametrize("way", [{"command": "x"}, {"url": "http://x"}], ids=["command", "url"])
def test_keys_of_other_hosts(tmp_path: Path, way: dict[str, str]):
    """Keys of other hosts are accepted next to a command or a URL, and not taken for misspelt keys."""
    theirs = dict.fromkeys([*OTHERS, "serverUrl", "httpUrl", "uri", "endpoint", "cmd"], "theirs")
    assert list(config.load(write(tmp_path, json.dumps({"mcpServers": {"x": {**way, **theirs}}})))) == ["x"]


def test_variables_are_expanded_in_linear_time(monkeypatch: pytest.MonkeyPatch):
    """A text with a million `${` and no `}` is returned unchanged, and quickly."""
    monkeypatch.setenv("HERE", "here")
    text = "${" * 1_000_000
    assert config.expand(text) == text
    assert config.expand("${HERE}, ${HERE} and ${") == "here, here and ${"


def test_disabled_servers_are_named(tmp_path: Path):
    """`read` lists disabled servers apart, so that a command can tell them from missing ones."""
    text = '{"mcpServers": {"a": {"command": "x"}, "b": {"disabled": true}}}'
    servers, disabled = config.read(write(tmp_path, text))
    assert (list(servers), disabled) == (["a"], ["b"])


def test_files_that_cannot_be_read(tmp_path: Path):
    """A directory, a missing file or folder, and a file that is not UTF-8 are reported with the remedy."""
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\): give the path of an mcpServers file"):
        config.load(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\): give the path"):
        config.load(tmp_path / "no" / "mcp.json")
    beside = write(tmp_path, "{}")
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "mcp.jsn")
    assert f"did you mean {str(beside)!r}?" in str(caught.value)
    with pytest.raises(ConfigError, match=r"nope.json: cannot be read \(No such file or directory\)"):
        config.load(tmp_path / "nope.json")
    path = tmp_path / "binary.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ConfigError, match=r"is not UTF-8 \(byte 7\)"):
        config.load(path)


def test_no_message_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Values of variables, env, headers and args, and a URL's userinfo and query, are not shown."""
    monkeypatch.setenv("TOKEN", "hunter2")
    servers = {
        "a": {"command": "x", "env": {"K": ["hunter2"]}, "args": [{"k": "hunter2"}]},
        "b": {"url": "ftp://user:hunter2@host/?key=hunter2", "headers": {"A": ["hunter2"], "B": "${NOPE}hunter2"}},
        "c": {"url": "${TOKEN}", "type": "http"},
        "d": {"url": ["https://hunter2"]},
        "e": {"url": "user:hunter2@host?hunter2"},
    }
    messages = problems(tmp_path, json.dumps({"mcpServers": servers}))
    assert len(messages) >= 6
    assert "hunter2" not in "\n".join(messages).replace("['https://hunter2']", "")


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ({"resilience": {"api_key": "hunter2"}}, "resilience: Policy has no key 'api_key' (value ***): its keys"),
        ({"resilience": {"retry": {"password": "hunter2"}}}, "resilience.retry: RetryPolicy has no key 'password'"),
        ({"resilience": {"retry": {"attempts": "token=hunter2"}}}, "resilience.retry.attempts: input should be"),
        ({"resilience": {"retry": {"attempts": ["hunter2"]}}}, "resilience.retry.attempts: input should be"),
        ({"resilience": {"retri": {"x": "hunter2"}}}, "resilience: Policy has no key 'retri': did you mean 'retry'?"),
        ({"disabled": "Bearer hunter2hunter2"}, "disabled: must be true or false, without quotes (value 'Bearer ***'"),
        ({"command": ["npx", "--token", "hunter2"]}, "command: must be a string: put it in quotes"),
        ({"env": {"K": "abc${hunter2 x}"}}, "env.K: has a ${...}, which is not a variable"),
    ],
)
def test_a_mistyped_value_is_shown_without_secrets(tmp_path: Path, entry: dict[str, object], key: str):
    """Values with a credential's name, values that look like one, and contents of containers are not shown."""
    (message,) = of_server(tmp_path, {"command": "x", **entry})
    assert message.startswith(f"server 'x': {key}")
    assert "hunter2" not in message


def test_the_schema_matches_the_reader(tmp_path: Path):
    """The JSON schema accepts what hosts write and rejects a policy with a misspelt key."""
    schema = config.json_schema()
    jsonschema.validate(json.loads(CLAUDE), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"mcpServers": {"a": {"command": "x", "resilience": {"retri": {}}}}}, schema)


@pytest.mark.parametrize("kind", [[], {}, 7, True, ["http"]])
def test_a_type_that_is_no_string(tmp_path: Path, kind: object):
    """It is reported as any other wrong value."""
    assert of_server(tmp_path, {"url": "https://example.com/mcp", "type": kind})[0].startswith("server 'x': type: ")


@pytest.mark.parametrize("evil", ['"\\', "/*", '"', "//", ",", ", ", "{", '{"a":', "[[", "${", '"${a:-"', "*/", "\\"])
def test_a_hostile_file_takes_linear_time(tmp_path: Path, evil: str):
    """Unclosed strings and comments are not searched for their ends again and again."""
    began = time.process_time()
    for text in (
        evil * (400_000 // len(evil)),
        f'{{"mcpServers": {{"x": {{"command": {json.dumps(evil * 50_000)}}}}}}}',
    ):
        with suppress(ConfigError):
            config.load(write(tmp_path, text))
    assert time.process_time() - began < 3


def test_many_duplicate_keys(tmp_path: Path):
    """Counting them takes linear time, and the message names ten of them."""
    pairs = ", ".join(f'"k{n}": 1, "k{n}": 2' for n in range(20_000))
    began = time.process_time()
    found = problems(tmp_path, f'{{{pairs}, "mcpServers": {{}}}}')
    assert time.process_time() - began < 3
    assert found[0].endswith("'k10002', 'k10003', 'k10004' and 19990 more twice in one object: rename or remove one")
