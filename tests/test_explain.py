"""`resilient-mcp explain`: what it says of each failure is what the classifier, the executor and the ending do."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resilient_mcp import Category, Delivery, Policy, RetryScheduled, explain
from resilient_mcp._sdk.installed import MAJOR, MCPError
from resilient_mcp._sdk.results import dump, error_result, is_error_result
from resilient_mcp.calls.ending import Ending, error_of
from resilient_mcp.calls.operation import History
from resilient_mcp.cli.app import app
from resilient_mcp.connection.generation import Connection
from resilient_mcp.evidence import FailureKind
from resilient_mcp.explanation import EVERY, NEVER, REPEATABLE, Explainer, Handling, grouped
from resilient_mcp.testing import ScriptedHttpServer, instant_waits
from resilient_mcp.verdicts.classifier import ERROR_CODES, HTTP_STATUS, KINDS, Classifier
from resilient_mcp.verdicts.gateways import GATEWAYS
from resilient_mcp.verdicts.samples import Samples
from resilient_mcp.verdicts.verdict import AttemptError, Failure

from .support import Recorder, client_of
from .test_cli import COMMAND
from .test_examples import clean_environment
from .test_readme import README

NOW = 1_800_000_000.0
DIALECT = {"dialect": "chatforest-errors", "error_codes": {-31500: "transient", 7: "throttled", 429: "transient"}}
LISTED = "readOnlyHint or idempotentHint"


def of(policy: dict[str, Any], tool: str | None = None) -> Explainer:
    return Explainer(Policy.model_validate(policy), tool)


def names(rows: list[Handling]) -> list[str]:
    return [row.failure for row in rows]


# --- the table is complete ---


def test_every_status_and_code_of_the_classifier_is_in_the_table():
    """Each JSON-RPC code and each HTTP status with a rule of its own has a row, whose verdict that rule decided."""
    rows = {row.failure: row.verdict for row in of({}).table()}
    for code, meaning in ERROR_CODES.items():
        assert rows[f"JSON-RPC {code}"].rule == f"JSON-RPC code {code}"
        assert rows[f"JSON-RPC {code}"].category.value == meaning
    for status, meaning in HTTP_STATUS.items():
        assert rows[f"HTTP {status}"].rule == f"HTTP {status}"
        assert rows[f"HTTP {status}"].category.value == meaning


def test_every_kind_of_failure_is_in_the_table():
    """No kind of evidence, no delivery, no category and no gateway is missing."""
    failures = [failure for _, failure in Samples(Policy())]
    verdicts = [row.verdict for row in of({}).table()]
    kinds = {failure.evidence.kind for failure in failures if failure.evidence is not None}
    assert kinds == set(FailureKind) == {*KINDS, FailureKind.HTTP}
    assert {verdict.delivery for verdict in verdicts} == set(Delivery)
    assert {verdict.category for verdict in verdicts} == set(Category)
    for gateway in GATEWAYS:
        assert any(gateway.product in verdict.rule for verdict in verdicts)
    assert len(set(names(of({}).table()))) == len(verdicts)


def test_what_a_policy_sets_is_in_the_table():
    """The codes of its dialect, and its own codes and statuses, have rows that name the rule."""
    policy = DIALECT | {"http_statuses": {503: "refused"}, "tools": {"x*": {"error_codes": {8: "timeout"}}}}
    policy["tools"]["x*"]["http_statuses"] = {502: "throttled"}
    rules = {row.failure: row.verdict.rule for row in of(policy, "xyz").table()}
    assert rules["JSON-RPC -32001"] == "JSON-RPC code -32001 in the dialect 'chatforest-errors'"
    assert rules["JSON-RPC -31999 to -31000"] == "JSON-RPC code -31999 in the dialect 'chatforest-errors'"
    assert rules["JSON-RPC -31500"] == "Policy.error_codes[-31500]"
    assert rules["JSON-RPC 8"] == "ToolPolicy.error_codes[8]"
    assert rules["HTTP 503"] == "Policy.http_statuses[503]"
    assert rules["HTTP 502"] == "ToolPolicy.http_statuses[502]"
    assert rules["any other HTTP 5xx"] == "HTTP 500"
    assert "JSON-RPC 8" not in names(of(policy).table())


def test_a_policy_that_lists_everything():
    """Where a policy leaves no other status of a class, or no other code of a range, there is no row for the rest."""
    everything = dict.fromkeys(range(300, 600), "unknown")
    rows = of({"http_statuses": everything}).table()
    assert not [name for name in names(rows) if name.startswith("any other HTTP")]
    codes = dict.fromkeys(range(-31999, -30999), "timeout")
    rows = of({"dialect": "chatforest-errors", "error_codes": codes}).table()
    assert {row.verdict.category for row in rows if row.failure == "JSON-RPC -31999 to -31000"} == {Category.TIMEOUT}


def test_what_is_handled_alike_shares_a_row():
    """Grouping loses no number, mixes no outcomes, and marks what the policy decides."""
    rows = of({**DIALECT, "http_statuses": {503: "auth"}}).table()
    groups = grouped(rows)
    shown = {group.failure: group.outcome for group in groups}
    assert len(shown) == len(groups) < len(rows)
    for row in rows:
        number = row.failure.rpartition("JSON-RPC ")[2].rpartition("HTTP ")[2]
        holders = [name for name in shown if number in re.split(", ", name.partition(" ")[2])] or [row.failure]
        assert row.outcome in [shown[name] for name in holders]
    assert "HTTP 401, 403" in shown
    assert "HTTP 503, by the policy" in shown
    assert "JSON-RPC -32001, 7, by the policy" in shown
    assert "JSON-RPC -32700, -32600, -32601, -32602, -32020, -32021, -32022" in shown


# --- the table is true ---


POLICIES: dict[str, dict[str, Any]] = {
    "the default": {},
    "one attempt": {"retry": {"attempts": 1}},
    "two attempts, and results": {"retry": {"attempts": 2, "base": 0}, "on_unavailable": "result"},
    "one crash": {"retry": {"attempts": 3, "crashes": 1}},
    "two crashes, and a time limit": {
        "retry": {"attempts": 4, "crashes": 2, "max_delay": "inf"},
        "timeout": {"attempt": 9},
    },
    "short waits, and meanings": {
        **DIALECT,
        "http_statuses": {503: "refused", 429: "transient", 404: "throttled"},
        "retry": {"max_retry_after": 1, "max_delay": 0.5, "throttled_base": 2, "base": 0.5},
    },
}


@pytest.mark.parametrize("policy", POLICIES)
def test_each_end_is_that_of_the_ending(policy: str):
    """The last column is what `error_of` returns for the failure."""
    checked = Policy.model_validate(POLICIES[policy])
    for (name, failure), row in zip(Samples(checked), of(POLICIES[policy]).table(), strict=True):
        verdict = Classifier(checked).judge(failure, now=0)
        assert (row.failure, row.verdict) == (name, verdict)
        if failure.result is not None:
            assert row.end == "the result, unchanged"
            continue
        history = History()
        history.add(verdict)
        error = error_of(Ending("s", "tools/call t", verdict, AttemptError(failure.error, failure.evidence), history))
        if error is failure.error:
            assert row.end == ("that exception" if type(error) is RuntimeError else f"the server's {MCPError.__name__}")
        else:
            advice = checked.on_unavailable == "result"
            assert row.end == f"{'an isError result with the advice of ' if advice else ''}{type(error).__name__}"


class Calls:
    """Makes every tool call of a client fail in the same way, and runs one."""

    def __init__(self, client: Any, events: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client, self.events = client, events
        self.failure = Failure("tools/call")
        self.sent = 0
        really = Connection.call

        async def call(connection: Connection, request: Any, **options: Any) -> Any:
            if request.method != "tools/call":
                return await really(connection, request, **options)
            self.sent += 1
            if self.failure.result is not None:
                return self.failure.result
            raise AttemptError(self.failure.error, self.failure.evidence)

        monkeypatch.setattr(Connection, "call", call)

    async def make(self, failure: Failure, tool: str, **options: Any) -> tuple[int, list[float], Any]:
        """How often the call was sent, the delays between, and what its caller got."""
        self.failure, self.sent = failure, 0
        before = len(self.events.of(RetryScheduled))
        try:
            outcome = await self.client.call_tool(tool, **options)
        except Exception as exc:
            outcome = exc
        return self.sent, [event.delay for event in self.events.of(RetryScheduled)[before:]], outcome


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("policy", POLICIES)
async def test_calls_are_sent_again_as_the_table_says(policy: str, monkeypatch: pytest.MonkeyPatch):
    """Each failure is given to the real executor: how often it sends, after which delays, and what the caller gets."""
    monkeypatch.setattr("random.random", lambda: 1.0)  # the longest delay that is allowed
    given = {"tools": {"get": {"repeatable": True}, "order": {"repeatable": False}}, **POLICIES[policy]}
    given["timeout"] = {"ready": 0.6, **given.get("timeout", {})}
    unlimited = {"breaker": None, "budget": None, "health": None, "restart": {"intensity": 10_000}}
    checked, events = Policy.model_validate(given | unlimited), Recorder()
    tables = [Explainer(checked, tool).table() for tool in (None, "get", "order")]
    async with ScriptedHttpServer([]) as server, client_of(server.url, checked, on_event=events) as client:
        calls = Calls(client, events, monkeypatch)
        with instant_waits():
            for (_, failure), row, *rows in zip(Samples(checked), *tables, strict=True):
                if "if you set the limit" in row.again:
                    assert (await calls.make(failure, "get"))[0] == 1
                    limit: Any = timedelta(seconds=9) if MAJOR == 1 else 9.0
                    sent = [await calls.make(failure, t, read_timeout_seconds=limit) for t in ("get", "order")]
                else:
                    sent = [await calls.make(failure, tool) for tool in ("get", "order")]
                assert (
                    row.again.partition(",")[0]
                    == {
                        (False, False): NEVER,
                        (True, False): REPEATABLE,
                        (True, True): EVERY,
                    }[sent[0][0] > 1, sent[1][0] > 1]
                )
                for of_tool, (times, delays, outcome) in zip(rows, sent, strict=True):
                    assert of_tool.again.partition(",")[0] == (EVERY if times > 1 else NEVER)
                    check(of_tool, failure, times, delays, outcome)


def check(row: Handling, failure: Failure, times: int, delays: list[float], outcome: Any) -> None:
    """Compare what a row says with what happened to a call."""
    if ", once" in row.again:
        assert times == 2
    elif (crashes := re.search(r"until (\d+) processes", row.how)) is not None:
        assert times == int(crashes[1])
    elif (most := re.search(r"up to (\d+) times", row.how)) is not None:
        assert times == int(most[1]) + 1
    if (back_off := re.search(r"of up to ([\d.]+) s(, doubling)?(?: to at most (\d+) s)?", row.how)) is not None:
        first, cap = float(back_off[1]), float(back_off[3] or "inf")
        factor = 2 if back_off[2] else 1
        assert delays == pytest.approx([min(first * factor**n, cap) for n in range(times - 1)])
    elif (wait := re.search(r"after the (\d+) s", row.how)) is not None:
        assert delays == [float(wait[1])] * (times - 1)
    elif re.search(r"without a delay|on a new connection|immediately", row.how):
        assert delays[0] == 0
    if row.end == "the result, unchanged":
        assert outcome is failure.result
    elif row.end.startswith("an isError result"):
        assert is_error_result(outcome)
    elif row.end in {"that exception", f"the server's {MCPError.__name__}"}:
        assert outcome is failure.error
    else:
        assert type(outcome).__name__ == row.end


# --- one failure ---


def test_a_status_comes_with_what_changes_it():
    """Variants of a status that are handled in another way follow it; those that are not are left out."""
    assert names(of({}).number(503)) == [
        "HTTP 503",
        "HTTP 503, with Retry-After: 5",
        "HTTP 503 of Envoy that proves that nothing was forwarded",
        "HTTP 503 of HAProxy that proves that nothing was forwarded",
    ]
    assert names(of({}).number(401)) == ["HTTP 401"]
    assert names(of({}).number(404)) == [
        "HTTP 404 to a request without a session id",
        "HTTP 404 to a request with a session id",
        "HTTP 404 to a request without a session id, with a JSON-RPC error such as -32602",
    ]
    assert names(of({}).number(400))[1] == "HTTP 400 that mentions the session, to a request with a session id"
    assert names(of({}).number(307))[0] == "HTTP 307 that is not followed"
    assert names(of({}).number(204)) == ["HTTP 204 with a web page instead of an answer"]
    assert names(of({"http_statuses": {503: "permanent"}}).number(503))[1:] == [
        "HTTP 503, with a JSON-RPC error such as -32602"
    ]


def test_every_status_can_be_explained():
    """The first row is the classifier's verdict on the bare status, and every other row has another outcome."""
    for status in range(100, 600):
        first, *others = [row for row in of({}).number(status) if row.failure.startswith("HTTP")]
        assert first.failure.startswith(f"HTTP {status}")
        assert first.verdict.rule == f"HTTP {status}"
        assert all(row.outcome != first.outcome for row in others)


