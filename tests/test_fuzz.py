"""Whatever a peer or a file sends: no exception but the documented one, no hang, linear time.

In CI each test tries 60 inputs, the same in every run, and the whole file takes seconds. `FUZZ=20000 pytest
tests/test_fuzz.py` draws that many for each test; `--hypothesis-seed=N` replays a run.
"""

from __future__ import annotations

import json
import math
import os
import string
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mcp.types import CallToolResult, ErrorData

from resilient_mcp import Delivery, Evidence, Policy
from resilient_mcp._sdk.installed import MCPError
from resilient_mcp._sdk.messages import Hints, decode, message_as_json
from resilient_mcp._sdk.results import ToolAnswer, change_in
from resilient_mcp.config import ConfigError, load
from resilient_mcp.evidence import FailureKind
from resilient_mcp.in_flight import InFlight
from resilient_mcp.schemas import CompiledSchemas
from resilient_mcp.text.last_words import last_words
from resilient_mcp.text.redact import Redactor
from resilient_mcp.transports.framing import LineFramer, Oversize, find_id
from resilient_mcp.transports.http.answers import AnswerEvents
from resilient_mcp.transports.http.sse_events import SseEvent, SseParser
from resilient_mcp.transports.jsonrpc import Unusable, is_response, is_well_formed, parse
from resilient_mcp.transports.stdio import StdioReader
from resilient_mcp.verdicts import tool_errors
from resilient_mcp.verdicts.classifier import Classifier, is_absent, is_outage, parse_retry_after, prospect_of
from resilient_mcp.verdicts.verdict import Failure, Verdict

EXAMPLES = int(os.environ.get("FUZZ", "60"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="FUZZ" not in os.environ,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)

# --- inputs: what the parsers know, mixed with what they do not ---

NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(300, 4299).map(lambda digits: 10**digits))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
NAMES = ("jsonrpc", "id", "method", "params", "result", "error", "code", "message", "data", "content", "type", "text")
NAMES += ("isError", "structuredContent", "uri", "progressToken", "requestId", "retryAfter", "retryable", "status")
KNOWN = st.sampled_from(["2.0", 1, "1", "notifications/resources/updated", "notifications/cancelled", "text", "ping"])
MESSAGES = st.recursive(
    LEAVES | KNOWN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=12,
)


def as_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def damaged(data: bytes, cut: int, extra: bytes) -> bytes:
    at = cut % (len(data) + 1)
    return data[:at] + extra + data[at + len(extra) % 3 :]


