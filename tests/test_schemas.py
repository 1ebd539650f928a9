"""JSON Schemas of tools: compiled once, replaced with the tool, never fetched, and bounded in number."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest

from resilient_mcp import schemas
from resilient_mcp.schemas import CompiledSchemas

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


def test_a_client_that_checks_nothing_does_not_import_jsonschema():
    """It takes 30 ms to import, so that happens with the first schema."""
    code = (
        "import sys; from resilient_mcp.schemas import CompiledSchemas; one = CompiledSchemas();"
        "assert 'jsonschema' not in sys.modules; one.validator('t', {}); assert 'jsonschema' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=18)
