"""Results, lists, capabilities and change notifications, spelled the same on both majors of the SDK."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from mcp import types
from pydantic import AnyUrl, PrivateAttr

from .installed import MAJOR, _types


def implementation(value: Mapping[str, Any]) -> types.Implementation:
    """A client's or server's name and version, from JSON."""
    return types.Implementation.model_validate(value)


def error_result(text: str) -> types.CallToolResult:
    """A tool result that carries `text` for a model to read, with `isError` set."""
    content = types.TextContent(type="text", text=text)
    return types.CallToolResult.model_validate({"content": [content], "isError": True})


def with_text_before(result: types.CallToolResult, text: str) -> types.CallToolResult:
    """A copy of a tool result whose first content is `text`."""
    content = [types.TextContent(type="text", text=text), *result.content]
    return result.model_copy(update={"content": content})


# Only the installed spelling: a failed attribute lookup on a pydantic model costs 2 µs.
_IS_ERROR = "isError" if MAJOR == 1 else "is_error"


def is_error_result(result: object) -> bool:
    """Whether `result` is a tool result with `isError` set."""
    return bool(getattr(result, _IS_ERROR, False))


def structured_content(result: Any) -> Any:
    """The structured content of a tool result, or None."""
    return result.structuredContent if MAJOR == 1 else result.structured_content


def has_structured_content(result: Any) -> bool:
    """Whether a tool result has structured content; in 2.x that may be an explicit null."""
    return structured_content(result) is not None or (MAJOR != 1 and "structured_content" in result.model_fields_set)


LISTS = {
    "list_tools": "tools/list",
    "list_resources": "resources/list",
    "list_resource_templates": "resources/templates/list",
    "list_prompts": "prompts/list",
}
"""The SDK's list methods and their JSON-RPC methods."""


# Per list method: the key of the items on the wire, the server capability it requires, the result type.
_LISTED: dict[str, tuple[str, str, Any]] = {
    "list_tools": ("tools", "tools", types.ListToolsResult),
    "list_resources": ("resources", "resources", types.ListResourcesResult),
    "list_resource_templates": ("resourceTemplates", "resources", types.ListResourceTemplatesResult),
    "list_prompts": ("prompts", "prompts", types.ListPromptsResult),
}


def capability_of(method: str) -> str:
    """The server capability that a list method requires."""
    return _LISTED[method][1]


def items_of(method: str, page: Any) -> list[Any]:
    """The items of one page of a list."""
    key = _LISTED[method][0]
    return cast(
        "list[Any]", page.resource_templates if MAJOR != 1 and key == "resourceTemplates" else getattr(page, key)
    )


def list_result(method: str, items: list[Any], meta: Mapping[str, Any] | None) -> Any:
    """A list result with all `items` on one page."""
    key, _, kind = _LISTED[method]
    return kind.model_validate({key: items, "_meta": meta})


class ToolAnswer(types.CallToolResult):
    """A tool result that also keeps the JSON it was received as."""

    # `model_copy` copies private attributes, too. `_owner` is the id of the instance that `_json` belongs to, which
    # differs from the id of a copy.
    _json: dict[str, Any] = PrivateAttr(default_factory=dict)
    _owner: int = PrivateAttr(default=0)

    @classmethod
    def from_json(cls, answered: dict[str, Any]) -> ToolAnswer:
        """A result from its JSON; if that does not conform, `content` is empty and only the JSON has it all."""
        try:
            result = cls.model_validate(answered)
        except ValueError:
            result = cls.model_validate({"content": [], "isError": answered.get("isError") is True})
        result.keep(answered)
        return result

    def keep(self, answered: dict[str, Any]) -> None:
        """Remember the JSON it was received as."""
        self._json, self._owner = answered, id(self)

    def as_it_came(self) -> dict[str, Any]:
        """The JSON as received; for a copy, which may have been changed, its current JSON."""
        return self._json if self._owner == id(self) else dump(self)