PIECES = [
    *'{}[]"\\,:',
    "\n",
    "\r",
    "\0",
    "\ufeff",
    "é",
    "data: ",
    "id: ",
    "retry: ",
    "event: x",
    '"id":1',
    '"method":"ping"',
]
SOUP = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join)
BYTES = st.one_of(
    st.binary(max_size=200),
    SOUP.map(lambda text: text.encode("utf-8", "surrogatepass")),
    MESSAGES.filter(lambda value: isinstance(value, dict)).map(as_bytes),
    st.builds(damaged, MESSAGES.map(as_bytes), st.integers(0, 300), st.binary(max_size=3)),
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in chunks, as a pipe or a socket may deliver it."""
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [*chunks, data]


SIZES = st.lists(st.integers(0, 40), max_size=20)


# --- bytes ---


@fuzzed
@given(st.lists(BYTES, max_size=8).map(b"\n".join), SIZES, st.integers(1, 300))
def test_the_framer(data: bytes, sizes: list[int], limit: int):
    """However the bytes come, the lines are those of the whole; one that is too long has its length."""
    framer = LineFramer(limit)
    lines = [line for chunk in cut(data, sizes) for line in framer.feed(chunk)]
    whole = data.split(b"\n")[:-1]
    assert [line.size if isinstance(line, Oversize) else line for line in lines] == [
        line if len(line) <= limit else len(line) for line in whole
    ]
    for one in (*whole, data):
        assert isinstance(find_id(one, one), str | int | None)


@fuzzed
@given(BYTES, SIZES, st.integers(1, 300))
def test_the_parser_of_server_sent_events(data: bytes, sizes: list[int], limit: int):
    """However the bytes come, the events are those of the whole; `Unusable` is raised for one that is too long."""

    def events(chunks: list[bytes], most: int) -> tuple[list[SseEvent], bytes | None, float | None]:
        parser = SseParser(most)
        seen = [event for chunk in chunks for event in parser.feed(chunk)]
        return seen, parser.resume_from, parser.retry

    assert events(cut(data, sizes), 10_000) == events([data], 10_000)
    with suppress(Unusable):
        seen, _, _ = events(cut(data, sizes), limit)
        assert all(len(event.data) <= limit for event in seen)


@fuzzed
@given(BYTES, st.sampled_from([1, "1", 0, "é", 2**70]), st.sampled_from([None, "7"]))
def test_the_json_path_over_http(data: bytes, request_id: Any, token: str | None):
    """An event is a message of the server's, the answer, nothing, or `Unusable`."""
    body = parse(data)
    assert is_response(body, request_id) in {True, False}
    assert is_well_formed(body) in {True, False}
    answer = AnswerEvents(request_id, SseParser(1000), Hints(token=token), Redactor(["s3cr3t"]))
    with suppress(Unusable):
        message = answer.take(SseEvent(data))
        assert message is None or isinstance(message_as_json(message), dict)


class OutsideALoop(InFlight):
    """Does not ask for the time."""

    def hear_message(self) -> None:
        self.heard += 1


@fuzzed
@given(st.lists(BYTES, max_size=6), st.sampled_from(["strict", "replace"]))
def test_the_json_path_over_stdio(lines: list[bytes], errors: str):
    """A line is a message, the error of a line that is none, or garbage."""
    garbage: list[bytes] = []
    reader = StdioReader(
        None,  # type: ignore[arg-type] - nothing is read
        OutsideALoop(),
        Redactor(["s3cr3t"]),
        max_bytes=1000,
        errors=errors,
        on_garbage=garbage.append,
        on_end=lambda: None,
    )
    for line in lines:
        reader._take(line)
    assert len(reader._ready) <= len(lines)
    for message in reader._ready:
        if not isinstance(message, Exception):
            change_in(message.message)


@fuzzed
@given(MESSAGES)
def test_results(answered: Any):
    """Any object can be a tool's result, and is passed on as it came."""
    if isinstance(answered, dict):
        result = ToolAnswer.from_json(answered)
        assert result.as_it_came() is answered


# --- verdicts ---

WAITING = ["try again in 9", "retry 999999999.999 h", "resets at 2026-11-21T10:00+99:99", "resets at 9999-12-31 23:59"]
TEXTS = st.text(max_size=60) | st.sampled_from(WAITING)


def evidence_of(kind: FailureKind, status: int, **known: Any) -> Evidence:
    return Evidence(kind, http_status=status if kind is FailureKind.HTTP else None, **known)


def mcp_error(code: int, text: str, data: Any) -> Exception:
    error = ErrorData(code=code, message=text, data=data)
    return MCPError.from_error_data(error) if hasattr(MCPError, "from_error_data") else MCPError(error)


EVIDENCE = st.builds(
    evidence_of,
    st.sampled_from(FailureKind),
    st.integers(-1, 10**6) | st.sampled_from([400, 401, 404, 408, 429, 503]),
    delivery=st.sampled_from(Delivery),
    detail=TEXTS,
    retry_after=st.none() | TEXTS | st.text(string.digits + " :,-GMTmonJan", max_size=40),
    own_error=st.booleans(),
    session_id_sent=st.booleans(),
    body=TEXTS,
)
ERRORS = st.one_of(
    st.builds(mcp_error, st.integers(-33000, 500), TEXTS, VALUES),
    st.builds(RuntimeError, TEXTS),
    st.builds(OSError, st.integers(-(2**31), 2**31 - 1), TEXTS),
    st.none(),
)


def result_of(content: Any, structured: Any) -> CallToolResult:
    body = {"content": content, "isError": True, "structuredContent": structured}
    return ToolAnswer.from_json(body)


RESULTS = st.builds(
    result_of,
    st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXTS | VALUES.map(json.dumps)), max_size=3),
    st.none() | st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4),
)


@fuzzed
@given(ERRORS, st.none() | EVIDENCE, st.none() | RESULTS, st.booleans())
def test_the_classifier(error: Exception | None, evidence: Evidence | None, result: Any, earlier: bool):
    """There is a verdict on everything, in one printable line, with a wait that can be waited."""
    failure = Failure("tools/call", "t", error, evidence, result, earlier=earlier)
    verdict = Classifier(Policy()).judge(failure, now=1e9)
    assert isinstance(verdict, Verdict)
    assert verdict.retry_after is None or 0 <= verdict.retry_after < math.inf
    assert "\n" not in str(verdict)
    prospect_of(error, evidence, Policy())
    assert is_absent(error, evidence) in {True, False}
    assert is_outage(evidence, Policy()) in {True, False}


@fuzzed
@given(st.text() | st.text(string.digits + string.ascii_letters + " :,+-.", max_size=50), VALUES)
def test_waits(text: str, value: Any):
    """Every wait that a server asks for is a number of seconds, not negative, or none."""
    waits = [parse_retry_after(text, now=1e9)]
    waits += [tool_errors.wait_in({"retryAfter": one}, now=1e9) for one in (text, value)]
    assert all(wait is None or 0 <= wait < float("inf") for wait in waits)


# --- text ---

SECRETS = ["s3cr3t-W0rd", "p@ss w/rd+1"]
FRAGMENTS = st.sampled_from([*SECRETS, "token=", "://", "@", "Bearer ", "\\u0073", "%40"]) | st.text(max_size=9)
NESTED = st.recursive(VALUES | st.sampled_from(SECRETS), lambda inner: st.lists(inner, max_size=3))


