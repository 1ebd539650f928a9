"""The errors of this library: never empty, documented, and useful to a model."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from resilient_mcp import Category, Delivery, RateLimitExceeded, ResilienceError, Verdict
from resilient_mcp._sdk.installed import MCPError
from resilient_mcp.errors import hints
from resilient_mcp.text.printable import add_note, describe

from .support import QUICK, Faults, ScriptedHttp, client_of, text_of
from .test_readme import README, subclasses


def kinds(base: type = ResilienceError) -> list[type]:
    return [base, *(kind for sub in base.__subclasses__() for kind in kinds(sub))]


@pytest.mark.parametrize("kind", kinds())
def test_no_error_is_empty(kind: Any):
    """Even with an empty message and advice, an error has text, advice and a tool result."""
    required = {
        name: 1.0
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is parameter.empty and name not in {"message", "advice", "context"}
    }
    error = kind("", advice="", **required)
    assert str(error)
    assert repr(error)
    assert text_of(error.to_tool_result()) == error.advice
    assert error.advice
    assert isinstance(error, MCPError)


@pytest.mark.parametrize("how", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", kinds())
def test_every_error_can_be_copied(kind: Any, how: Any):
    """A pickled or copied error is equal to the original, so task queues and process pools can carry it."""
    parameters = inspect.signature(kind).parameters
    required = {"elapsed": 1.5, "problems": [("$.a", "no")]}
    verdict = Verdict(Category.TIMEOUT, retryable=True, delivery=Delivery.UNKNOWN, reason="late")
    given = {name: value for name, value in required.items() if name in parameters}
    error = kind(
        "text", advice="advice", server="s", operation="tools/call t", attempts=2, verdict=verdict, data=[1], **given
    )
    add_note(error, "a note")
    other = how(error)
    assert type(other) is kind
    assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))
    assert other.may_have_run
    assert other.error.data == [1]


@pytest.mark.parametrize("name", sorted(subclasses(ResilienceError) - {"ResilienceError"}))
def test_every_error_has_its_remedy(name: str):
    """The README's table says when each error is raised and what to do."""
    [row] = [line for line in README.splitlines() if line.startswith(f"| `{name}` |")]
    _, _, when, remedy, _ = (cell.strip() for cell in row.split("|"))
    assert len(when) > 20
    assert len(remedy) > 20


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, ""),
        (5, ""),
        ({}, ""),
        ("read the manual", "read the manual"),
        ({"retryAfter": 30, "hint": "use fewer."}, "hint: use fewer; retryAfter: 30"),
        ({"issues": [{"path": ["a", 0, "b"], "message": "must be a number"}]}, "a.0.b: must be a number"),
        ({"errors": [{"field": "city", "reason": "unknown"}, "too long", 5]}, "city: unknown; too long"),
        ([{"loc": "x"}, {"msg": "bad"}], "x; bad"),
        ({"details": "x", "hint": {"not": "text"}}, ""),
        ({"hint": "\x1b[31mred\nline"}, "hint: red line"),
    ],
)
def test_hints_in_a_servers_data(data: Any, said: str):
    """Issues with their paths, and hints, are extracted as printable text; anything else is ignored."""
    assert hints(data) == said


def test_hints_in_a_servers_data_are_bounded():
    """The extracted text is short, however large the data is."""
    data = {"issues": [{"path": ["x" * 10_000] * 1000, "message": "y" * 10_000}] * 1000, "hint": "z" * 100_000}
    assert len(hints(data)) < 5000


def test_a_description_is_never_empty():
    """An exception without a message is described by its type, others by type and message."""
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("x\n")) == "ValueError: x"


@pytest.mark.anyio
async def test_error_data_is_kept_and_shown():
    """A server's error data is on the error, in its advice, and in a note on the server's own error."""
    server = ScriptedHttp()
    data = {"retryAfter": 30, "issues": [{"path": ["city"], "message": "is no city"}]}
    policy = QUICK.model_copy(update={"retry": QUICK.retry.model_copy(update={"attempts": 1})})
    async with server.serve(), client_of(server.url, policy) as client:
        server.faults = [Faults.error(429, -32000, "slow down", data, retry_after="30")]
        with pytest.raises(RateLimitExceeded) as caught:
            await client.call_tool("unsafe", {"text": "x"})
    async with server.serve(), client_of(server.url, policy) as client:
        server.faults = [Faults.error(200, -32602, "bad arguments", data)]
        with pytest.raises(MCPError) as refused:
            await client.call_tool("unsafe", {"text": "x"})
    error = caught.value
    assert error.data == data
    assert error.retry_in == 30
    assert error.verdict is not None
    assert error.verdict.delivery is Delivery.REJECTED
    assert "was not run" in error.advice
    assert "Try again in 30 s; do not call it sooner." in error.advice
    assert error.advice.endswith("The server says: retryAfter: 30; city: is no city.")
    assert refused.value.error.data == data
    assert refused.value.__notes__ == ["the server says: retryAfter: 30; city: is no city"]
