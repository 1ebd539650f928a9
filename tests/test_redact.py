"""Redaction masks configured secrets in every spelling, and unknown ones by their shape, and nothing else."""

from __future__ import annotations

import base64
import html
import itertools
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import StdioServerParameters
from mcp.client import session_group
from mcp.types import CallToolResult, ErrorData
from pydantic import ValidationError

from resilient_mcp import Delivery, Evidence, ExitStatus, ServerUnavailable
from resilient_mcp._sdk.installed import ErrorBase, http
from resilient_mcp.connection.server import server_of
from resilient_mcp.evidence import FailureKind
from resilient_mcp.text import redact
from resilient_mcp.text.printable import add_note
from resilient_mcp.text.redact import Redactor
from resilient_mcp.transports.http import logs
from resilient_mcp.transports.server import HttpOptions

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

SECRETS = ["hunter2 \"\\\\/é\n& more'𝄞", 'S3cr3t/Va+lue&x=9"q', "Zx9kQ1ttAA77", "hunter-two", "<>&'\"!", "a\\b\\\\c<d"]
SPELLINGS: list[Callable[[str], str]] = [
    str,
    repr,
    json.dumps,
    lambda s: json.dumps(s, ensure_ascii=False),
    lambda s: json.dumps(json.dumps(s)),
    lambda s: repr(json.dumps(s)),
    lambda s: json.dumps(s).replace("/", "\\/").replace("&", "\\u0026").replace("<", "\\u003C").replace("+", "\\u002b"),
    lambda s: " ".join(s.split()),
    lambda s: s.encode("unicode_escape").decode(),
    lambda s: f"https://host/{quote(s, safe='')}",
    lambda s: quote(s, safe="").lower() if s == s.lower() else quote(s, safe="").replace("%2F", "%2f"),
    lambda s: quote(quote(s, safe=""), safe=""),
    quote_plus,
    html.escape,
    lambda s: html.escape(html.escape(s)),
    lambda s: "".join(c if c.isalnum() or c in "-._~" else f"&#{ord(c)};" for c in s),
    lambda s: "".join(c if c.isalnum() or c in "-._~" else f"&#x{ord(c):X};" for c in s),
    lambda s: "".join(f"\\u{unit:04x}" for unit in memoryview(s.encode("utf-16")[2:]).cast("H")),
    lambda s: "".join(f"\\u{unit:04X}" for unit in memoryview(s.encode("utf-16")[2:]).cast("H")),
    lambda s: s.encode().hex(),
    lambda s: s.encode().hex().upper(),
]


@pytest.mark.parametrize("secret", SECRETS, ids=ascii)
@pytest.mark.parametrize("spell", SPELLINGS)
def test_every_spelling_of_a_secret(secret: str, spell: Callable[[str], str]):
    """Plain, in JSON, `repr`, a URL, HTML, escaped, in hex, or with its whitespace collapsed."""
    cleaned = Redactor([secret]).clean(f"before ({spell(secret)}) after")
    assert re.fullmatch(r"""before \([\\"']*(https://host/)?\*\*\*[\\"']*(&(amp;)?quot;)?\) after""", cleaned), cleaned


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=8), st.text('aZ09+/=é§𝄞\\"', min_size=6, max_size=30), st.binary(max_size=8), st.booleans())
def test_base64_that_contains_a_secret(before: bytes, secret: str, after: bytes, for_urls: bool):
    """Alone or within other text, at any offset, nothing of the base64 is left."""
    encode = base64.urlsafe_b64encode if for_urls else base64.b64encode
    encoded = encode(before + secret.encode() + after).decode()
    assert Redactor([secret]).clean(f"[{encoded}]") == "[***]"


