"""What the package exports: documented, named after the package, and as usable as if it were defined there."""

from __future__ import annotations

import ast
import copy
import dataclasses
import enum
import inspect
import itertools
import pickle
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import resilient_mcp
from resilient_mcp import (
    Category,
    Concurrency,
    Delivery,
    Event,
    Evidence,
    ExitStatus,
    Failure,
    InvalidArguments,
    Policy,
    RateLimit,
    ResilienceError,
    RetryPolicy,
    ServerUnavailable,
    ToolPolicy,
    Verdict,
    _api,
)
from resilient_mcp.evidence import FailureKind

SOURCE = Path(resilient_mcp.__file__).parent
EXPORTS: dict[str, Any] = {name: getattr(resilient_mcp, name) for name in resilient_mcp.__all__}
ALIASES = {"Classify", "Fallback", "HeadersFunction", "Listener", "NameHook"}
DEFINED = sorted(EXPORTS.keys() - ALIASES)
CLASSES = sorted(name for name in DEFINED if inspect.isclass(EXPORTS[name]))
DATACLASSES = sorted(name for name in CLASSES if dataclasses.is_dataclass(EXPORTS[name]))
POLICIES = sorted(name for name in CLASSES if issubclass(EXPORTS[name], BaseModel))

EVIDENCE = Evidence(FailureKind.PROCESS, Delivery.UNKNOWN, "killed", exit=ExitStatus(7, signal=9, stderr="oh"))
VERDICT = Verdict(Category.CONNECTION_LOST, retryable=True, delivery=Delivery.UNKNOWN, reason="killed", rule="process")

Copy = Callable[[Any], Any]
COPIES: list[Copy] = [copy.copy, copy.deepcopy, lambda original: pickle.loads(pickle.dumps(original))]
every_copy = pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])


def python(code: str, stdin: bytes = b"") -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], input=stdin, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


# --- names ---


