"""What takes secrets out: values it was told of in every spelling, those it was not told of, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import StdioServerParameters
from mcp.client import session_group
from mcp.types import CallToolResult, ErrorData
from pydantic import ValidationError

from resilient_mcp import Delivery, Evidence, ExitStatus, ServerUnavailable, _sdk
from resilient_mcp.errors import add_note
from resilient_mcp.evidence import Kind
from resilient_mcp.redact import Redactor

SECRET = 'hunter2 "\\/é\n& more'


@pytest.mark.parametrize(
    "spell",
    [
        str,
        repr,
        json.dumps,
        lambda s: json.dumps(s, ensure_ascii=False),
        lambda s: " ".join(s.split()),
        lambda s: base64.b64encode(s.encode()).decode(),
        lambda s: f"https://host/{quote(s, safe='')}",
        quote_plus,
    ],
)
def test_every_spelling_of_a_secret(spell: Any):
    """As it is, in JSON, in `repr`, percent-encoded, in base64, or with its whitespace collapsed."""
    cleaned = Redactor([SECRET]).clean(f"before {spell(SECRET)} after")
    assert "hunter2" not in cleaned
    assert "aHVudGVyMi" not in cleaned
    assert cleaned.startswith("before")
    assert cleaned.endswith("after")


@given(st.text("ab: =/\"'\\", max_size=200), st.integers(0, 40), st.integers(1, 60))
def test_nothing_is_left_where_text_is_cut(noise: str, at: int, limit: int):
    """Wherever the cut goes through, no half of a secret is left; and cleaning twice is cleaning once."""
    redactor = Redactor(["s3cr3t-0123456789-t0k3n"])
    text = f"{noise[:at]}s3cr3t-0123456789-t0k3n{noise[at:]}" * 40
    line = redactor.line(text, limit)
    assert len(line) <= limit
    assert "s3cr" not in line
    assert "t0k3n" not in redactor.clean_tail(text[7:], 1)
    assert redactor.clean(redactor.clean(text)) == redactor.clean(text)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ('{"Authorization": "Basic eDp5"}', '{"Authorization": ***}'),
        ("sent Bearer eyJhbGciOi.x1 to it", "sent Bearer *** to it"),
        ("bearer authentication failed", "bearer authentication failed"),
        ("invalid token: expired", "invalid token: expired"),
        ("max_tokens=1000", "max_tokens=1000"),
        ("token=abc&x=1", "token=***&x=1"),
        ("client_secret: a1b2c3", "client_secret: ***"),
        ('{"password": "my dog\'s name", "user": "joe"}', '{"password": ***, "user": "joe"}'),
        (r"{\"api_key\": \"a1\"}", r"{\"api_key\": ***\"}"),
        ("postgresql://joe:pw@db:5432/x", "postgresql://***@db:5432/x"),
        ("GET https://host/mcp?key=1&b=2 failed", "GET https://host/mcp?*** failed"),
        ("ordinary text: 42 things at 10:30", "ordinary text: 42 things at 10:30"),
    ],
)
def test_how_secrets_look(text: str, cleaned: str):
    """Tokens, headers, `key=value`, userinfo and queries that nobody told it of; ordinary words stay."""
    assert Redactor().clean(text) == cleaned


def test_what_a_server_is_configured_with():
    """Values of `env` and of arguments that look like credentials; not what the SDK gives to every server."""
    server = StdioServerParameters(
        command="npx",
        args=[
            "--verbose", "server-name", "--api-key", "arg-one", "--token=arg-two", "-e", "KEY=arg-three",
            "--header", "X-Any: arg-four", "https://joe:arg-five@host/x?q=arg-six",
        ],
        env={"TOKEN": "env1", "MODE": "debug", "REGION": "europe-1", "HOME": os.environ.get("HOME", "/")},
    )  # fmt: skip
    redactor = Redactor.of(server)
    kept = "server-name --verbose debug " + os.environ.get("HOME", "/")
    assert redactor.clean(kept) == kept
    for secret in ("arg-one", "arg-two", "arg-three", "arg-four", "arg-five", "arg-six", "env1", "europe-1"):
        assert redactor.clean(f"<{secret}>") == "<***>"


def test_what_an_http_server_is_configured_with():
    """Header values, with and without their scheme, userinfo and query of the URL, the HTTP client's own headers."""
    server = session_group.StreamableHttpParameters(
        url="https://joe:p%40ssword@host/mcp?key=query-secret#frag-secret",
        headers={"Authorization": "Bearer head-secret", "X-Region": "header-two", "Accept": "text/plain"},
    )
    client = _sdk.http.AsyncClient(
        headers={"X-Key": "client-head"}, params={"p": "client-param"}, cookies={"c": "client-cookie"}
    )
    redactor = Redactor.of(server, client)
    for secret in (
        "head-secret", "header-two", "p@ssword", "p%40ssword", "query-secret", "frag-secret", "client-head",
        "client-param", "client-cookie", base64.b64encode(b"joe:p@ssword").decode(),
    ):  # fmt: skip
        assert redactor.clean(f"<{secret}>") == "<***>"
    assert redactor.clean("text/plain") == "text/plain"


