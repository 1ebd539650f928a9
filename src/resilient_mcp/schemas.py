"""JSON Schemas of tools, compiled once and used for many values.

A server chooses the schema, so checking a value has a limit: 1 KB of `$ref`s can take minutes, and so can a `pattern`
that backtracks. Beyond the limit there is no verdict. Patterns are matched in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from .bounded import LruDict

if TYPE_CHECKING:
    from jsonschema import ValidationError as Fault
    from jsonschema.protocols import Validator

# Schemas kept compiled; a server may list any number of tools.
_KEPT = 1024
# Work that one check may take, of about 0.5 µs a unit: together 20 ms, which checks some 2,000 values.
_WORK = 40_000
# Units for one keyword; those that it takes more for a reference; and for one by name, for each value of the schema.
_KEYWORD, _REFERENCE, _NAMED = 8, 100, 12
# Values and characters of the largest value, and of the largest schema: each fault quotes what it is about.
_MAX_VALUES, _MAX_CHARACTERS = 10_000, 1024 * 1024
# Values of the largest schema and value that an error shows, and characters of its message if it shows none.
_SHOWN_VALUES, _LONGEST_MESSAGE = 500, 1000
# Characters of a quote that count as one unit.
_QUOTED = 32


class UncheckableError(Exception):
    """A schema cannot be used, or a check would take too long."""


class CompiledSchemas:
    """The compiled schemas of a server's tools, by tool. Remote references are never fetched."""

    def __init__(self) -> None:
        self._compiled: LruDict[str, tuple[Any, Validator, int]] = LruDict(_KEPT)
        self._unusable: LruDict[str, tuple[Any, str]] = LruDict(_KEPT)

    def errors(self, tool: str, schema: Any, value: Any, limit: int | None = None) -> list[Fault]:
        """The faults of a value, at most `limit`; it takes about 50 ms at most.

        Raises:
            Exception: The schema cannot be used, or the check takes too long: nothing is known about the value.
        """
        validator, size = self._of(tool, schema)
        _measure(value)
        with _limited(_WORK, size):
            return list(islice(validator.iter_errors(value), limit))

    def validator(self, tool: str, schema: Any) -> Validator:
        """The validator of a tool's schema, compiled unless it was compiled before.

        Raises:
            Exception: The schema cannot be used.
        """
        return self._of(tool, schema)[0]

    def _of(self, tool: str, schema: Any) -> tuple[Validator, int]:
        """The validator, and the number of values in its schema."""
        compiled = self._compiled.get(tool)
        if compiled is None or compiled[0] is not schema:
            unusable = self._unusable.get(tool)
            if unusable is not None and unusable[0] is schema:
                raise UncheckableError(unusable[1])
            try:
                compiled = schema, *_compile(schema)
            except Exception as exc:
                self._unusable[tool] = schema, str(exc)
                raise
            self._compiled[tool] = compiled
        return compiled[1:]


