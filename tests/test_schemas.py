"""JSON Schemas of tools: compiled once, replaced with the tool, never fetched, bounded in number and in time."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import jsonschema
import pytest

from resilient_mcp import schemas
from resilient_mcp.schemas import CompiledSchemas, UncheckableError, text_of

NUMBER: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "number"}}}


def test_a_schema_is_compiled_once(monkeypatch: pytest.MonkeyPatch):
    """The same schema of the same tool is compiled for the first value only."""
    compiled = []
    compile_one = schemas._compile
    monkeypatch.setattr(schemas, "_compile", lambda schema: compiled.append(schema) or compile_one(schema))
    one = CompiledSchemas()
    assert [one.validator("t", NUMBER).is_valid({"n": n}) for n in (1, "x", 2)] == [True, False, True]
    assert compiled == [NUMBER]


def test_a_new_listing_brings_a_new_schema():
    """A tool that is listed again, with another schema or an equal one, is checked against what it has now."""
    one = CompiledSchemas()
    before = one.validator("t", NUMBER)
    equal = one.validator("t", dict(NUMBER))
    assert equal is not before
    assert one.validator("t", {"type": "object", "required": ["n"]}).is_valid({}) is False
    assert equal.is_valid({})


def test_tools_do_not_share_a_schema():
    """Each tool has its own, whatever the order in which they are used."""
    one = CompiledSchemas()
    text = {"type": "string"}
    for _ in range(2):
        assert one.validator("number", NUMBER).is_valid({"n": 1})
        assert one.validator("text", text).is_valid("x")
        assert not one.validator("text", text).is_valid({"n": 1})


@pytest.mark.parametrize("unusable", [{"type": "nonsense"}, {"properties": 7}, {"required": "n"}])
def test_an_unusable_schema_raises_each_time(unusable: Any):
    """It is not kept, and the usable schema that the tool had before is."""
    one = CompiledSchemas()
    usable = one.validator("t", NUMBER)
    for _ in range(2):
        with pytest.raises(Exception, match="is not valid under any of the given schemas|is not of type"):
            one.validator("t", unusable)
    assert one.validator("t", NUMBER) is usable


@pytest.mark.parametrize(
    ("schema", "value", "valid"),
    [
        ({"prefixItems": [{"type": "string"}]}, [7], False),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "items": {"type": "string"}}, [7], False),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}, [7], False),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{"type": "string"}]}, [7], True),
        ({"$defs": {"n": {"type": "number"}}, "properties": {"n": {"$ref": "#/$defs/n"}}}, {"n": "x"}, False),
        (True, 7, True),
    ],
    ids=["2020-12 by default", "2020-12", "draft 7", "unknown to draft 7", "a reference within", "a boolean"],
)
def test_dialects(schema: Any, value: Any, valid: bool):
    """A schema is read in the dialect that it names, in 2020-12 if it names none."""
    assert CompiledSchemas().validator("t", schema).is_valid(value) is valid


def test_a_schema_is_never_fetched():
    """A reference to a URL fails without a connection: a server must not make its client visit addresses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"
        validator = CompiledSchemas().validator("t", {"$ref": url})
        with pytest.raises(Exception, match="Unresolvable"):
            validator.is_valid(7)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_number_of_schemas_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """Beyond the limit, the tool that was not used for longest is compiled again when it comes back."""
    monkeypatch.setattr(schemas, "_KEPT", 2)
    one = CompiledSchemas()
    first, second = one.validator("a", NUMBER), one.validator("b", NUMBER)
    assert one.validator("a", NUMBER) is first
    one.validator("c", NUMBER)
    assert one.validator("a", NUMBER) is first
    assert one.validator("b", NUMBER) is not second


def doubling(depth: int) -> dict[str, Any]:
    """1 KB of references that lead to 2 ** depth checks."""
    twice = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(depth)}
    return {"$defs": {**twice, f"d{depth}": {}}, "$ref": "#/$defs/d0"}