def test_a_number_that_is_a_status_and_a_code():
    """408 is both, and so is a status that a policy lists as a code; 503 is no code that a table has."""
    assert names(of({}).number(408))[-1] == "JSON-RPC 408"
    assert "JSON-RPC 429" not in names(of({}).number(429))
    assert names(of(DIALECT).number(429))[-1] == "JSON-RPC 429"
    assert names(of(DIALECT).number(-31001)) == ["JSON-RPC -31001"]
    assert [row.verdict.rule for row in of({}).number(600)] == ["JSON-RPC code 600, which is in no table"]


def test_the_tool_decides():
    """With a tool, its codes, statuses, attempts, time limit and `repeatable` count."""
    tools = {
        "get_*": {"repeatable": True, "http_statuses": {500: "throttled"}, "retry": {"attempts": 2}},
        "send_*": {"repeatable": False, "error_codes": {5: "auth"}},
        "slow_*": {"attempt_timeout": 5},
    }
    policy = {"tools": tools}
    assert of(policy, "get_a").number(500)[0].verdict.category is Category.THROTTLED
    assert of(policy, "get_a").number(502)[0].again == "every call, once"
    assert of(policy, "send_a").number(502)[0].again == NEVER
    assert of(policy, "send_a").number(5)[0].verdict.rule == "ToolPolicy.error_codes[5]"
    assert of(policy, "other").number(502)[0].again == REPEATABLE
    assert of(policy | {"trust_annotations": False}, "other").number(502)[0].again == NEVER
    for tool in ("slow_a", "other", "get_a"):
        timeouts = [row.again for row in of(policy, tool).table() if row.failure.startswith("no answer within")]
        expected = {
            "slow_a": "repeatable calls",
            "other": "repeatable calls, if you set the limit",
            "get_a": "every call, if you set the limit, once",
        }
        assert timeouts == [expected[tool]]


