"""Policies: what may be written, and the errors for impossible values."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import resilient_mcp
from resilient_mcp import (
    BreakerPolicy,
    BudgetPolicy,
    Concurrency,
    HealthPolicy,
    LoopGuard,
    Policy,
    RateLimit,
    RestartPolicy,
    RetryPolicy,
    TimeoutPolicy,
    ToolPolicy,
)

MODELS: list[type[BaseModel]] = [
    BreakerPolicy, BudgetPolicy, Concurrency, HealthPolicy, LoopGuard, Policy,
    RateLimit, RestartPolicy, RetryPolicy, TimeoutPolicy, ToolPolicy,
]  # fmt: skip

FULL: dict[str, Any] = {
    "retry": {"attempts": 3, "base": 1, "throttled_base": 2.5, "max_delay": "inf", "max_retry_after": 0},
    "timeout": {"connect": 1, "ready": 2, "attempt": "Infinity", "total": "INF", "shutdown": 0.5},
    "restart": {"base": 0, "max_delay": 1, "intensity": 1, "period": 1, "suspend": 1, "max_suspend": "inf"},
    "budget": {"tokens": 10, "cost": 10, "refund": 0},
    "breaker": {"failures": 1, "rate": 1, "min_calls": 1, "window": 1, "open": 1, "max_open": "inf", "trial": 1},
    "rate_limit": {"rate": 0.1, "burst": 1},
    "concurrency": {"limit": 1, "queue": 0},
    "health": {"idle": 1, "timeout": 1, "misses": 1},
    "loop_guard": {"failures": 1, "window": "inf"},
    "dialect": "mcpcat",
    "error_codes": {"-32050": "transient", "7": "permanent"},
    "tools": {
        "get_*": {
            "repeatable": True,
            "retry": {"attempts": 1},
            "attempt_timeout": "inf",
            "error_codes": {"-1": "auth"},
            "rate_limit": {"rate": 10, "burst": 10},
            "loop_guard": {"failures": 2},
        }
    },
}  # fmt: skip


def test_the_defaults():
    """The defaults are the documented ones, and they validate."""
    policy = Policy()
    assert policy.budget == BudgetPolicy(tokens=100, cost=1, refund=0.5)
    assert policy.breaker == BreakerPolicy(
        failures=5, rate=0.5, min_calls=10, window=30, open=60, max_open=300, trial=30
    )
    assert policy.health == HealthPolicy(idle=30, timeout=10, misses=2)
    assert (policy.rate_limit, policy.concurrency, policy.loop_guard) == (None, None, None)
    assert Concurrency(limit=3).queue == 100
    assert LoopGuard() == LoopGuard(failures=5, window=120)
    for model in MODELS:
        for field in model.model_fields.values():
            if not field.is_required():
                assert field.default_factory is None
    assert Policy.model_validate(policy.model_dump()) == policy


def test_a_dict_and_json_give_the_same_policy():
    """Infinity may be spelled out and integer keys are strings, because JSON has neither."""
    policy = Policy.model_validate(FULL)
    assert policy == Policy.model_validate_json(json.dumps(FULL))
    assert policy.retry.max_delay == policy.timeout.attempt == policy.timeout.total == math.inf
    assert policy.restart.max_suspend == policy.tool("get_x").attempt_timeout == math.inf
    assert policy.error_codes == {-32050: "transient", 7: "permanent"}
    assert policy.tool("get_x").error_codes == {-1: "auth"}
    assert policy.retry.base == 1


def test_round_trips():
    """A policy dumped as a dict or as JSON loads as the same policy."""
    policy = Policy.model_validate(FULL)
    assert Policy.model_validate(policy.model_dump()) == policy
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


def test_only_none_disables_a_strategy():
    """None from Python and null from JSON disable a strategy; no other value does."""
    off = {"budget": None, "breaker": None, "health": None}
    assert Policy.model_validate_json(json.dumps(off)) == Policy.model_validate(off)
    assert Policy(breaker=None).breaker is None


def test_the_first_pattern_that_matches_decides():
    """Tool policies match by glob in their order; a tool that matches none has an empty policy."""
    policy = Policy(tools={"get_*": ToolPolicy(repeatable=True), "get_x": ToolPolicy(), "set": ToolPolicy()})
    assert policy.tool("get_x") is policy.tools["get_*"]
    assert policy.tool("set") is policy.tools["set"]
    assert policy.tool("other") == ToolPolicy()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_number_is_documented_and_exported(model: type[BaseModel]):
    """Each field has a description, and each model can be imported from the package."""
    assert getattr(resilient_mcp, model.__name__) is model
    assert all(field.description for field in model.model_fields.values())


def test_policies_are_frozen():
    """A policy in use cannot change."""
    with pytest.raises(ValidationError, match="frozen"):
        BreakerPolicy().failures = 3  # type: ignore[misc]


INTEGER = "valid integer"
NUMBER = "valid number"
FINITE = "finite number"
ABOVE = "greater than 0"
FROM_ZERO = "greater than or equal to 0"
FROM_ONE = "greater than or equal to 1"

LIMIT: list[tuple[Any, str]] = [(0, ABOVE), (-1, ABOVE), (math.nan, ABOVE), ("-inf", NUMBER), ("5", NUMBER)]
SPAN: list[tuple[Any, str]] = [(0, ABOVE), (-1, ABOVE), (math.nan, FINITE), (math.inf, FINITE), (True, NUMBER)]
DELAY: list[tuple[Any, str]] = [(-0.1, FROM_ZERO), (math.nan, FINITE), (math.inf, FINITE), ("x", NUMBER)]
CAP: list[tuple[Any, str]] = [(-1, FROM_ZERO), (math.nan, FROM_ZERO), ("long", NUMBER), (False, NUMBER)]
COUNT: list[tuple[Any, str]] = [(0, FROM_ONE), (-1, FROM_ONE), ("4", INTEGER), (True, INTEGER), (2.5, INTEGER)]
CODES: list[tuple[Any, str]] = [
    ({"x": "auth"}, INTEGER), ({"1.0": "auth"}, INTEGER), ({"9" * 19: "auth"}, INTEGER), ({"5": "bad"}, "'transient'"),
]  # fmt: skip

STATUSES: list[tuple[Any, str]] = [
    ({"x": "auth"}, INTEGER), ({200: "refused"}, "greater than or equal to 300"), ({503: "bad"}, "'refused'"),
]  # fmt: skip

IMPOSSIBLE: dict[type[BaseModel], dict[str, list[tuple[Any, str]]]] = {
    RetryPolicy: {
        "attempts": COUNT,
        "crashes": COUNT,
        "base": DELAY,
        "throttled_base": DELAY,
        "max_delay": CAP,
        "max_retry_after": CAP,
        "wait": [(1, "callable")],
        "stop": [(1, "callable")],
    },
    TimeoutPolicy: dict.fromkeys(("connect", "reach", "ready", "attempt", "request", "total", "shutdown"), LIMIT),
    RestartPolicy: {
        "base": DELAY,
        "max_delay": CAP,
        "intensity": COUNT,
        **dict.fromkeys(("period", "suspend", "max_suspend", "proven_after"), LIMIT),
    },
    BudgetPolicy: {"tokens": SPAN, "cost": SPAN, "refund": DELAY},
    BreakerPolicy: {
        "failures": COUNT,
        "rate": [
            (0, ABOVE),
            (1.1, "less than or equal to 1"),
            (math.nan, "or equal to 1"),
            (50, "less than or equal to 1"),
        ],
        "min_calls": COUNT,
        "window": SPAN,
        "open": SPAN,
        "max_open": LIMIT,
        "trial": SPAN,
    },
    RateLimit: {
        "rate": [
            (0, "or equal to (1e-06|0.000001)"),
            (math.nan, FINITE),
            (math.inf, FINITE),
            ("1", NUMBER),
            (True, NUMBER),
        ],
        "burst": [*COUNT, (10**10, "less than or equal to 1000000000")],
    },
    Concurrency: {"limit": COUNT, "queue": [(-1, FROM_ZERO), ("1", INTEGER), (1.5, INTEGER)]},
    HealthPolicy: {"idle": SPAN, "timeout": SPAN, "misses": COUNT},
    LoopGuard: {"failures": COUNT, "window": LIMIT},
    ToolPolicy: {
        "repeatable": [(1, "valid boolean"), ("yes", "valid boolean")],
        "retry": [(3, "instance of RetryPolicy|an object")],
        "attempt_timeout": LIMIT,
        "error_codes": CODES,
        "http_statuses": STATUSES,
        "validate_arguments": [("yes", "valid boolean")],
        "rate_limit": [(10, "instance of RateLimit|an object")],
        "loop_guard": [(True, "instance of LoopGuard|an object")],
    },
    Policy: {
        "retry": [(3, "instance of RetryPolicy|an object"), (None, "instance of RetryPolicy|an object")],
        "timeout": [(3, "instance of TimeoutPolicy|an object")],
        "restart": [(3, "instance of RestartPolicy|an object")],
        "budget": [(3, "instance of BudgetPolicy|an object")],
        "breaker": [(False, "instance of BreakerPolicy|an object")],
        "rate_limit": [(3, "instance of RateLimit|an object")],
        "concurrency": [(3, "instance of Concurrency|an object")],
        "health": [(3, "instance of HealthPolicy|an object")],
        "loop_guard": [(3, "instance of LoopGuard|an object")],
        "tools": [({"x": 3}, "instance of ToolPolicy|an object"), ([], "valid dictionary|an object")],
        "dialect": [("klingon", "'mcpcat'")],
        "error_codes": CODES,
        "http_statuses": STATUSES,
        "on_unavailable": [("ignore", "'raise' or 'result'")],
        "serve_stale": [("yes", "valid boolean")],
        "send_operation_id": [("yes", "valid boolean")],
        "trust_annotations": [(1, "valid boolean"), ("idempotent", "'read_only'")],
        "max_message_bytes": [(1023, "greater than or equal to 1024"), (1e6, INTEGER)],
    },
}

NEEDED: dict[type[BaseModel], dict[str, Any]] = {RateLimit: {"rate": 1, "burst": 1}, Concurrency: {"limit": 1}}

CASES = [
    pytest.param(model, key, value, remedy, id=f"{model.__name__}-{key}-{value!r:.25}")
    for model, keys in IMPOSSIBLE.items()
    for key, values in keys.items()
    for value, remedy in values
]


def test_no_key_is_left_out_of_the_table():
    """Every field of every model has its impossible values in the table."""
    assert {model: set(keys) for model, keys in IMPOSSIBLE.items()} == {
        model: set(model.model_fields) for model in MODELS
    }


@pytest.mark.parametrize(("model", "key", "value", "remedy"), CASES)
def test_impossible_values(model: type[BaseModel], key: str, value: Any, remedy: str):
    """From Python, a dict or JSON, the error names the key, the value and what to write instead."""
    values = {**NEEDED.get(model, {}), key: value}
    text = json.dumps(values)
    for make in (
        lambda: model(**values),
        lambda: model.model_validate(values),
        lambda: model.model_validate_json(text),
    ):
        with pytest.raises(ValidationError, match=remedy) as caught:
            make()
        assert key in str(caught.value)
        assert "input_value=" in str(caught.value)


TOGETHER = [
    (
        RetryPolicy,
        {"base": 2, "max_delay": 1},
        "RetryPolicy: max_delay is 1.0, less than base, which is 2.0: set max_delay to at least 2.0, or lower",
    ),
    (
        RestartPolicy,
        {"base": 31},
        "max_delay is 30.0, less than base, which is 31.0: set max_delay to at least 31.0",
    ),
    (RestartPolicy, {"suspend": "inf"}, "max_suspend is 300.0, less than suspend, which is inf: set max_suspend"),
    (RestartPolicy, {"max_suspend": 20}, "max_suspend is 20.0, less than suspend, which is 30.0: set max_suspend"),
    (BudgetPolicy, {"tokens": 0.5}, "tokens is 0.5, less than cost, which is 1.0: set tokens to at least 1.0"),
    (
        BreakerPolicy,
        {"max_open": 30},
        "max_open is 30.0, less than open, which is 60.0: set max_open to at least 60.0",
    ),
]


@pytest.mark.parametrize(("model", "values", "message"), TOGETHER, ids=[case[2][:30] for case in TOGETHER])
def test_contradictory_values(model: type[BaseModel], values: dict[str, Any], message: str):
    """Of two values that contradict each other, both are named, with the remedy."""
    for make in (lambda: model.model_validate(values), lambda: model.model_validate_json(json.dumps(values))):
        with pytest.raises(ValidationError) as caught:
            make()
        assert message in str(caught.value)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_unknown_keys(model: type[BaseModel]):
    """A misspelt key is reported with its value and the intended key; an unknown one, with all valid keys."""
    key = next(iter(model.model_fields))
    with pytest.raises(ValidationError) as caught:
        model.model_validate({key + "z": 1})
    assert f"{model.__name__} has no key '{key}z' (value 1): did you mean {key!r}?" in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json('{"???": 1}')
    assert f"its keys are {', '.join(model.model_fields)}" in str(caught.value)


def test_an_error_gives_the_path_within_a_file():
    """The path through tools and patterns is in the message."""
    with pytest.raises(ValidationError, match=r"tools\.get_\*\.retry\.attempts"):
        Policy.model_validate({"tools": {"get_*": {"retry": {"attempts": 0}}}})


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from([*Policy.model_fields, "x"]) | st.text(), inner)
        ),
    )
)
def test_rubbish_is_a_validation_error(rubbish: Any):
    """Whatever a file holds, the outcome is a policy or a `ValidationError`."""
    try:
        policy = Policy.model_validate(rubbish)
    except ValidationError:
        return
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


def test_the_policies_of_tools_are_remembered():
    """A name is matched once; a copy with other tools does not share what was found, and equality ignores it."""
    fast, slow = ToolPolicy(attempt_timeout=1), ToolPolicy(attempt_timeout=9)
    policy = Policy(tools={"get_*": fast, "*": slow})
    untouched = Policy(tools={"get_*": fast, "*": slow})
    for _ in range(2):
        assert policy.tool("get_x") == fast
        assert policy.tool("x") == slow
        assert policy.tool("x" * 1000) == slow
    copy = policy.model_copy(update={"tools": {"get_*": slow}})
    for _ in range(2):
        assert copy.tool("get_x") == slow
        assert copy.tool("x") == ToolPolicy()
    assert policy == untouched
    assert policy.model_dump() == untouched.model_dump()
    for n in range(3000):
        policy.tool(f"tool-{n}")
    assert policy.tool("get_x") == fast
