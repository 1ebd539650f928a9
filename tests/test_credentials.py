"""What counts as a credential, by name and by format, anywhere in a configuration; and that nothing else does."""

from __future__ import annotations

import json
import random
import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import StdioServerParameters

from resilient_mcp import ResilientClient
from resilient_mcp.connection.server import server_of
from resilient_mcp.text.configured import in_arguments, in_header, in_named, in_pairs, in_url, in_value, shown
from resilient_mcp.text.credentials import is_credential, is_identifier, is_random, is_token, safe_url
from resilient_mcp.text.printable import printable
from resilient_mcp.text.redact import Redactor

TOKEN = "Zx9kQ1tt"
WORD = "hunter-two"

# --- what is a secret ---


@pytest.mark.parametrize(
    "name",
    [
        *("API_KEY", "apiKey", "apikey", "OPENAI_API_KEY", "OPENAI_API_KEY_2", "KEY", "SECRET_KEY_BASE", "--key", "-k"),
        *("GITHUB_TOKEN", "NPM_TOKEN", "authToken", "//registry.npmjs.org/:_authToken", "ACCESS_TOKEN_PROD"),
        *("CLIENT_SECRET", "PASSWORD", "PGPASSWORD", "MYSQL_PWD", "DB_PASS", "SSH_PASSPHRASE", "--passwd", "PAT"),
        *("AZURE_DEVOPS_PAT", "--github-pat", "REDIS_AUTH", "--auth", "--bearer", "COOKIE", "SESSION_COOKIE", "JWT"),
        *("AWS_CREDENTIALS", "X-Signature", "LICENSE_KEY", "access_key"),
    ],
)
def test_names_of_credentials(name: str):
    """A value with such a name is a secret, whatever it looks like."""
    assert is_credential(name)
    assert WORD in set(in_named(name, WORD))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "MAX_TOKENS",
            "max_token",
            "TOKENIZERS_PARALLELISM",
            "SORT_KEY",
            "PUBLIC_KEY",
            "GPG_KEY",
            "KEYBOARD",
            "MONKEY",
        ),
        *("SSH_AUTH_SOCK", "XAUTHORITY", "GIT_AUTHOR_NAME", "AUTHOR", "PWD", "OLDPWD", "COMPASS", "PATH", "TOKEN_FILE"),
        *(
            "SECRET_NAME",
            "API_KEY_HEADER",
            "--no-auth",
            "--use-token",
            "USER",
            "DB_USER",
            "SIGNAL",
            "PASSENGER",
            "PATTERN",
        ),
    ],
)
def test_names_that_only_resemble_credentials(name: str):
    """A name that merely contains or resembles a credential's name does not make its value a secret."""
    assert not is_credential(name)
    assert not set(in_named(name, WORD))