@fuzzed
@given(st.lists(FRAGMENTS, max_size=8).map("".join), NESTED)
def test_the_redactor(text: str, value: Any):
    """No known secret comes through, and what is clean stays as it is."""
    redactor = Redactor(SECRETS)
    texts = [redactor.clean(text), redactor.line(text), redactor.head(text, 10), repr(redactor.cleaned([text, value]))]
    for cleaned in texts:
        assert not [secret for secret in SECRETS if secret in cleaned]
    once = redactor.cleaned(value)
    assert redactor.cleaned(once) == once or once != once  # not a number is not equal to itself
    error = redactor.clean_error(ValueError(text, value))
    assert "s3cr3t" not in repr(error)
    last_words(text, 5)


# --- files ---

KEYS = ("mcpServers", "servers", "command", "args", "env", "url", "type", "headers", "headersHelper", "cwd", "disabled")
KEYS += ("resilience", "retry", "attempts", "tools", "x", "envFile", "Command", "serverUrl")
WORDS = ("npx", "https://example.com/mcp", "http", "sse", "stdio", "${HOME}", "${NOPE}", "${", "${a:-", "${input:a}")
DOCUMENTS = st.recursive(
    LEAVES | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=15,
)
ENTRIES = st.dictionaries(st.sampled_from(KEYS), DOCUMENTS, max_size=5)
SERVERS = st.dictionaries(st.text(max_size=5), ENTRIES, max_size=3)
FILES = st.one_of(
    BYTES,
    DOCUMENTS.map(as_bytes),
    SERVERS.map(lambda servers: as_bytes({"mcpServers": servers})),
    st.lists(st.sampled_from(['"', "\\", "/*", "*/", "//", "\n", ",", "{", "}", "[", "]", '"a":', "1"])).map(
        lambda pieces: "".join(pieces).encode()
    ),
)


@fuzzed
@given(data=FILES)
def test_the_reader_of_server_files(tmp_path: Path, data: bytes):
    """A file is read, or there is a `ConfigError` with its problems."""
    path = tmp_path / "mcp.json"
    path.write_bytes(data)
    try:
        assert isinstance(load(path), dict)
    except ConfigError as exc:
        assert exc.problems


KEYWORDS = st.sampled_from(
    ["type", "properties", "items", "pattern", "patternProperties", "enum", "$ref", "uniqueItems"]
)


@settings(fuzzed, max_examples=EXAMPLES // 3)
@given(VALUES, VALUES, st.dictionaries(KEYWORDS, VALUES, max_size=4))
def test_schemas(value: Any, whole: Any, some: dict[str, Any]):
    """A schema yields faults, or an ordinary exception."""
    for schema in (whole, some, {"properties": {"x": some}}):
        with suppress(Exception):
            assert isinstance(CompiledSchemas().errors("t", schema, value, 10), list)


# --- time ---


def frame(data: bytes) -> None:
    for line in LineFramer(1 << 30).feed(data):
        assert isinstance(line, bytes)
    find_id(data[:4096], data[-4096:])


def read_events(data: bytes) -> None:
    for event in SseParser(1 << 30).feed(data):
        assert event.kind


def read_json(data: bytes) -> None:
    is_response(parse(data), 1)
    with suppress(ValueError):
        decode(data)


def redact(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    redactor = Redactor(SECRETS)
    redactor.line(text)
    redactor.clean(text)
    redactor.cleaned({"a": [text[at : at + 100] for at in range(0, len(text), 100)]})
    last_words(text[:65536], 5)


def judge(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    evidence = Evidence(FailureKind.HTTP, Delivery.UNKNOWN, text, http_status=503, retry_after=text, body=text)
    result = result_of([], {"a": text})
    for failure in (Failure("ping", None, RuntimeError(text), evidence), Failure("ping", result=result)):
        Classifier(Policy()).judge(failure, now=1e9)
    tool_errors.read(result_of([{"type": "text", "text": text}], None), now=1e9)


EVIL = [
    b"\n",
    b"\r",
    b"x\n",
    b"data: x\n",
    b":\n",
    b"id: 1\n\n",
    b"[",
    b'{"a":',
    b'{"id":1,',
    b'"\\u0041',
    b"a",
    b"\xff",
    b" ",
]
EVIL += [
    b"token=",
    b"://a@",
    b"eyJ",
    b"bearer a1",
    b"try again in ",
    b"resets at 2026-",
    b"retry 9",
    b"Mon, 01 Jan ",
    b"9",
]


@pytest.mark.parametrize("work", [frame, read_events, read_json, redact, judge])
@pytest.mark.parametrize("unit", EVIL, ids=repr)
def test_time_is_linear(work: Callable[[bytes], None], unit: bytes):
    """Eight times as much takes about eight times as long: quadratic time would be 64 times."""

    def seconds(size: int) -> float:
        data = unit * (size // len(unit))
        began = time.process_time()
        work(data)
        return time.process_time() - began

    assert seconds(240_000) < 30 * seconds(30_000) + 0.2