@pytest.mark.parametrize(
    ("policy", "tool", "said"),
    [
        (
            {},
            None,
            f"repeatable; so are calls of tools whose ToolPolicy says so, or that the server lists with {LISTED}.",
        ),
        (
            {"trust_annotations": "read_only"},
            None,
            "whose ToolPolicy says so, or that the server lists with readOnlyHint.",
        ),
        ({"trust_annotations": False}, None, "are repeatable; so are calls of tools whose ToolPolicy says so."),
        ({}, "x\x1b[31m", f"Calls of 'x' are repeatable if the server lists it with {LISTED}."),
        (
            {"trust_annotations": False},
            "x",
            "are not repeatable: no ToolPolicy says so, and the policy ignores annotations.",
        ),
        ({"tools": {"x": {"repeatable": True}}}, "x", "Calls of 'x' are repeatable: its ToolPolicy says so."),
        ({"tools": {"x": {"repeatable": False}}}, "x", "Calls of 'x' are not repeatable: its ToolPolicy says so."),
    ],
)
def test_which_calls_are_repeatable(policy: dict[str, Any], tool: str | None, said: str):
    """One sentence says what the word means under this policy, for this tool."""
    assert of(policy, tool).repeatable().endswith(said)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({}, "Retries end earlier if timeout.total (3600 s) is over, the retry budget is spent or the circuit opens."),
        ({"timeout": {"total": "inf"}, "budget": None}, "Retries end earlier if the circuit opens."),
        ({"breaker": None}, "Retries end earlier if timeout.total (3600 s) is over or the retry budget is spent."),
        ({"timeout": {"total": "inf"}, "budget": None, "breaker": None}, ""),
    ],
)
def test_what_else_ends_retries(policy: dict[str, Any], said: str):
    """Only what the policy has is named."""
    assert of(policy).limits() == said