@pytest.mark.parametrize(
    "secret",
    [
        *("Zx9kQ1tt", "Zx9kQ1ttAA77", "sk-ant-Zx9kQ1tt", "sk-proj-abcdefg1234567", "ghp_Zx9kQ1tt", "gho_abcdefghij"),
        *("github_pat_11ABCDEFG0abcdef", "glpat-abcdefghij-klmno", "xoxb-123456-abcdef", "xoxp-1-2-abcdefgh"),
        *("AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", "AIzaSyA-1234567890abcdefghijklmnop", "hf_abcdefghijKLMNOP"),
        *("npm_abcdefghij0123456789abcdefghij012345", "pypi-AgEIcHlwaS5vcmcCJDEyMw", "sk_live_abcdef0123456789"),
        *("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "0123456789abcdef0123456789abcdef"),
        *("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", "dGhpcyBpcyBhIHNlY3JldCB2YWx1ZQ==", "JBSWY3DPEHPK3PXPJBSWY3DP"),
        *("kJ8/3mPq+Zt5Rw1xYb7Nc9Dv2Hs4Lf6Gg0Aa", "Bearer Zx9kQ1tt", "123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"),
        *(
            "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
            "fc-0123456789abcdef0123456789abcdef",
        ),
    ],
)
def test_formats_of_credentials(secret: str):
    """Known prefixes and random characters are secrets under any name, and inside other text."""
    for value in (secret, f"first, {secret}", f'{{"a": ["{secret}"]}}' if "\n" not in secret else secret):
        found = set(in_value(value))
        assert any(one in secret and len(one) >= 8 for one in found), found
    redactor = Redactor(server_of(StdioServerParameters(command="x", env={"SOMETHING": secret})).secrets())
    assert secret not in redactor.clean(f"refused: {secret}")


@pytest.mark.parametrize("alphabet", [string.ascii_letters + string.digits, "0123456789abcdef"])
def test_random_characters_are_recognized(alphabet: str):
    """More than 98 % of random 32-character keys are recognized."""
    generator = random.Random(1)
    keys = ["".join(generator.choices(alphabet, k=32)) for _ in range(1000)]
    assert sum(map(is_random, keys)) > 980


PLACES: list[list[str]] = [
    *(
        [flag, TOKEN]
        for flag in ("--api-key", "-k", "--key", "--apikey", "--pat", "--auth", "--bearer", "-t", "-p", "--x")
    ),
    *([flag, WORD] for flag in ("--api-key", "-k", "--key", "--apikey", "--pat", "--auth", "--bearer", "--password")),
    *([f"--token={value}"] for value in (TOKEN, WORD)),
    *([flag, f"user:{value}"] for flag in ("-u", "--user", "--basic-auth", "--auth") for value in (TOKEN, WORD)),
    *([f"-uuser:{WORD}"], [f"--user=user:{WORD}"], [f"-p{TOKEN}"], [f"-DPASSWORD={WORD}"], [f"api_key:{TOKEN}"]),
    *(
        ["-e", f"API_KEY={WORD}"],
        [f"-eAPI_KEY={WORD}"],
        [f"--env=API_KEY={WORD}"],
        ["--env", f"N={TOKEN}"],
        [f"-eN={TOKEN}"],
    ),
    *(
        ["-H", f"X-Key: {WORD}"],
        [f"-HX-Any: {TOKEN}"],
        [f"--header=X-Any: {TOKEN}"],
        ["--header", f"Cookie: a={WORD}; b=c"],
    ),
    *(["-H", f"Authorization: Bearer {WORD}"], ["--header", f"Authorization: Basic dXNlcjpo{'dW50ZXItdHdv'}"]),
    *(
        [f"redis://:{WORD}@3f2a1b4c5d6e:6379/0"],
        [f"postgresql://u:{WORD}@h/db"],
        [f"mongodb+srv://u:{TOKEN}@h"],
        ["--db-url", f"redis://:{WORD}@h:6379/0"],
    ),
    *(
        [f"jdbc:mysql://u:{WORD}@h/db"],
        [f"https://{TOKEN}@h/x"],
        [f"https://h/?apiKey={WORD}"],
        [f"https://h/{TOKEN}/mcp"],
    ),
    *(
        [f"https://h/mcp;tok={WORD}"],
        [f"https://h/mcp#{TOKEN}"],
        [f"https://h/mcp?{TOKEN}"],
        [f"https://{TOKEN}.h.com/mcp"],
    ),
    *(
        ["--connection-string", f"Server=h;Password={WORD};"],
        ["sh", "-c", f"TOKEN={WORD} exec x"],
        ["sh", "-c", f"PAT={WORD} x"],
    ),
    *([f'--json={{"api_key": "{WORD}"}}'], ['--json={"a": [{"key": "' + WORD + '"}]}'], [f"[broken api_key={WORD}"]),
    *(["--tokens", TOKEN], ["--license", TOKEN], [f"sk-ant-{TOKEN}"], [f"ghp_{TOKEN}"], [f"--x=user:{TOKEN}"]),
]


@pytest.mark.parametrize("arguments", PLACES, ids=" ".join)
def test_places_in_a_command_line(arguments: list[str]):
    """In flags, attached values, pairs, headers, URLs, JSON and shell code, the secret is masked and nothing else."""
    redactor = Redactor(server_of(StdioServerParameters(command="x", args=arguments)).secrets())
    text = f"the server says {TOKEN} and {WORD} were refused for user at h"
    secret = TOKEN if TOKEN in " ".join(arguments) else WORD
    assert redactor.clean(text) == text.replace(secret, "***")


@pytest.mark.parametrize(
    ("name", "value", "secrets"),
    [
        ("Authorization", f"Bearer {WORD}", {WORD}),
        ("X-Api-Key", WORD, {WORD}),
        ("X-Any", TOKEN, {TOKEN}),
        ("Cookie", f"sid={TOKEN}; a=b", {f"sid={TOKEN}; a=b", TOKEN}),
        (
            "Authorization",
            "Basic am9lOmh1bnRlci10d28=",
            {"am9lOmh1bnRlci10d28=", "am9lOmh1bnRlci10d28", "joe:hunter-two", "hunter-two"},
        ),
        ("X-Tenant", "production", set()),
        ("X-Request-Id", "0123456789abcdef0123456789abcdef", set()),
        ("X-Auth", "none", set()),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", set()),
    ],
)
def test_headers(name: str, value: str, secrets: set[str]):
    """Secrets in headers are found by name and format, and inside auth schemes, logins and cookies."""
    assert set(in_header(name, value)) == secrets


# --- what is not a secret ---

SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"
EVERYDAY: dict[str, str] = {
    # shell and desktop
    "HOME": "/home/alice",
    "SHELL": "/bin/bash",
    "TERM": "xterm-256color",
    "COLORTERM": "truecolor",
    "LANG": "en_US.UTF-8",
    "LC_ALL": "C.UTF-8",
    "LANGUAGE": "de_AT:de:en",
    "PWD": "/home/alice/my-project",
    "OLDPWD": "/app",
    "SHLVL": "2",
    "PATH": "/home/alice/.nvm/versions/node/v22.9.0/bin:/usr/local/bin:/usr/bin:/bin",
    "EDITOR": "vim",
    "TZ": "Europe/Vienna",
    "XDG_RUNTIME_DIR": "/run/user/1000",
    "SSH_AUTH_SOCK": "/tmp/ssh-XXabCD12EfGh/agent.1234",
    "DISPLAY": ":0",
    "LS_COLORS": "rs=0:di=01;34:ln=01;36:*.tar=01;31",
    "SSH_CONNECTION": "192.168.1.5 51234 10.0.0.7 22",
    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bus,guid=5c3f0e9d8b7a46f1a2b3c4d5e6f70819",
    "XAUTHORITY": "/run/user/1000/gdm/Xauthority",
    "TMPDIR": "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T/",
    "PAGER": "less -R",
    "LESSOPEN": "| /usr/bin/lesspipe %s",
    "TERM_PROGRAM": "Apple_Terminal",
    "TERM_PROGRAM_VERSION": "455.1",
    "TERM_SESSION_ID": "w0t0p0:B7B1C9A4-6D1A-4A5C-9A53-0D1B4E6F2A11",
    "__CF_USER_TEXT_ENCODING": "0x1F5:0x0:0x0",
    "INVOCATION_ID": "5c3f0e9d8b7a46f1a2b3c4d5e6f70819",
    "JOURNAL_STREAM": "8:12345",
    "HOSTNAME": "3f2a1b4c5d6e",
    "PS1": r"\u@\h:\w\$ ",
    "WINDOWID": "62914567",
    "GNOME_TERMINAL_SCREEN": "/org/gnome/Terminal/screen/6b7d2e8c_1f3a_4c5b_9d0e_2a1b3c4d5e6f",
    # applications
    "NODE_ENV": "production",
    "LOG_LEVEL": "WARNING",
    "DB_HOST": "localhost",
    "DB_PORT": "5432",
    "DB_USER": "postgres",
    "DB_NAME": "my_database",
    "LOG_DIR": "/var/log/app",
    "DEBUG": "true",
    "DEBUG_SCOPE": "app:*,-app:db",
    "PORT": "8080",
    "BASE_URL": "https://api.example.com/v1",
    "DATABASE_URL": "postgresql://localhost:5432/app?sslmode=disable",
    "REDIS_URL": "redis://redis:6379/0",
    "JDBC_URL": "jdbc:mysql://db.internal:3306/shop?useSSL=false&serverTimezone=UTC",
    "KAFKA_BROKERS": "kafka-1:9092,kafka-2:9092",
    "ALLOWED_ORIGINS": "https://a.example.com,https://b.example.com",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel-collector:4318",
    "OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,service.version=1.2.3",
    "HTTP_PROXY": "http://proxy.corp.example:3128",
    "NO_PROXY": "localhost,127.0.0.1,.svc,.cluster.local",
    "AWS_REGION": "eu-central-1",
    "AWS_PROFILE": "dev-admin",
    "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/AmazonS3FullAccess",
    "INSTANCE": "i-0abcd1234efab5678",
    "GOOGLE_APPLICATION_CREDENTIALS": "/home/alice/keys/service-account.json",
    "GOOGLE_CLOUD_PROJECT": "my-project-123456",
    "AZURE_TENANT_ID": "72f988bf-86f1-41af-91ab-2d7cd011db47",
    "OPENAI_MODEL": "gpt-4o-mini-2024-07-18",
    "HF_MODEL": "Qwen/Qwen2.5-7B-Instruct-GGUF",
    "LLAMA_FILE": "DeepSeek-R1-0528-Qwen3-8B-Q4_K_M.gguf",
    "MAX_TOKENS": "4096",
    "EOS_TOKEN": "</s>",
    "TOKENIZERS_PARALLELISM": "false",
    "SORT_KEY": "created_at",
    "FEATURES": '{"beta": true, "limits": {"requests": 100, "region": "eu"}}',
    "RELEASE_DATE": "2025-11-25T10:00:00Z",
    "JAVA_OPTS": "-Xmx512m -XX:+UseG1GC -XX:MaxRAMPercentage=75.0 -Dfile.encoding=UTF-8",
    "SCHEDULE": "*/5 * * * *",
    "TIMEOUT": "1h30m15s",
    "DURATION": "P1Y2M10DT2H30M",
    "CLASS": "com.example.shop.OrderServiceImplV2",
    "CAMEL": "getUserByIdV2",
    "COLOR": "#3fa9f5",
    "EMAIL": "alice.smith@example.com",
    "PHONE": "+43 1 234567",
    "AUTH_TYPE": "oauth2",
    "USE_TOKEN": "false",
    "TOKEN_FILE": "/run/secrets/token",
    "NPM_CONFIG_AUTH": "null",
    "MEMORY": "512Mi",
    "CPU": "250m",
    # CI
    "CI": "true",
    "GITHUB_SHA": SHA,
    "GITHUB_REF": "refs/heads/feature/ABC-123-fix-login",
    "GITHUB_REPOSITORY": "octo-org/octo-repo",
    "GITHUB_RUN_ID": "11873498734",
    "GITHUB_WORKSPACE": "/__w/octo-repo/octo-repo",
    "GITHUB_ACTION": "__actions_checkout",
    "RUNNER_OS": "Linux",
    "RUNNER_TRACKING_ID": "github_1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed",
    "ImageVersion": "20241112.1.0",
    "CI_COMMIT_SHA": SHA,
    "CI_COMMIT_SHORT_SHA": "9f86d081",
    "CI_JOB_NAME": "test: [3.10, ubuntu-24.04]",
    "CI_PIPELINE_URL": "https://gitlab.com/group/project/-/pipelines/1234567",
    "GIT_DESCRIBE": "v1.2.3-4-g9f86d08",
    "BUILD_SOURCEVERSION": SHA,
    "SOURCE": f"https://github.com/octo-org/octo-repo/commit/{SHA}",
    # Docker, Kubernetes
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
    "POD_NAME": "my-app-7d9f8b6c5d-x2x4z",
    "POD_NAMESPACE": "default",
    "NODE_NAME": "ip-10-0-12-34.eu-central-1.compute.internal",
    "GPG_KEY": "E3FF2839C048B25C084DEBE9B26995E310250568",
    "PYTHON_SHA256": "7d5c9f3e0b1a2c4d6e8f0a1b3c5d7e9f1a2b4c6d8e0f2a4b6c8d0e1f3a5b7c9d",
    "IMAGE": "ghcr.io/github/github-mcp-server:v0.5.0",
    "PINNED": "python@sha256:7d5c9f3e0b1a2c4d6e8f0a1b3c5d7e9f1a2b4c6d8e0f2a4b6c8d0e1f3a5b7c9d",
    "DEBIAN_FRONTEND": "noninteractive",
    # npm, Python
    "npm_config_registry": "https://registry.npmjs.org/",
    "npm_config_user_agent": "npm/10.8.2 node/v22.9.0 linux x64 workspaces/false",
    "npm_package_name": "@scope/my-package",
    "npm_lifecycle_event": "start",
    "npm_package_resolved": "https://registry.npmjs.org/left-pad/-/left-pad-1.3.0.tgz",
    "npm_package_integrity": "sha1-Zx9kQ1ttAA77Bb8cD4eF/gH2iJ0=",
    "NODE_OPTIONS": "--max-old-space-size=4096",
    "NVM_DIR": "/home/alice/.nvm",
    "VIRTUAL_ENV": "/home/alice/.venv",
    "PYTHONPATH": "/app/src:/app/lib",
    "PYTHONUNBUFFERED": "1",
    "PIP_INDEX_URL": "https://pypi.org/simple",
    "UV_PYTHON": "cpython-3.13.0-linux-x86_64-gnu",
    "CONDA_DEFAULT_ENV": "base",
    "DJANGO_SETTINGS_MODULE": "mysite.settings.production",
    "PLATFORM": "Linux-5.15.0-91-generic-x86_64-with-glibc2.35",
}

COMMANDS: list[list[str]] = [
    ["-y", "@modelcontextprotocol/server-filesystem@2025.8.21", "/home/alice/Documents", "../data"],
    ["-y", "mcp-remote@latest", "https://mcp.linear.app/sse", "--transport", "http-first", "--port", "3334"],
    [
        "--from",
        f"git+https://github.com/oraios/serena@{SHA}",
        "serena",
        "start-mcp-server",
        "--context",
        "ide-assistant",
    ],
    [
        "--from",
        "git+ssh://git@github.com/org/repo.git@v1.2.3#subdirectory=servers/a",
        "mcp-server-git",
        "--repository",
        ".",
    ],
    [
        "run",
        "-i",
        "--rm",
        "-u",
        "1000:1000",
        "-v",
        "/srv/data:/data:ro",
        "-e",
        "GITHUB_TOKEN",
        "-e",
        "LOG_LEVEL=debug",
        "mcp/postgres",
    ],
    [
        "run",
        "--user",
        "node:node",
        "-p",
        "8080:80",
        "--env-file",
        ".env",
        "ghcr.io/github/github-mcp-server:v0.5.0",
        "stdio",
    ],
    ["-m", "mcp_server_time", "--local-timezone=America/New_York", "--verbose", "--log-level", "WARNING"],
    [
        "-u",
        "server.py",
        "--host",
        "0.0.0.0",
        "--transport=streamable-http",
        "--read-only",
        "--toolsets",
        "repos,issues",
    ],
    [
        "@upstash/context7-mcp@latest",
        "@playwright/mcp",
        "--browser",
        "chrome",
        "--viewport-size=1280,720",
        "--headless",
    ],
    [
        "mcp-server-sqlite",
        "--db-path",
        "./test.db",
        "postgresql://localhost/mydb",
        "--schema",
        "public",
        "--no-auth",
        "x.py",
    ],
    ["-c", "import sys; sys.exit(main(['--strict']))", "-W", "ignore::DeprecationWarning", "-Dlog4j.level=INFO"],
    ["-H", "Accept: application/json", "--header", "X-Tenant: production", "--auth", "none", "--auth-type", "basic"],
    ["--key-file", "/etc/ssl/private/server.key", "--key", "/etc/ssl/private/server.key", "--token-limit", "1000"],
    [
        "--config",
        '{"servers": {"a": {"command": "npx", "args": ["-y", "x@1.2.3"]}}, "debug": false}',
        "-x",
        "C:\\Users\\alice",
    ],
]

LINES = [
    "2025-11-25 10:00:01,123 INFO server started on http://localhost:8080/mcp with 12 tools",
    'INFO:     127.0.0.1:51234 - "POST /mcp?page=2&limit=10 HTTP/1.1" 200 OK',
    'HTTP Request: POST https://mcp.example.com/mcp "HTTP/1.1 200 OK"',
    "GET https://registry.npmjs.org/-/v1/search?text=mcp&size=20 304 in 12 ms",
    "npm ERR! 404 Not Found - GET https://registry.npmjs.org/@scope%2fname - Not found",
    "Cloning ssh://git@github.com/org/repo.git (v1.2.3-4-g9f86d08)",
    f"Checked out {SHA} of refs/heads/main",
    "docker run -u 1000:1000 --user node:node -v /srv:/data mcp/postgres",
    "python -u server.py --host 0.0.0.0 --port 8080",
    "Error: invalid token: unexpected end of input at line 3",
    "SyntaxError: Unexpected token } in JSON at position 42",
    "bearer authentication failed, basic authentication is required",
    "Authorization: required",
    "missing header Authorization: please log in first",
    "Cookie: missing",
    "max_tokens=1000, use_token=true, password=None, secret: null",
    "password: must be at least eight characters",
    "KeyError: 'api' in primary key: id",
    "pwd=/home/alice/project",
    "secret: db-credentials not found in namespace default",
    "    token = state.push(self.kind, 1)",
    "    if password == '':",
    "    signature = inspect.signature(function)",
    "risk-free disk-1234567 task-20241105 npm_config_registry hf_hub_download pypi-attestations",
    "request 4bf92f35-77b3-4da6-a3ce-929d0e0e4736 took 12.5 ms (trace 4bf92f3577b34da6a3ce929d0e0e4736)",
    'Traceback (most recent call last): File "/usr/lib/python3.13/asyncio/base_events.py", line 712',
    "ModuleNotFoundError: No module named 'mcp_server_time'",
    "Contact alice.smith@example.com or see https://example.com/docs#getting-started",
    "image python@sha256:7d5c9f3e0b1a2c4d6e8f0a1b3c5d7e9f1a2b4c6d8e0f2a4b6c8d0e1f3a5b7c9d pulled",
    "pods my-app-7d9f8b6c5d-x2x4z and ip-10-0-12-34.compute.internal are ready",
    "SELECT id, name FROM users WHERE age > 30 AND country = 'AT'",
    "Basic read-only access, bearer of news, the token bucket is empty",
    '{"error": {"code": -32602, "message": "invalid path /var/log/app/x.log"}}',
    '"token": {"type": "string", "description": "The token to use"}',
]


def test_everyday_values_are_not_masked():
    """Variables of shells, CI, Docker, Kubernetes, npm and Python, and arguments of real servers, are not masked."""
    assert len(EVERYDAY) + sum(map(len, COMMANDS)) > 200
    assert {
        name: set(in_pairs([(name, value)])) for name, value in EVERYDAY.items() if set(in_pairs([(name, value)]))
    } == {}
    assert {" ".join(args): set(in_arguments(args)) for args in COMMANDS if set(in_arguments(args))} == {}
    for arguments in COMMANDS:
        redactor = Redactor(server_of(StdioServerParameters(command="npx", args=arguments, env=EVERYDAY)).secrets())
        for text in [*EVERYDAY.values(), *arguments, *LINES]:
            assert redactor.clean(text) == text


@pytest.mark.parametrize("line", LINES)
def test_everyday_lines_are_not_masked(line: str):
    """Log lines, prose about credentials, source lines and identifiers are not masked."""
    assert Redactor().clean(line) == line


# --- URLs ---


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com/mcp", "https://example.com/mcp"),
        (
            "HTTPS://Example.com:8443/api/v1/servers/my-project/2025-11-25",
            "https://example.com:8443/api/v1/servers/my-project/2025-11-25",
        ),
        ("http://[::1]:8080/mcp", "http://[::1]:8080/mcp"),
        ("https://mcp.example.com/s/Zx9kQ1ttAA77/mcp", "https://mcp.example.com/s/***/mcp"),
        ("https://h/s/123e4567-e89b-12d3-a456-426614174000/mcp", "https://h/s/***/mcp"),
        ("https://h/s/3f2a1b4c5d6e7f8091/mcp", "https://h/s/***/mcp"),
        ("https://h/s/sk-ant-abcdef1/mcp", "https://h/s/***/mcp"),
        ("https://h/s/%5Ax9kQ1ttAA77/mcp", "https://h/s/***/mcp"),
        ("https://user:hunter2@h/mcp;tok=x;y?key=z#f", "https://h/mcp;tok=***;***"),
        ("https://Zx9kQ1tt.example.com/mcp", "https://***.example.com/mcp"),
        ("/login?next=secret", "/login"),
        ("example.com", "example.com"),
        ("", ""),
        ("https://", "https://"),
        ("ghp_Zx9kQ1tt", "***"),
        ("https://user:hunter2@[bad", "https://***"),
        ("https://[hunter2", "https://***"),
        ("http://h:hunter2/mcp", "http://h:***"),
        ("http://user:hunter2/x@h/mcp", "http://***"),
        ("http://user:p@ss:hunter2@h/mcp", "http://h/mcp"),
        ("http://user:hunter2@exa mple/mcp", "http://***"),
        ("user:hunter2@h/mcp", "h/mcp"),
    ],
)
def test_urls_in_messages(url: str, shown: str):
    """A URL is shown without the parts that may be a secret or part of one."""
    assert safe_url(url) == shown