@given(st.text("ab: =/\"'\\", max_size=200), st.integers(0, 40), st.integers(1, 60))
def test_no_part_of_a_secret_is_left_at_a_cut(noise: str, at: int, limit: int):
    """Wherever text is cut, no part of a secret remains, and cleaning is idempotent."""
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
        ("GET https://host/mcp?x=Zx9kQ1ttAA77 failed", "GET https://host/mcp?*** failed"),
        ("GET https://host/mcp?x=sk-abcdef1 failed", "GET https://host/mcp?*** failed"),
        ("GET https://host/mcp?hunter2secret failed", "GET https://host/mcp?*** failed"),
        ("GET https://host/mcp?page=2&id=0123456789abcdef0123456789abcdef", None),
        ("http://user:p@ss:word1@h/mcp", "http://***@h/mcp"),
        ("Basic dXNlcjpodW50ZXIy sent", "Basic *** sent"),
        ("Basic dW5zdHJ1Y3R1cmVk sent, basic unstructured text, basic AAECAzr/ data", None),
        ("Set-Cookie: sid=abc1; Path=/", "Set-Cookie: ***"),
        ("{'cookie': 'sid=abc1'}", "{'cookie': ***}"),
        ("[(b'set-cookie', b'sid=abc1'), (b'x', b'y')]", "[(b'set-cookie', b'***'), (b'x', b'y')]"),
        ("Authorization: Token hunter", "Authorization: ***"),
        ("curl -u user:hunter2 https://h", "curl -u user:*** https://h"),
        ("curl --user='user:hunter2' https://h", "curl --user='user:***' https://h"),
        ("key sk-ant-api03-abcdef1 and ghp_abcdefghijkl1", "key *** and ***"),
        ("glpat-abcdefghijk xoxb-123-abc npm_abcdefghijklmnop1", "*** *** ***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln!", "***!"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\nabc", "***"),
        ("a -----BEGIN EC PRIVATE KEY-----\nMIIE\n-----END EC PRIVATE KEY----- b", "a *** b"),
        ("password=/run/secrets/x token=none", None),
        ("ordinary text: 42 things at 10:30", "ordinary text: 42 things at 10:30"),
    ],
)
def test_unconfigured_secrets_are_recognised(text: str, cleaned: str | None):
    """Tokens, headers, `key=value`, logins and queries are masked by their shape; ordinary words (None) stay."""
    assert Redactor().clean(text) == (text if cleaned is None else cleaned)


def test_secrets_of_a_stdio_server():
    """Values of `env` and of arguments are masked if their names suggest a credential; others are not."""
    server = StdioServerParameters(
        command="npx",
        args=[
            "--verbose", "server-name", "--api-key", "arg-one", "--token=arg-two", "-e", "KEY=arg-three",
            "--header", "X-Key: arg-four", "https://joe:arg-five@host/x?token=arg-six",
        ],
        env={"TOKEN": "env1", "MODE": "debug", "REGION": "europe-1", "HOME": os.environ.get("HOME", "/")},
    )  # fmt: skip
    redactor = Redactor(server_of(server).secrets())
    kept = "server-name --verbose debug europe-1 joe host " + os.environ.get("HOME", "/")
    assert redactor.clean(kept) == kept
    for secret in ("arg-one", "arg-two", "arg-three", "arg-four", "arg-five", "arg-six", "env1"):
        assert redactor.clean(f"<{secret}>") == "<***>"


def test_the_sdks_default_environment_is_not_masked(monkeypatch: pytest.MonkeyPatch):
    """Variables that the SDK passes to every server stay, even a user name that looks random."""
    monkeypatch.setenv("USER", "Zx9kQ1tt")
    text = "Zx9kQ1tt"
    assert Redactor(server_of(StdioServerParameters(command="x", env={"USER": text})).secrets()).clean(text) == text
    assert Redactor(server_of(StdioServerParameters(command="x", env={"USR": text})).secrets()).clean(text) == "***"
    assert Redactor(server_of(print).secrets()).clean(text) == text


def test_secrets_of_an_http_server():
    """Header values with and without their scheme, secrets in the URL, and those of the HTTP client."""
    server = session_group.StreamableHttpParameters(
        url="https://joe:p%40ssword@host/Path9kQ1tt/mcp?key=query-secret#frag-s3cret",
        headers={"Authorization": "Bearer head-secret", "X-Region": "europe-1", "Accept": "text/plain"},
    )
    client = http.AsyncClient(
        headers={"X-Key": "client-head"},
        params={"token": "client-param", "lang": "english"},
        cookies={"c": "client-cookie"},
        base_url="https://host/Base9kQ1tt",
    )
    redactor = Redactor(server_of(server, HttpOptions(http_client=client)).secrets())
    for secret in (
        "head-secret", "p@ssword", "p%40ssword", "query-secret", "frag-s3cret", "client-head", "Path9kQ1tt",
        "client-param", "client-cookie", base64.b64encode(b"joe:p@ssword").decode(), "Base9kQ1tt",
    ):  # fmt: skip
        assert redactor.clean(f"<{secret}>") == "<***>"
    assert redactor.clean("text/plain europe-1 english host joe") == "text/plain europe-1 english host joe"