def test_what_it_learns_is_bounded():
    """Of the tokens seen on the way the latest are known; one that is still in use is not forgotten."""
    redactor = Redactor()
    for n in range(200):
        redactor.learn_headers(_sdk.http.Headers({"Authorization": "Bearer still-in-use", "X-Token": f"number-{n:03}"}))
    assert redactor.clean("still-in-use number-199 number-150") == "*** *** ***"
    assert redactor.clean("number-000") == "number-000"


def test_errors_with_all_that_they_came_from():
    """Message, data, notes, cause, context, group members, file names and pydantic's quotations."""
    redactor = Redactor(["s3cr3t"])
    with pytest.raises(ValidationError) as caught:
        CallToolResult.model_validate({"content": "s3cr3t"})
    exit_status = ExitStatus(1, code=1, stderr="s3cr3t")
    cause = _sdk.ErrorBase(1, "said s3cr3t", {"s3cr3t": ["s3cr3t", ("s3cr3t", 1)], "n": 1})
    cause.__context__ = caught.value
    cause.__cause__ = FileNotFoundError(2, "no s3cr3t", "/s3cr3t")
    error = ServerUnavailable("x s3cr3t", advice="y s3cr3t", stderr="s3cr3t", data=["s3cr3t"])
    error.exit = Evidence(Kind.PROCESS, Delivery.UNKNOWN, "s3cr3t", exit=exit_status)  # type: ignore[attr-defined]
    error.__cause__ = cause
    add_note(error, "note s3cr3t")
    assert redactor.clean_error(error) is error
    seen = [error, cause, cause.__cause__, cause.__context__]
    for one in seen:
        assert "s3cr3t" not in str(one) + repr(one) + repr(vars(one) if hasattr(one, "__dict__") else "")
    assert cause.data == {"***": ["***", ("***", 1)], "n": 1}
    assert error.exit.exit.stderr == "***"  # type: ignore[attr-defined]
    assert isinstance(cause.__context__, ValidationError)


def test_what_holds_no_secret_stays_itself():
    """The same objects come back, so that nothing is copied in vain; what is too deep is not passed on unseen."""
    redactor = Redactor(["s3cr3t"])
    for value in ({"a": [1, ("x",)]}, ErrorData(code=1, message="x"), Evidence(Kind.HTTP, Delivery.UNKNOWN, "x"), 5):
        assert redactor.cleaned(value) is value
    deep: Any = "s3cr3t"
    for _ in range(100):
        deep = [deep]
    assert "s3cr3t" not in repr(redactor.cleaned(deep))


@pytest.mark.parametrize(
    "evil", ["a.", "token=", "://", "bearer ", "authorization:", '"', "token", "https://a", "=\\'"]
)
def test_hostile_text_takes_no_time(evil: str):
    """10 MB made to be slow to read is read in less than the seconds that a backtracking pattern takes."""
    began = time.process_time()
    Redactor(["s3cr3t"]).clean(evil * (10_000_000 // len(evil)))
    assert time.process_time() - began < 5


def test_more_than_an_error_can_mean_is_not_passed_on():
    """A million values take no time to clean, and leak nothing."""
    redactor = Redactor(["s3cr3t"])
    began = time.process_time()
    cleaned = redactor.cleaned([{"s3cr3t": "s3cr3t"}] * 1_000_000)
    again = redactor.cleaned(("s3cr3t", [[["s3cr3t"]]]))
    assert time.process_time() - began < 5
    assert "s3cr3t" not in repr(cleaned[0]) + repr(cleaned[-1]) + repr(again)


def test_words_are_no_secrets():
    """A flag that has the name of a credential does not blank every `true`."""
    server = StdioServerParameters(command="x", args=["--use-token", "true"], env={"USE_TOKEN": "false"})
    redactor = Redactor.of(server)
    redactor.learn_headers(_sdk.http.Headers({"X-Auth": "none"}))
    assert redactor.clean("true false none") == "true false none"