@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://u:p@", "://", "[", "http://["]))
def test_any_text_is_accepted_as_a_url(text: str, begin: str):
    """No text raises an error, and the URL shown in a message is printable."""
    assert printable(safe_url(begin + text)) == safe_url(begin + text)
    assert list(in_url(begin + text)) is not None
    assert list(in_arguments([text, begin])) is not None


MALFORMED = [
    *("https://user:hunter2secret@[bad", "https://[hunter2secret", "http://h:hunter2secret/mcp"),
    *("http://user:hunter2secret@h:abc/mcp", "https://h\n/mcp?hunter2secret", "http://hunter2secret@/x"),
    *(
        "http://h/?a=hunter2secret\x01",
        "http://1.2.3.999:80/Zx9kQ1ttAA77",
        "http://[::hunter2secret]/",
        "ftp://hunter2secret@h/x",
    ),
    *("http://user:hunter2secret\uff0f@h\u2100/", "http://h:80:hunter2secret/", "http://hunter2secret:x@h:99999999/"),
    "sk-ant-hunter2secret",
]


@pytest.mark.parametrize("url", MALFORMED, ids=ascii)
def test_a_malformed_url_is_refused_without_its_secrets(url: str):
    """The error names the problem and the remedy, and neither it nor its context shows a possible secret."""
    with pytest.raises(ValueError, match="write one such as 'https://example.com/mcp'") as caught:
        ResilientClient(url)
    assert not {"hunter2", "Zx9kQ1tt"} & set(re.findall("hunter2|Zx9kQ1tt", str(caught.value)))
    assert caught.value.__context__ is None