def test_lines_and_prefixes_of_long_secrets():
    """Logs are written by line, and servers quote the beginning of a key to identify it."""
    key = "-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nshort\n-----END PRIVATE KEY-----"
    redactor = Redactor([key, "Zx9kQ1ttabcdefabcdef0123456789"])
    assert redactor.clean("line MIIEowIBAAKCAQEA of short") == "line *** of short"
    assert redactor.clean("the key Zx9kQ1tt... is wrong") == "the key ***... is wrong"


def test_a_secret_that_is_part_of_a_longer_one():
    """The longer secret is masked as a whole."""
    redactor = Redactor(["hunter2", "hunter2/more&hunter2"])
    assert redactor.clean("hunter2/more&amp;hunter2 hunter2") == "*** ***"


def test_text_between_many_secrets_is_shown():
    """A long line of masks still shows the text between them when it is cut after many secrets."""
    redactor = Redactor(["s3cr3t-0123456789-t0k3n-" * 4])
    assert "why" in redactor.line(("s3cr3t-0123456789-t0k3n-" * 4 + " why ") * 100, 50)
    assert redactor.line("s3cr3t-0123456789-t0k3n-" * 4 * 10_000, 50)


def test_learned_tokens_are_bounded():
    """Only the latest tokens seen in requests are remembered, and one still in use is never forgotten."""
    redactor = Redactor()
    for n in range(200):
        redactor.learn_headers(http.Headers({"Authorization": "Bearer still-in-use", "X-Token": f"number-{n:03}"}))
    assert redactor.clean("still-in-use number-199 number-150") == "*** *** ***"
    assert redactor.clean("number-000") == "number-000"


def test_errors_are_cleaned_with_their_causes():
    """Message, data, notes, cause, context, group members, file names and pydantic's quotations are cleaned."""
    redactor = Redactor(["s3cr3t"])
    with pytest.raises(ValidationError) as caught:
        CallToolResult.model_validate({"content": "s3cr3t"})
    exit_status = ExitStatus(1, code=1, stderr="s3cr3t")
    cause = ErrorBase(1, "said s3cr3t", {"s3cr3t": ["s3cr3t", ("s3cr3t", 1)], "n": 1})
    cause.__context__ = caught.value
    cause.__cause__ = FileNotFoundError(2, "no s3cr3t", "/s3cr3t")
    error = ServerUnavailable("x s3cr3t", advice="y s3cr3t", stderr="s3cr3t", data=["s3cr3t"])
    error.exit = Evidence(FailureKind.PROCESS, Delivery.UNKNOWN, "s3cr3t", exit=exit_status)  # type: ignore[attr-defined]
    error.__cause__ = cause
    add_note(error, "note s3cr3t")
    assert redactor.clean_error(error) is error
    seen = [error, cause, cause.__cause__, cause.__context__]
    for one in seen:
        assert "s3cr3t" not in str(one) + repr(one) + repr(vars(one) if hasattr(one, "__dict__") else "")
    assert cause.data == {"***": ["***", ("***", 1)], "n": 1}
    assert error.exit.exit.stderr == "***"  # type: ignore[attr-defined]
    assert isinstance(cause.__context__, ValidationError)


def test_values_without_secrets_are_not_copied():
    """The same objects are returned; values nested too deeply to inspect are not passed on."""
    redactor = Redactor(["s3cr3t"])
    for value in (
        {"a": [1, ("x",)]},
        ErrorData(code=1, message="x"),
        Evidence(FailureKind.HTTP, Delivery.UNKNOWN, "x"),
        5,
    ):
        assert redactor.cleaned(value) is value
    deep: Any = "s3cr3t"
    for _ in range(100):
        deep = [deep]
    assert "s3cr3t" not in repr(redactor.cleaned(deep))