def test_all_names_every_export():
    """`__all__` is sorted, the same in both files, and names exactly what `_api` imports from the package."""
    tree = ast.parse((SOURCE / "_api.py").read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert sorted(alias.name for node in imports for alias in node.names) == resilient_mcp.__all__
    assert _api.__all__ == resilient_mcp.__all__ == sorted(set(resilient_mcp.__all__))
    assert set(resilient_mcp.__all__) <= set(dir(resilient_mcp))


def test_a_name_that_is_not_exported_is_an_error():
    """A misspelled name, and a name that `_api` imports for itself, are not attributes of the package."""
    for name in ("ResilientClients", "inspect", "get_origin"):
        with pytest.raises(AttributeError, match=f"module 'resilient_mcp' has no attribute '{name}'"):
            getattr(resilient_mcp, name)


@pytest.mark.timeout(60)
def test_every_export_is_an_attribute_in_a_fresh_interpreter():
    """Each name can be the first to be used."""
    code = """if True:
        import resilient_mcp
        for name in reversed(resilient_mcp.__all__):
            print(name, type(getattr(resilient_mcp, name)).__name__)
    """
    lines = python(code).splitlines()
    assert lines == [f"{name} {type(EXPORTS[name]).__name__}" for name in reversed(resilient_mcp.__all__)]


@pytest.mark.timeout(60)
def test_a_star_import_gives_every_export():
    """`from resilient_mcp import *` in a fresh interpreter."""
    code = "before = {*globals()}; from resilient_mcp import *; print(*sorted({*globals()} - before - {'before'}))"
    assert python(code).split() == [*EXPORTS]


@pytest.mark.timeout(60)
def test_importing_the_package_imports_no_sdk():
    """The SDK and everything else is imported with the first name, so that a command can handle Ctrl-C before."""
    modules = "print(*{name.partition('.')[0] for name in sys.modules})"
    before, after = python(f"import sys, resilient_mcp; {modules}; resilient_mcp.Policy; {modules}").splitlines()
    assert not {"anyio", "httpx", "httpx2", "jsonschema", "mcp", "pydantic", "tenacity"} & set(before.split())
    assert {"anyio", "mcp", "pydantic"} <= set(after.split())


# --- documentation and types ---


@pytest.mark.parametrize("name", DEFINED)
def test_every_class_and_function_has_a_docstring_and_the_package_as_its_module(name: str):
    """Users see `resilient_mcp.Policy`; the docstring is its own, not a parent's or one that Python generates."""
    export = EXPORTS[name]
    assert export.__module__ == "resilient_mcp"
    assert export.__name__ == export.__qualname__ == name
    text = vars(export).get("__doc__") if inspect.isclass(export) else export.__doc__
    assert text
    assert text.strip() != "An enumeration."
    assert not text.startswith(f"{name}(")


def test_every_alias_is_documented_where_it_is_defined():
    """An alias has neither a module nor a docstring at run time; a string follows its definition."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        body = ast.parse(path.read_text("utf-8")).body
        for node, following in itertools.pairwise(body):
            if isinstance(node, ast.AnnAssign) and (name := ast.unparse(node.target)) in ALIASES:
                assert name not in found
                assert ast.unparse(node.annotation) == "TypeAlias"
                assert isinstance(following, ast.Expr), name
                found[name] = ast.literal_eval(following.value)
    assert found.keys() == ALIASES
    assert all(isinstance(text, str) for text in found.values())
    assert not any(inspect.isroutine(EXPORTS[name]) or typing.get_origin(EXPORTS[name]) is None for name in ALIASES)


@pytest.mark.parametrize("name", CLASSES)
def test_type_hints_can_be_read(name: str):
    """`get_type_hints` works on each class and its `__init__`, although its module is not where it is defined."""
    export = EXPORTS[name]
    hints = typing.get_type_hints(export)
    typing.get_type_hints(export.__init__)
    if dataclasses.is_dataclass(export):
        assert {field.name for field in dataclasses.fields(export)} <= hints.keys()
        assert not any(isinstance(field.type, str) for field in dataclasses.fields(export))
    if issubclass(export, BaseModel):
        assert export.model_fields.keys() <= hints.keys()


def test_the_hints_of_the_functions_and_aliases_can_be_read():
    """`explain` and the aliases name real types, not strings that only their own module could resolve."""
    assert typing.get_type_hints(resilient_mcp.explain)["return"] is Verdict
    for name in ALIASES:
        parameters, result = typing.get_args(EXPORTS[name])
        assert not any(isinstance(hint, str | typing.ForwardRef) for hint in [*parameters, result])


# --- copies ---


def sample(hint: Any) -> Any:
    """A value of the type that a field is annotated with."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return sample(arguments[0])
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        return (sample(arguments[0]),)
    if origin is Mapping.__mro__[0]:
        return {sample(arguments[0]): sample(arguments[1])}
    if hint is Any:
        return ["anything"]
    if hint is BaseException:
        return None
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return list(hint)[-1]
    if dataclasses.is_dataclass(hint):
        return instance(hint)
    return {str: "text", int: 3, float: 0.5, bool: True}[hint]


def instance(kind: Any) -> Any:
    hints = typing.get_type_hints(kind)
    return kind(**{field.name: sample(hints[field.name]) for field in dataclasses.fields(kind)})


@every_copy
@pytest.mark.parametrize("name", DATACLASSES)
def test_events_verdicts_and_snapshots_can_be_copied(name: str, copied: Copy):
    """A copied or pickled dataclass is equal to the original and of the same class."""
    original = instance(EXPORTS[name])
    other = copied(original)
    assert type(other) is type(original) is EXPORTS[name]
    assert other == original
    assert repr(other) == repr(original)


@every_copy
def test_the_snapshots_of_a_client_can_be_copied(copied: Copy):
    """What `stats()` and `health()` return can be sent to another process, and `asdict` takes it apart."""
    client = resilient_mcp.ResilientClient("https://example.com/mcp")
    for snapshot in (client.stats(), client.health()):
        assert copied(snapshot) == snapshot
        assert dataclasses.asdict(snapshot).keys() == {field.name for field in dataclasses.fields(snapshot)}


def test_every_event_is_among_the_copied_ones():
    """All subclasses of `Event` are exported dataclasses."""
    assert {kind.__name__ for kind in Event.__subclasses__()} <= set(DATACLASSES)


@every_copy
@pytest.mark.parametrize("name", POLICIES)
def test_policies_can_be_copied(name: str, copied: Copy):
    """A copied or pickled policy is equal to the original, and still rejects unknown keys."""
    required = {"RateLimit": {"rate": 5.0, "burst": 10}, "Concurrency": {"limit": 4}}
    original = EXPORTS[name](**required.get(name, {}))
    other = copied(original)
    assert type(other) is type(original)
    assert other == original
    with pytest.raises(ValueError, match=f"{name} has no key 'unknown'"):
        type(other).model_validate({"unknown": 1})


@every_copy
def test_a_policy_with_everything_in_it_can_be_copied(copied: Copy):
    """Nested policies, patterns and tables survive."""
    original = Policy(
        retry=RetryPolicy(attempts=2),
        breaker=None,
        rate_limit=RateLimit(rate=5, burst=10),
        concurrency=Concurrency(limit=4),
        tools={"get_*": ToolPolicy(repeatable=True, http_statuses={503: "refused"})},
        error_codes={-32050: "transient"},
    )
    other = copied(original)
    assert other == original
    assert other.tool("get_x") == original.tool("get_x")


@every_copy
@pytest.mark.parametrize("original", [*Category, *Delivery, *resilient_mcp.State, *resilient_mcp.Outcome])
def test_a_copied_enum_member_is_the_same_object(original: enum.Enum, copied: Copy):
    """Members are compared by identity, here and in users' code."""
    assert copied(original) is original


@every_copy
def test_errors_can_be_copied(copied: Copy):
    """An error keeps its class, its text, its verdict and its other attributes."""
    error = ServerUnavailable("gone", server="weather", attempts=2, verdict=VERDICT, exit_status=-9, data={"a": [1]})
    other = copied(error)
    assert type(other) is ServerUnavailable
    assert (str(other), vars(other)) == (str(error), vars(error))
    assert other.verdict == VERDICT


def test_a_pickle_needs_no_import_by_its_reader():
    """Errors, events, policies and verdicts are read in an interpreter that has not imported this library."""
    event = resilient_mcp.Disconnected(server="weather", generation=1, reason="killed", evidence=EVIDENCE)
    error = InvalidArguments("wrong", problems=[("$.city", "missing")], verdict=VERDICT)
    failure = Failure("tools/call", "forecast", error, EVIDENCE)
    pickled = pickle.dumps([error, event, Policy(), VERDICT, failure, Policy, resilient_mcp.explain])
    assert not [name for name in (b"errors", b"events", b"policy", b"verdicts") if b"resilient_mcp." + name in pickled]
    code = """if True:
        import pickle, sys
        assert "resilient_mcp" not in sys.modules
        error, event, policy, verdict, failure, kind, function = pickle.load(sys.stdin.buffer)
        import resilient_mcp
        assert kind is resilient_mcp.Policy and function is resilient_mcp.explain
        assert isinstance(policy, kind) and isinstance(error, resilient_mcp.ResilienceError)
        print(repr([str(error), error.problems, error.verdict, event, policy, verdict, failure.evidence]))
    """
    expected = [str(error), error.problems, error.verdict, event, Policy(), VERDICT, failure.evidence]
    assert python(code, pickled).strip() == repr(expected)


def test_tracebacks_name_the_package():
    """An error is shown as `resilient_mcp.ServerUnavailable`, the name under which it is imported."""
    import traceback

    [line] = traceback.format_exception_only(ServerUnavailable("gone"))
    assert line == "resilient_mcp.ServerUnavailable: gone\n"
    assert issubclass(ServerUnavailable, ResilienceError)
