"""`client.session` of mcp 2.x: the client's own calls, with nothing resolved on the caller's behalf."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_mcp.session_view import SessionView

pytestmark = pytest.mark.anyio


class Recording:
    """A client whose methods return how they were called."""

    protocol_version = "2026-07-28"

    async def call_tool(self, *args: Any, **options: Any) -> Any:
        return "call_tool", args, options

    async def get_prompt(self, *args: Any, **options: Any) -> Any:
        return "get_prompt", args, options

    async def read_resource(self, *args: Any, **options: Any) -> Any:
        return "read_resource", args, options

    async def list_tools(self, **options: Any) -> Any:
        return "list_tools", (), options


@pytest.mark.parametrize(
    ("method", "args"),
    [("call_tool", ("echo", {"text": "x"})), ("get_prompt", ("ask", {"topic": "x"})), ("read_resource", ("note://a",))],
)
async def test_a_result_that_asks_for_input_has_to_be_allowed(method: str, args: tuple[Any, ...]):
    """The client is asked for the first result, whatever it is, and refuses one that the caller did not allow."""
    view = SessionView(Recording())
    assert await getattr(view, method)(*args) == (method, args, {"allow_input_required": False})
    allowed = await getattr(view, method)(*args, allow_input_required=True, meta={"a": 1})
    assert allowed == (method, args, {"allow_input_required": True, "meta": {"a": 1}})


async def test_everything_else_is_the_clients_own():
    """Other methods and properties are the client's, and unknown ones are unknown."""
    view = SessionView(Recording())
    assert await view.list_tools(cursor="2") == ("list_tools", (), {"cursor": "2"})
    assert view.protocol_version == "2026-07-28"
    with pytest.raises(AttributeError, match="no_such_method"):
        _ = view.no_such_method