DIALECT = "https://json-schema.org/draft/2020-12/schema"
HOSTILE: dict[str, tuple[Any, Any]] = {
    "doubling references": (doubling(24), {}),
    "the same, unevaluated": ({**doubling(24), "unevaluatedProperties": False}, {"a": 1}),
    "a dialect inside": (
        {"$defs": doubling(24)["$defs"], "properties": {"a": {"$schema": DIALECT, "$ref": "#/$defs/d0"}}},
        {"a": {}},
    ),
    "a reference to its own dialect": ({"$schema": DIALECT, **doubling(24), "anyOf": [{"$ref": "#"}]}, {}),
    "the metaschema": ({"$ref": DIALECT}, {"properties": {f"p{n}": {"type": "string"} for n in range(3000)}}),
    "a loop": ({"$ref": "#"}, {}),
    "20,000 properties": ({"properties": {f"p{n}": {"type": "string"} for n in range(20_000)}}, {}),
    "nested deeply": (json.loads('{"properties": {"a":' * 300 + "{}" + "}}" * 300), {}),
    "anchors": ({"$defs": {f"d{n}": {"$anchor": f"a{n}"} for n in range(900)}, "allOf": [{"$ref": "#a800"}] * 300}, {}),
    "objects compared with each other": ({"uniqueItems": True}, [{"a": n} for n in range(3000)]),
    "a long list of alternatives": ({"items": {"enum": [[1] * 50] * 150}}, [[1] * 49 + [2]] * 150),
    "a large value": ({"type": "object"}, {"x": [1] * 5_000_000}),
    "a long text quoted in each fault": ({"allOf": [{"type": "object"}] * 5000}, "y" * 250_000),
    "a pattern that backtracks": ({"pattern": "^(a+)+$"}, "a" * 100_000 + "!"),
    "a pattern for names": ({"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}, {"a" * 99 + "!": 1}),
    "both kinds of pattern": ({"patternProperties": {"(a+)+$": {}}, "unevaluatedProperties": False}, {"a" * 99: 1}),
    "a lookahead that backtracks": ({"pattern": "^(?!b)(a+)+$"}, "a" * 1000 + "!"),
    "an optional part too many": ({"pattern": "(?!b)" + "a?" * 40 + "a" * 40}, "a" * 39),
    "alternatives too many": ({"pattern": "(?!b)" + "(a|a)" * 40 + "b"}, "a" * 40),
    "a slow lookahead": ({"pattern": "(?!b)a*c"}, "a" * 200_000),
    "a pattern written out": ({"pattern": "(\\w{50}){50}"}, "a"),
    "many patterns": ({"allOf": [{"pattern": f"\\w{{30}}{n}"} for n in range(100)]}, "a"),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "value"), HOSTILE.values(), ids=list(HOSTILE))
def test_no_schema_blocks_the_event_loop(schema: Any, value: Any):
    """A check ends within about 50 ms: with a verdict, or without one."""
    compiled = CompiledSchemas()
    compiled.errors("first", {"type": "object"}, {})  # jsonschema is imported and its own schemas are read
    began = time.process_time()
    for _ in range(2):
        with suppress(UncheckableError, RecursionError):
            compiled.errors("t", schema, value)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"required": "name"}, {}),
        ({"allOf": {"type": "nonsense"}}, {}),
        ({"enum": "abc"}, "a"),
    ],
)
def test_an_invalid_schema_that_is_too_large_to_check(schema: Any, value: Any):
    """It yields no verdict, rather than a wrong one."""
    large = {"properties": {f"p{n}": {"type": "string"} for n in range(500)}}
    with pytest.raises(UncheckableError):
        CompiledSchemas().errors("t", {**large, **schema}, value)


UUID_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