@pytest.mark.parametrize(
    "evil",
    [
        *(
            "a.",
            "token=",
            "://",
            "bearer ",
            "authorization:",
            '"',
            "token",
            "https://a",
            "=\\'",
            "sk-",
            "eyJ",
            "A1b2",
            "%2f",
        ),
        *(
            "-----BEGIN PRIVATE KEY-----",
            "-u a:",
            "Cookie: a",
            "Aa1/",
            "\\u0041",
            "p@ss",
            "p@ss/",
            "&#x27;",
            "\\/",
            "?a=b&",
        ),
    ],
)
def test_hostile_text_takes_linear_time(evil: str):
    """10 MB of adversarial text take less time than a backtracking pattern would."""
    began = time.process_time()
    Redactor(["s3cr3t", "p@ss/w+rd"]).clean(evil * (10_000_000 // len(evil)))
    assert time.process_time() - began < 5


def test_oversized_data_is_not_passed_on():
    """A million values take no time to clean, and leak nothing."""
    redactor = Redactor(["s3cr3t"])
    began = time.process_time()
    cleaned = redactor.cleaned([{"s3cr3t": "s3cr3t"}] * 1_000_000)
    again = redactor.cleaned(("s3cr3t", [[["s3cr3t"]]]))
    assert time.process_time() - began < 5
    assert "s3cr3t" not in repr(cleaned[0]) + repr(cleaned[-1]) + repr(again)


@pytest.mark.parametrize("evil", ["://a?a=b&c=d&", "token: a ", "s3cr3t", "password ", "-----BEGIN PRIVATE KEY-----"])
def test_many_hostile_strings_take_as_little_time_as_one(evil: str):
    """An error of 5 MB in 9,900 strings blocks the event loop for about 50 ms, not for seconds."""
    redactor = Redactor([f"s3cr3t-{n}-{n * 7919:x}" for n in range(40)])
    data = [evil * (500 // len(evil))] * 9900
    began = time.process_time()
    redactor.cleaned(ErrorData(code=1, message=evil, data=data))
    redactor.cleaned([1] * 5_000_000)
    assert time.process_time() - began < 0.5


def test_what_is_beyond_the_limits_is_masked():
    """What is over the limits is not passed on unread, and a secret at the cut is not halved."""
    redactor = Redactor(["s3cr3t-word"])
    for before in range(redact._READ - 10, redact._READ + 2):
        text = "x" * before + "s3cr3t-word" + "y" * 10_000
        nested: Any = redactor.cleaned(["", {"a": text}])
        for cleaned in (redactor.clean(text), nested[1]["a"]):
            assert set(cleaned) <= {"x", "*"}
    many: Any = redactor.cleaned(dict.fromkeys(range(10_000), "a"))
    assert len(many) < 2_001
    assert many[0] == "a"
    assert many["***"] == "***"


def linked(error: BaseException | None) -> Iterator[BaseException]:
    """An error with its causes, contexts and members, in order."""
    todo, seen = [error], set[int]()
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


class OwnGroup(BaseExceptionGroup):
    """A group that takes other arguments than the built-in one."""

    def __new__(cls, members: list[BaseException], text: str = "s3cr3t! in a group") -> OwnGroup:
        return super().__new__(cls, text, members)

    def __init__(self, members: list[BaseException], text: str = "s3cr3t! in a group") -> None:
        super().__init__(text, members)


@pytest.mark.parametrize("kind", [ExceptionGroup, BaseExceptionGroup, lambda _, members: OwnGroup(members)])
def test_exception_groups_are_cleaned(kind: Any):
    """Message, members, notes, and what they link to; neither message nor members of a group can be changed."""
    with pytest.raises(ValidationError) as invalid:
        CallToolResult.model_validate({"content": "s3cr3t! is invalid"})
    inner = ValueError("s3cr3t!")
    add_note(inner, "a note on s3cr3t!")
    add_note(invalid.value, "s3cr3t! noted")
    outer = kind("s3cr3t! in a group", [inner, ExceptionGroup("inside: s3cr3t!", [invalid.value])])
    outer.__cause__ = OSError(2, "s3cr3t!", "/s3cr3t!")
    inner.__context__ = outer
    cleaned = Redactor(["s3cr3t!"]).clean_error(outer)
    assert isinstance(cleaned, BaseExceptionGroup)
    everything = "".join(f"{error!r} {error} {vars(error)}" for error in linked(cleaned))
    assert "s3cr3t" not in everything
    assert "***" in str(cleaned)
    assert cleaned.exceptions[0] is inner
    assert inner.__notes__ == ["a note on ***"]  # type: ignore[attr-defined]
    assert isinstance(cleaned.exceptions[1].exceptions[0], ValidationError)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["cause", "group"])
def test_no_error_is_passed_on_unread(how: str):
    """Of long chains and large groups, what is beyond the limit is left out, and a group says how much."""
    errors = [ValueError(f"s3cr3t! {n}") for n in range(200)]
    if how == "group":
        error: Exception = ExceptionGroup("many", errors)
    else:
        for one, next_one in itertools.pairwise(errors):
            one.__cause__ = next_one
        error = errors[0]
    cleaned = list(linked(Redactor(["s3cr3t!"]).clean_error(error)))
    assert 60 < len(cleaned) < 70
    assert not [one for one in cleaned if "s3cr3t" in str(one)]
    assert how == "cause" or "137 more errors" in {str(one) for one in cleaned}


def test_an_error_is_cleaned_whatever_it_holds():
    """An attribute that cannot be inspected is masked; whether a context is shown does not change."""

    class Odd(dict):
        def items(self) -> Any:
            raise RuntimeError("not now")

    error = ValueError("s3cr3t!")
    error.odd, error.exceptions = Odd(), None  # type: ignore[attr-defined]
    error.__context__ = KeyError("s3cr3t!")
    assert Redactor(["s3cr3t!"]).clean_error(error) is error
    assert error.odd == "***"  # type: ignore[attr-defined]
    assert not error.__suppress_context__
    assert "s3cr3t" not in repr(error.__context__)


def test_ordinary_words_are_not_treated_as_secrets():
    """A flag named like a credential does not mask every `true`."""
    server = StdioServerParameters(command="x", args=["--use-token", "true"], env={"USE_TOKEN": "false"})
    redactor = Redactor(server_of(server).secrets())
    redactor.learn_headers(http.Headers({"X-Auth": "none"}))
    redactor.learn_headers(http.Headers({"Authorization": "Bearer a-token"}))
    assert Redactor(["none", "no"]).clean("none, no") == "none, no"
    assert redactor.clean("true false none a-token") == "true false none ***"


# --- log records of the HTTP library ---


@pytest.mark.parametrize("name", ["httpx", "httpx2", "httpcore.http11", "httpcore2.connection", "hpack.hpack"])
def test_log_records_are_cleaned_while_a_client_sends(name: str, caplog: pytest.LogCaptureFixture):
    """Message, arguments and error are cleaned while a client sends a request, and left alone otherwise."""
    caplog.set_level(logging.DEBUG, name)
    logger, secret = logging.getLogger(name), "s3cr3t"
    logger.debug("to %s", "s3cr3t")
    token = logs.sending.set(Redactor(["s3cr3t"]))
    try:
        logger.debug("to %s", "s3cr3t")
        logger.debug("to %s", "nowhere")
        try:
            raise ValueError(secret)
        except ValueError:
            logger.debug("failed", exc_info=True)
    finally:
        logs.sending.reset(token)
    assert [record.getMessage() for record in caplog.records] == ["to s3cr3t", "to ***", "to nowhere", "failed"]
    assert caplog.records[2].args == ("nowhere",)
    assert "s3cr3t" not in caplog.text.partition("to ***")[2]


def test_a_record_that_cannot_be_formatted(monkeypatch: pytest.MonkeyPatch):
    """The request does not fail, and the record's parts are cleaned all the same."""
    record = logging.LogRecord("httpx", logging.INFO, "", 0, "%d", ("s3cr3t",), None)
    token = logs.sending.set(Redactor(["s3cr3t"]))
    try:
        assert logging.getLogger("httpx").filter(record)
    finally:
        logs.sending.reset(token)
    assert record.getMessage() == "%d ('***',)"


def test_a_value_that_pydantic_cut_is_masked():
    """Half a token is not recognised as one; a value that is quoted whole stays readable."""
    cut = "[type=missing, input_value={'token_type': 'Bearer', ...UF9IRh3Uwa4RgJg1lub8EU'}, input_type=dict]"
    assert Redactor().clean(cut) == "[type=missing, input_value=***, input_type=dict]"
    whole = "Input should be a valid integer [type=int_parsing, input_value='abc', input_type=str]"
    assert Redactor().clean(whole) == whole


def test_learned_secrets_are_masked():
    """Those of a login, in every text from then on."""
    redactor = Redactor()
    redactor.learn(["s3cr3t-of-a-login"])
    assert redactor.clean("code=x s3cr3t-of-a-login") == "code=x ***"