def test_the_default_name_is_the_url_without_its_token():
    """The default name of an HTTP server is its URL, with a token in the path masked."""
    assert ResilientClient("https://example.com/mcp").name == "https://example.com/mcp"
    assert ResilientClient("https://mcp.example.com/s/Zx9kQ1ttAA77/mcp").name == "https://mcp.example.com/s/***/mcp"


# --- values in messages ---


def test_values_in_messages():
    """Credentials in a value are masked at any depth; keys and other values are kept."""
    given: dict[str, Any] = {
        "headers": [
            {"Authorization": "Bearer x"},
            ("six", -1, None, {"password": 1234567, "token": None, "key": True}),
        ],
        TOKEN: 1,
    }
    assert shown(given) == {
        "headers": [{"Authorization": "***"}, ["six", -1, None, {"password": "***", "token": None, "key": True}]],
        "***": 1,
    }
    deep: Any = {"a": TOKEN}
    for _ in range(100):
        deep = [deep]
    assert TOKEN not in repr(shown(deep))
    assert not set(in_value("[" * 40 + json.dumps(TOKEN) + "]" * 40))
    assert set(in_value("[" * 100_000 + TOKEN)) == {TOKEN}


def test_ids_and_tokens():
    """Names of ids mark identifiers, random text in a URL's path is a token, and a known token format always is."""
    assert is_identifier("GITHUB_SHA")
    assert not is_identifier("VALID")
    assert is_token("bot123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw")
    assert not is_token("my-project")
    assert set(in_url("https://h/Zx9kQ1tt")) == {"Zx9kQ1tt"}
    assert not set(in_url("file:///tmp/Zx9kQ1tt"))
    assert set(in_named("CLIENT_ID", "AKIAIOSFODNN7EXAMPLE")) == {"AKIAIOSFODNN7EXAMPLE"}