@pytest.mark.parametrize(
    ("schema", "value", "valid"),
    [
        ({"pattern": "^a+$"}, "aa", True),
        ({"pattern": "^a+$"}, "ab", False),
        ({"pattern": "^a+$"}, 7, True),
        ({"pattern": UUID_PATTERN}, "0b54ad23-0000-4000-8000-0123456789ab", True),
        ({"pattern": UUID_PATTERN}, "0b54ad23", False),
        ({"pattern": r"^[\w.+-]+@[\w-]+\.[\w.]+$"}, "a.b@example.com", True),
        ({"pattern": r"^[\w.+-]+@[\w-]+\.[\w.]+$"}, "a.b", False),
        ({"pattern": r"^\w{1,200}$"}, "a" * 201, False),
        ({"pattern": "^(?!x)[a-z]+$"}, "abc", True),
        ({"pattern": "^(?!x)[a-z]+$"}, "xbc", False),
        ({"pattern": "^(?=.)é$"}, "é", True),
        ({"patternProperties": {"^n_": {"type": "number"}}}, {"n_a": "x"}, False),
        ({"patternProperties": {"^n_": {"type": "number"}}}, {"n_a": 1, "b": "x"}, True),
        ({"patternProperties": {"^n_": {}}, "additionalProperties": False}, {"n_a": 1}, True),
        ({"patternProperties": {"^n_": {}}, "additionalProperties": False}, {"n_a": 1, "b": 1}, False),
        ({"patternProperties": {"^n_": {}}, "properties": {"b": {}}, "additionalProperties": False}, {"b": 1}, True),
        ({"patternProperties": {"^n_": {}}, "additionalProperties": {"type": "number"}}, {"b": "x"}, False),
        ({"additionalProperties": False}, {"b": 1}, False),
        ({"properties": {f"p{n}": {"type": "string"} for n in range(300)}}, {"p299": 1}, False),
        ({"type": "array", "items": {"type": "object", "required": ["a"]}}, [{"a": 1}] * 500, True),
        ({"uniqueItems": True}, list(range(2000)), True),
        ({"uniqueItems": True}, [{"a": 1}, {"a": 1}], False),
        ({"properties": {"$schema": {"type": "string"}}}, {"$schema": 7}, False),
    ],
)
def test_ordinary_schemas_are_checked(schema: Any, value: Any, valid: bool):
    """The limit leaves room for them, and patterns mean what they mean to jsonschema itself."""
    assert (CompiledSchemas().errors("t", schema, value) == []) is valid
    assert jsonschema.Draft202012Validator(schema).is_valid(value) is valid


def test_faults_are_those_of_jsonschema():
    """They have its paths and messages, at most as many as asked for."""
    schema = {"properties": {"a": {"pattern": "^x"}, "b": {"items": {"type": "string"}}}}
    value = {"a": "y", "b": ["x", 1, 2]}
    faults = CompiledSchemas().errors("t", schema, value)
    own = [(one.json_path, one.message, list(one.schema_path)) for one in faults]
    theirs = jsonschema.Draft202012Validator(schema).iter_errors(value)
    assert own == [(one.json_path, one.message, list(one.schema_path)) for one in theirs]
    assert len(CompiledSchemas().errors("t", schema, value, 2)) == 2


def test_a_client_that_checks_nothing_does_not_import_jsonschema():
    """It takes 30 ms to import, so that happens with the first schema."""
    code = (
        "import sys; from resilient_mcp.schemas import CompiledSchemas; one = CompiledSchemas();"
        "assert 'jsonschema' not in sys.modules; one.validator('t', {}); assert 'jsonschema' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=18)


@pytest.mark.parametrize(
    ("schema", "value", "why"),
    [
        ({"type": "string"}, "x" * 1_100_000, "too large"),
        ({"type": "array"}, list(range(20_000)), "too large"),
        ({"type": "string", "pattern": "x" * 1_001}, "x", "too long"),
    ],
    ids=["a long string", "a long list", "a long pattern"],
)
def test_what_is_too_large_to_check_has_no_verdict(schema: dict[str, Any], value: Any, why: str):
    """The error says why; the value is passed on unchecked."""
    with pytest.raises(UncheckableError, match=why):
        CompiledSchemas().errors("t", schema, value)


def test_the_text_of_a_fault():
    """As jsonschema prints it, with the schema and the value; of a large value only the message, cut."""
    (small,) = CompiledSchemas().errors("t", NUMBER, {"n": "x"})
    with pytest.raises(jsonschema.ValidationError) as caught:
        jsonschema.validate({"n": "x"}, NUMBER)
    assert text_of(small) == str(caught.value)
    (large,) = CompiledSchemas().errors("t", {"type": "string"}, list(range(600)))
    assert text_of(large) == large.message[:1000]