def dump(model: Any) -> dict[str, Any]:
    """An SDK model as JSON, the way the SDK sends it."""
    return cast("dict[str, Any]", model.model_dump(by_alias=True, mode="json", exclude_none=True))


def as_json(result: Any) -> dict[str, Any]:
    """A result as JSON, unchanged if it was received as JSON."""
    if isinstance(result, dict):
        return result
    return result.as_it_came() if isinstance(result, ToolAnswer) else dump(result)


def wire_uri(uri: Any) -> str:
    """A URI as the installed SDK sends it: 1.x normalises it.

    Raises:
        ValueError: It is not a valid URI (1.x only).
    """
    return str(AnyUrl(str(uri))) if MAJOR == 1 else str(uri)


CHANGES = {
    "notifications/resources/updated": "resource",
    "notifications/tools/list_changed": "tools",
    "notifications/prompts/list_changed": "prompts",
    "notifications/resources/list_changed": "resource_list",
}
"""The notifications that report a change, and what changed."""


def change_in(message: Any) -> tuple[Any, str | None] | None:
    """The (kind, uri) of the change that a message for `message_handler` reports; None if it reports none."""
    body = getattr(message, "root", message)
    kind = CHANGES.get(getattr(body, "method", ""))
    if kind is None:
        return None
    return kind, str(body.params.uri) if kind == "resource" else None


def resource_updated(uri: str) -> Any:
    """A `notifications/resources/updated`, as `message_handler` receives it."""
    body = {"method": "notifications/resources/updated", "params": {"uri": uri}}
    if MAJOR == 1:
        return _types.ServerNotification.model_validate(body)
    return _types.ResourceUpdatedNotification.model_validate(body)


_EVENTS = {
    "ResourceUpdated": "resource",
    "ToolsListChanged": "tools",
    "PromptsListChanged": "prompts",
    "ResourcesListChanged": "resource_list",
}


def change_of_event(event: Any) -> tuple[Any, str | None]:
    """The (kind, uri) of an event of `listen()`."""
    return _EVENTS[type(event).__name__], getattr(event, "uri", None)


def event_of_change(kind: str, uri: str | None) -> Any:
    """The event of `listen()` that reports a change."""
    events = import_module("mcp.client.subscriptions")
    if kind == "resource":
        return events.ResourceUpdated(uri)
    name = next(name for name, reported in _EVENTS.items() if reported == kind)
    return getattr(events, name)()


def with_meta(result: Any, meta: Mapping[str, object]) -> Any:
    """A copy of a result with `meta` added to its `_meta`, keeping what the server put there."""
    return result.model_copy(update={"meta": {**(result.meta or {}), **meta}})


def declares(capabilities: Any, path: str) -> bool:
    """Whether a server declares a capability, such as `tools` or `resources.subscribe`."""
    value = capabilities
    for name in path.split("."):
        value = getattr(value, _CAPABILITY_FIELDS.get(name, name), None)
    return value is not None and value is not False


_CAPABILITY_FIELDS = {} if MAJOR == 1 else {"listChanged": "list_changed"}


def tool_hints(tool: Any) -> tuple[bool, bool]:
    """(readOnlyHint, idempotentHint) of a tool; both default to False, as in the specification."""
    hints = tool.annotations
    if hints is None:
        return False, False
    if MAJOR == 1:
        return bool(hints.readOnlyHint), bool(hints.idempotentHint)
    return bool(hints.read_only_hint), bool(hints.idempotent_hint)


def input_schema(tool: Any) -> Any:
    """The `inputSchema` of a tool."""
    return tool.inputSchema if MAJOR == 1 else tool.input_schema


REFRESH: Mapping[str, Any] = {} if MAJOR == 1 else {"cache_mode": "refresh"}
"""Options for a list that must come from the server, not from the SDK's cache."""


def next_cursor(page: Any) -> str | None:
    """The cursor of the next page of a list; None at the end."""
    return cast("str | None", page.nextCursor if MAJOR == 1 else page.next_cursor)