def _compile(schema: Any) -> tuple[Validator, int]:
    # Imported when a schema is first used: it takes 30 ms, and most clients never check one.
    from jsonschema.validators import validator_for  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415

    size, keys = _measure(schema)
    if {"patternProperties", "unevaluatedProperties"} <= keys:  # jsonschema would match the patterns itself
        raise UncheckableError("it has both patternProperties and unevaluatedProperties")
    kind = validator_for(schema)  # 2020-12 unless it names another, by the specification
    meta = kind.META_SCHEMA
    # A schema of more than some 50 properties takes too long to check. Then `_counted` finds what would mislead.
    with suppress(UncheckableError), _limited(_WORK // 2):
        for fault in _counting(validator_for(meta, default=kind))(meta).iter_errors(schema):
            raise fault
    return _counting(kind)(schema, registry=Registry()), size


def text_of(fault: Fault) -> str:
    """A fault as jsonschema prints it, with the schema and the value; of large ones, which take long, its message."""
    try:
        for shown in (fault.schema, fault.instance):
            _measure(shown, _SHOWN_VALUES)
    except UncheckableError:
        return str(fault.message)[:_LONGEST_MESSAGE]
    return str(fault)


# --- the limit ---

# The units that are left, and the number of values in the schema.
_left: ContextVar[list[int] | None] = ContextVar("resilient_mcp_schema_work", default=None)


@contextmanager
def _limited(work: int, size: int = 0) -> Iterator[None]:
    """Limit the work of the checks inside to `work` units, with a schema of `size` values."""
    token = _left.set([work, size])
    try:
        yield
    finally:
        _left.reset(token)


def _spend(units: int) -> None:
    """Count some work.

    Raises:
        UncheckableError: It was too much.
    """
    if (left := _left.get()) is not None:
        left[0] -= units
        if left[0] < 0:
            raise UncheckableError("it takes too long to check")


def _spend_on_reference(value: Any) -> None:
    """Count the search for what a reference refers to: by name, the whole schema is searched."""
    if (left := _left.get()) is not None and isinstance(value, str) and value != "#" and not value.startswith("#/"):
        _spend(_NAMED * left[1])


def _measure(value: Any, values: int = _MAX_VALUES) -> tuple[int, set[str]]:
    """The number of values in a value, and the keys of all objects in it; it may have at most `values`.

    Raises:
        UncheckableError: It is too large.
    """
    most, characters = values, _MAX_CHARACTERS
    keys: set[str] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        values -= 1
        if isinstance(one, str):
            characters -= len(one)
        elif isinstance(one, dict | list):
            if len(one) > values:
                raise UncheckableError("it is too large to check")
            todo.extend(one.values() if isinstance(one, dict) else one)
            if isinstance(one, dict):
                keys.update(one)
                characters -= sum(map(len, filter(_is_text, one)))
        if values < 0 or characters < 0:
            raise UncheckableError("it is too large to check")
    return most - values, keys


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# --- keywords ---

_Keyword: TypeAlias = Callable[[Any, Any, Any, Any], Iterable[Any] | None]


@lru_cache(maxsize=16)
def _counting(kind: Any) -> Any:
    """A class of validators like `kind` that count their work and match patterns in linear time."""
    from jsonschema.validators import extend  # noqa: PLC0415

    keywords: Mapping[str, _Keyword] = kind.VALIDATORS
    own: dict[str, _Keyword] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": partial(_additional_properties, keywords["additionalProperties"]),
    }
    counted = {name: _counted(name, own.get(name, keyword)) for name, keyword in keywords.items()}
    made = extend(kind, counted)
    evolve = made.evolve

    def evolve_counting(self: Any, **changes: Any) -> Any:
        """A schema inside that names its dialect would get that dialect's own class, which does not count."""
        schema = changes.get("schema", self.schema)
        if isinstance(schema, dict) and "$schema" in schema:
            _spend(len(schema))
            changes["schema"] = {key: value for key, value in schema.items() if key != "$schema"}
        return evolve(self, **changes)

    made.evolve = evolve_counting
    return made


# Keywords with values that would be read as something else if they were of another type, and that type.
_KINDS = dict.fromkeys(("required", "enum", "allOf", "anyOf", "oneOf", "prefixItems"), list)
# Units for each value with which another one is compared.
_COMPARISON = 3