def test_an_absent_server_is_waited_for_without_a_limit():
    """An infinite limit is not printed."""
    how = "as soon as the server can be reached"
    assert of({"timeout": {"ready": "inf"}}).table()[0].how == how
    assert of({"timeout": {"ready": 7}}).table()[0].how == f"{how}, within 7 s"


# --- messages ---


RATE_LIMITED = {"content": [{"type": "text", "text": "rate limit: try again in 30 seconds"}], "isError": True}
REFUSED = {"code": -32602, "message": "no such tool"}


def responses(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The body alone, and in a JSON-RPC response."""
    return [body, {"jsonrpc": "2.0", "id": 1, ("error" if "code" in body else "result"): body}]


@pytest.mark.parametrize("message", responses(RATE_LIMITED))
def test_a_result(message: dict[str, Any]):
    """A result is judged by its body or text, alone or in its response."""
    row = of({}).message(message, now=NOW)
    assert row.failure == "isError: rate limit: try again in 30 seconds"
    assert row.verdict == explain(error_result("rate limit: try again in 30 seconds"))
    assert (row.again, row.end) == (REPEATABLE, "the result, unchanged")
    assert row.how == "up to 5 times, after the 30 s that the server asks for"


@pytest.mark.parametrize("message", responses(REFUSED))
def test_an_error(message: dict[str, Any]):
    """An error is judged by its code, alone or in its response."""
    row = of({}).message(message, now=NOW)
    assert row.failure == "JSON-RPC -32602: no such tool"
    assert (row.verdict.rule, row.again, row.may_have_run) == ("JSON-RPC code -32602", NEVER, "no: rejected")


def test_the_data_of_an_error():
    """A wait in `data` is honoured up to the policy's limit, and a time in it is relative to `now`."""
    until = datetime.fromtimestamp(NOW + 40, tz=timezone.utc).isoformat()
    row = of({}).message({"code": -32000, "message": "busy", "data": {"retryAfter": until}}, now=NOW)
    assert row.how == "up to 5 times, after the 40 s that the server asks for"
    row = of({}).message({"code": -32000, "message": "busy", "data": {"retryAfter": 61}}, now=NOW)
    assert (row.again, row.how) == (NEVER, "the server asks for 61 s, more than the policy's 60 s (max_retry_after)")


def test_a_result_without_text():
    """A result is judged without any text, too."""
    image = {"type": "image", "data": "aGk=", "mimeType": "image/png"}
    assert of({}).message({"content": [image], "isError": True}, now=NOW).failure == "isError: no text"
    assert of({}).message({"content": [], "isError": True}, now=NOW).verdict.category is Category.PERMANENT


def test_secrets_in_a_message_are_masked():
    """What is printed of a message is one line without credentials."""
    text = "denied\x1b[2J\nAuthorization: Bearer abcdefghijklmnop0123456789"
    for message in ({"code": 1, "message": text}, dump(error_result(text))):
        printed = json.dumps(of({}).message(message, now=NOW).to_json())
        assert "denied Authorization: " in printed
        assert "abcdefghijklmnop" not in printed


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({}, "neither an 'error' nor a 'result' is in it (its keys: none): give a JSON-RPC response"),
        ({"jsonrpc": "2.0", "method": "ping\x1b"}, "(its keys: 'jsonrpc', 'method')"),
        ({"result": 5}, "(its keys: 'result')"),
        ({"content": [], "isError": False}, "not a failure: isError is not true"),
        ({"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}, "not a "),
        ({"content": [{"type": "text"}], "isError": True}, "not a tool result (content.0"),
        ({"code": "x", "message": "m"}, "not a JSON-RPC error (code: "),
        ({"error": {"code": 1}}, "not a JSON-RPC error (message: "),
        ({"code": 1, "message": "\ud83d"}, "not a JSON-RPC error (Invalid JSON: "),
        ({"code": 1, "message": "m", "data": deep()}, "not a JSON-RPC error (nested too deeply)"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_message_that_is_not_a_failure(message: dict[str, Any], said: str):
    """The error says what is wrong with it, and never quotes more than names."""
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        of({}).message(message, now=NOW)
    assert len(str(caught.value)) < 300


# --- the command ---


def command(*arguments: str, stdin: str | bytes = "") -> Any:
    return CliRunner().invoke(app, ["explain", *arguments], input=stdin)


def flat(output: str) -> str:
    """The text of an error box."""
    return " ".join(output.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [["-32602"], ["--", "-32602"], ["-32602", "--tool", "x"]])
def test_a_negative_code_is_not_an_option(arguments: list[str]):
    """It can be written with `--` or without."""
    done = command(*arguments)
    assert done.exit_code == 0, done.output
    assert done.output == (
        "JSON-RPC -32602\n"
        "    verdict           permanent: a retry cannot help\n"
        "    may it have run?  no: rejected\n"
        "    sent again        never\n"
        f"    the caller gets   the server's {MCPError.__name__}\n"
        "    rule              JSON-RPC code -32602\n"
    )


def test_a_status_in_plain_english():
    """Every variant is a paragraph, the last one says what the words mean, and no line is too long."""
    done = command("503")
    assert done.exit_code == 0
    first, *_, last = done.output.split("\n\n")
    assert first == (
        "HTTP 503\n"
        "    verdict           transient: a retry may help\n"
        "    may it have run?  perhaps\n"
        "    sent again        repeatable calls, up to 5 times, after a random back-off\n"
        "                      of up to 0.2 s, doubling to at most 30 s\n"
        "    the caller gets   ConnectionLost, if no retry succeeds\n"
        "    rule              HTTP 503"
    )
    assert flat(last) == f"{of({}).repeatable()} {of({}).limits()}"
    assert max(map(len, done.output.splitlines())) <= 80


def test_the_users_own_policy():
    """`--policy` and `--tool` decide, and what the policy forbids is said."""
    policy = json.dumps({"http_statuses": {"503": "refused"}, "tools": {"send": {"repeatable": False}}})
    first, second = (command(number, "--policy", policy, "--tool", "send").output for number in ("503", "500"))
    assert "rule              Policy.http_statuses[503]" in first
    assert "sent again        every call, up to 5 times" in first
    assert "sent again        never: it may have run, and must not run twice" in second
    assert "repeatable" not in first + second


def test_json():
    """`--json` prints a list with one object per row: for a number, a message, and the table."""
    (row,) = json.loads(command("--json", "500").output)[:1]
    assert row == {
        "failure": "HTTP 500",
        "category": "transient",
        "retryable": True,
        "delivery": "unknown",
        "may_have_run": True,
        "sent_again": "repeatable calls",
        "how": "up to 5 times, after a random back-off of up to 0.2 s, doubling to at most 30 s",
        "retry_after": None,
        "caller_gets": "ConnectionLost",
        "rule": "HTTP 500",
    }
    (row,) = json.loads(command("--json", stdin=json.dumps(RATE_LIMITED)).output)
    assert (row["failure"], row["retry_after"]) == ("isError: rate limit: try again in 30 seconds", 30)
    assert json.loads(command("--json").output) == [row.to_json() for row in of({}).table()]


@pytest.mark.parametrize("stdin", ["", " \n", b"\xef\xbb\xbf"])
def test_the_table_without_input(stdin: str | bytes):
    """With nothing on stdin the whole table is printed, grouped, in 80 columns of plain text."""
    done = command(stdin=stdin)
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert max(map(len, done.output.splitlines())) <= 80
    table, _, notes = done.output.partition("╰")
    blocks = re.split(r"^├.*┤$", table, flags=re.MULTILINE)[1:]
    cells = [
        [[cell.strip() for cell in line.split("│")[1:-1]] for line in block.strip().splitlines()] for block in blocks
    ]
    shown = [[" ".join(filter(None, column)) for column in zip(*lines, strict=True)] for lines in cells]
    rows = grouped(of({}).table())
    assert shown == [[r.failure, r.verdict.category.value, r.may_have_run, r.again, r.end] for r in rows]
    assert of({}).repeatable() in flat(notes)
    assert "`resilient-mcp explain STATUS`" in notes


def test_a_message_on_stdin():
    """A byte order mark, as some editors write it, and bytes that are not UTF-8 do no harm."""
    for stdin in (json.dumps(REFUSED).encode("utf-8-sig"), b'{"code": -32602, "message": "no such tool\xff"}\n'):
        done = command(stdin=stdin)
        assert done.exit_code == 0
        assert done.output.startswith("JSON-RPC -32602: no such tool")


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["abc"], "", "'abc' is neither a number nor an option: give an HTTP status such as 503, a JSON-RPC code"),
        (["--jsn"], "", "'--jsn' is neither a number nor an option"),
        (["result.json"], "", "or a result on stdin ('resilient-mcp explain < result.json')"),
        (["5" * 19], "", "is neither a number"),
        (["503", "504"], "", "unexpected extra argument"),
        ([], "oops", "stdin: 'oops' is not JSON"),
        ([], "{'code': 5}", 'JSON needs double quotes: write a JSON object such as \'{"code": -32602'),
        ([], "[" * 100_000, "nested too deeply"),
        ([], "[]", "stdin: '[]' is not an object: write a JSON object such as"),
        ([], "503", "stdin: '503' is not an object"),
        ([], '{"a": 1}', "stdin: neither an 'error' nor a 'result' is in it (its keys: 'a'): give a JSON-RPC response"),
        ([], '{"content": []}', "stdin: not a failure: isError is not true"),
        (["503", "--policy", "{"], "", "--policy: '{' is not JSON"),
        (["503", "--policy", "[]"], "", "--policy: '[]' is not an object"),
        (["503", "--policy", '{"retri": 1}'], "", "Policy has no key 'retri' (value 1): did you mean 'retry'?"),
        ([], "", ""),
    ],
)
def test_input_that_cannot_be_used(arguments: list[str], stdin: str, said: str):
    """The exit status is 2, and the message names the value and what to write instead."""
    done = command(*arguments, stdin=stdin)
    assert done.exit_code == (2 if said else 0)
    assert said in flat(done.output)


def start(*arguments: str, home: Path, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *COMMAND, "explain", *arguments], env=clean_environment(home), **streams)


