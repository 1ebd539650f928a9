"""JSON Schemas of tools, compiled once and used for many values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .bounded import LruDict

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

# Schemas kept compiled; a server may list any number of tools.
_KEPT = 1024


class CompiledSchemas:
    """The compiled schemas of a server's tools, by tool. Remote references are never fetched."""

    def __init__(self) -> None:
        self._compiled: LruDict[str, tuple[Any, Validator]] = LruDict(_KEPT)

    def validator(self, tool: str, schema: Any) -> Validator:
        """The validator of a tool's schema, compiled unless it was compiled before.

        Raises:
            Exception: The schema cannot be used.
        """
        known, validator = self._compiled.get(tool) or (None, None)
        if validator is None or known is not schema:
            validator = _compile(schema)
            self._compiled[tool] = schema, validator
        return validator


def _compile(schema: Any) -> Validator:
    # Imported when a schema is first used: it takes 30 ms, and most clients never check one.
    from jsonschema.validators import validator_for  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415

    kind = validator_for(schema)  # 2020-12 unless it names another, by the specification
    kind.check_schema(schema)
    return kind(schema, registry=Registry())