def _counted(name: str, keyword: _Keyword) -> _Keyword:
    is_reference = name.endswith(("Ref", "ref"))
    base = _KEYWORD + (_REFERENCE if is_reference else 0)

    kind = _KINDS.get(name, object)

    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not isinstance(value, kind):
            raise UncheckableError(f"its {name} is {type(value).__name__}")
        size = len(instance) if isinstance(instance, list | dict) else 0
        _spend(base + size + (len(value) if isinstance(value, list | dict) else 0))
        if is_reference:
            _spend_on_reference(value)
        elif name in {"enum", "const"}:
            _spend(_COMPARISON * _measure(value)[0])
        elif name == "uniqueItems" and isinstance(instance, list) and not all(map(_is_simple, instance)):
            _spend(size * size)  # jsonschema compares each with each
        for fault in keyword(validator, value, instance, schema) or ():
            _spend(_KEYWORD + len(fault.message) // _QUOTED)
            yield fault

    return check


def _is_simple(value: object) -> bool:
    return isinstance(value, str | int | float)


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Fault]:  # noqa: ARG001
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield _fault(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any,
    patterns: dict[str, Any],
    instance: Any,
    schema: Any,  # noqa: ARG001
) -> Iterator[Fault]:
    if validator.is_type(instance, "object"):
        for pattern, inner in patterns.items():
            for name, value in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _additional_properties(
    original: _Keyword, validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterator[Fault]:
    patterns = schema.get("patternProperties", {})
    if not patterns or not validator.is_type(instance, "object"):
        yield from original(validator, allowed, instance, schema) or ()
        return
    named = schema.get("properties", {})
    extra = [name for name in instance if name not in named and not any(_matches(one, name) for one in patterns)]
    if validator.is_type(allowed, "object"):
        for name in extra:
            yield from validator.descend(instance[name], allowed, path=name)
    elif not allowed and extra:
        yield _fault(f"{', '.join(map(repr, extra))} do not match any of the regexes: {', '.join(map(repr, patterns))}")


def _fault(text: str) -> Fault:
    from jsonschema import ValidationError as Fault  # noqa: PLC0415

    return Fault(text)


# --- patterns ---

# The classes of characters in Unicode take longer to compile than a character.
_CLASS, _CLASS_COSTS = re.compile(r"\\[wWdDsSpP]"), 20
_REPEATED = re.compile(r"(.?)\{(\d{0,4}),?(\d{0,4})\}")
# What a compilation may cost, and the units of work for that: together 20 ms.
_MAX_PATTERN, _UNITS_PER_PATTERN = 800, 40
# Characters of the longest pattern.
_LONGEST_PATTERN = 1_000
# Where `re` may go back and try again.
_CHOICES = re.compile(r"[*+{|]|(?<!\()\?")
_REPEATED_GROUP = re.compile(r"\)[*+{]")
# Characters of the longest text for which a pattern with one such place is tried: that may take quadratic time.
_LONGEST_TEXT = 2_000


def _matches(pattern: str, text: str) -> bool:
    """Whether `pattern` matches somewhere in `text`.

    Raises:
        UncheckableError: That cannot be found out in a short time.
    """
    _spend(_KEYWORD + len(text) // _QUOTED)
    compiled = _compiled(pattern)
    if isinstance(compiled, re.Pattern):
        if len(text) > _LONGEST_TEXT:
            raise UncheckableError("it has a pattern that takes too long")
        return compiled.search(text) is not None
    try:
        compiled.validate_python(text)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=32)  # a compiled pattern may take megabytes
def _compiled(pattern: str) -> SchemaValidator | re.Pattern[str]:
    """A pattern, compiled by pydantic's engine, which takes linear time.

    That engine lacks lookarounds and some escapes, and is slow to compile large classes repeated many times. Such a
    pattern is compiled by `re` if it cannot backtrack much.
    """
    if len(pattern) > _LONGEST_PATTERN:
        raise UncheckableError("it has a pattern that is too long")
    if (cost := _cost(pattern)) <= _MAX_PATTERN:
        _spend(_UNITS_PER_PATTERN * cost)
        with suppress(SchemaError):
            return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    if len(_CHOICES.findall(pattern)) > 1 or _REPEATED_GROUP.search(pattern):
        raise UncheckableError("it has a pattern that may take exponential time")
    return re.compile(pattern)


def _cost(pattern: str) -> int:
    """What it takes to compile a pattern: every repetition is written out, that of a group with all that is in it."""
    outer = inner = 1
    for before, least, most in _REPEATED.findall(pattern):
        times = max(int(least or 0), int(most or 0), 1)
        outer *= times if before == ")" else 1
        inner += 0 if before == ")" else times
    return outer * (len(pattern) + inner + _CLASS_COSTS * len(_CLASS.findall(pattern)) * inner)