def test_a_terminal_is_not_read_from(tmp_path: Path):
    """With a terminal on stdin the table comes immediately: nobody has to press Ctrl-D."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with start(home=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        output = b""
        with suppress(OSError):  # Linux reports the end this way
            while chunk := os.read(ours, 65536):
                output += chunk
        os.close(ours)
    assert process.returncode == 0
    assert b"ServerUnavailable" in output
    assert b"explain STATUS" in output


def test_a_closed_stdin(tmp_path: Path):
    """A caller that closes stdin gets the table."""
    shell = f"{shlex.join([sys.executable, *COMMAND, 'explain'])} <&-"
    done = subprocess.run(
        shell, shell=True, env=clean_environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "ServerUnavailable" in done.stdout


def test_a_number_does_not_wait_for_stdin(tmp_path: Path):
    """With an argument, an open pipe on stdin is not read."""
    with start("503", home=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read().startswith(b"HTTP 503\n")
    assert process.returncode == 0


# --- documentation ---


def commands_of_the_readme() -> Iterator[str]:
    yield from re.findall(r"`resilient-mcp explain([^`]*)`", README)


def test_the_readmes_commands_work():
    """Each command that the README names works, and they cover every way to use it."""
    used = [shlex.split(line) for line in commands_of_the_readme()]
    assert [] in used
    assert len(used) >= 4
    for arguments in used:
        stdin = json.dumps(RATE_LIMITED) if "<" in arguments else ""
        plain = [argument for argument in arguments if argument not in {"<", "result.json"}]
        assert command(*plain, stdin=stdin).exit_code == 0
