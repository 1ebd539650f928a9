"""Requests are data: they are compared, shown, stored and used as keys, and say what they ask for.

How each is sent is proven by the tests of the client's methods, `test_client.py` and `test_dropin.py`.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest
from mcp import types
from pydantic import AnyUrl

from resilient_mcp._sdk import requests
from resilient_mcp._sdk.installed import MAJOR
from resilient_mcp._sdk.requests import (
    PING,
    CallTool,
    GetPrompt,
    JsonNotification,
    JsonRequest,
    ListPage,
    ReadResource,
    SdkNotification,
    SdkRequest,
    SessionMethod,
    SetSubscribed,
    SignOfLife,
)

PAGE = types.PaginatedRequestParams(cursor="2")


def sdk(kind: str, model: Any) -> Any:
    """A request or notification in the SDK's types: 1.x wraps it in the union of all."""
    return getattr(types, kind)(model) if MAJOR == 1 else model


def calls(tool: str, **arguments: Any) -> Any:
    params = types.CallToolRequestParams(name=tool, arguments=arguments)
    return sdk("ClientRequest", types.CallToolRequest(method="tools/call", params=params))


def prompts(name: str) -> Any:
    params = types.GetPromptRequestParams(name=name)
    return sdk("ClientRequest", types.GetPromptRequest(method="prompts/get", params=params))


def pings() -> Any:
    return sdk("ClientRequest", types.PingRequest(method="ping"))


def roots_changed() -> Any:
    kind = types.RootsListChangedNotification
    return sdk("ClientNotification", kind(method="notifications/roots/list_changed"))


# Each kind of request, and what it says that it asks for: (request, method, target, arguments).
ALL: list[tuple[Any, str, str | None, Any]] = [
    (CallTool("search"), "tools/call", "search", None),
    (CallTool("search", {"q": "x"}, {"meta": {"a": 1}}), "tools/call", "search", {"q": "x"}),
    (ListPage("list_tools"), "tools/list", None, None),
    (ListPage("list_resources", cursor="2"), "resources/list", None, None),
    (ListPage("list_resource_templates", params=PAGE), "resources/templates/list", None, None),
    (ListPage("list_prompts", options={"cache_mode": "refresh"}), "prompts/list", None, None),
    (ReadResource("note://a"), "resources/read", "note://a", None),
    (ReadResource(AnyUrl("note://a/"), {"meta": None}), "resources/read", "note://a/", None),
    (GetPrompt("greet"), "prompts/get", "greet", None),
    (GetPrompt("greet", {"name": "you"}), "prompts/get", "greet", None),
    (SetSubscribed("note://a", subscribed=True), "resources/subscribe", "note://a", None),
    (SetSubscribed(AnyUrl("note://a"), subscribed=False), "resources/unsubscribe", "note://a", None),
    (SessionMethod("logging/setLevel", "set_logging_level", ("debug",)), "logging/setLevel", None, None),
    (PING, "ping", None, None),
    (SignOfLife(), "ping", None, None),
    (SdkRequest(calls("search", q="x"), types.CallToolResult), "tools/call", "search", None),
    (SdkRequest(prompts("greet"), types.GetPromptResult), "prompts/get", None, None),
    (SdkRequest(pings(), types.EmptyResult, metadata={"a": 1}), "ping", None, None),
    (SdkNotification(roots_changed()), "notifications/roots/list_changed", None, None),
    (JsonRequest("ping"), "ping", None, None),
    (JsonRequest("tools/call", {"name": "search", "arguments": {"q": "x"}}), "tools/call", "search", {"q": "x"}),
    (JsonRequest("prompts/get", {"name": "greet"}), "prompts/get", "greet", None),
    (JsonRequest("resources/read", {"uri": "note://a"}), "resources/read", "note://a", None),
    (JsonRequest("tasks/get", {"name": "x", "uri": "y"}), "tasks/get", None, None),
    (JsonRequest("tools/call", {"name": ["no", "text"]}), "tools/call", None, None),
    (JsonNotification("notifications/initialized"), "notifications/initialized", None, None),
    (JsonNotification("notifications/progress", {"progress": 1}), "notifications/progress", None, None),
]


def each(*, hashable: bool | None = None) -> pytest.MarkDecorator:
    """Run a test with each request, or with those whose content is hashable or not."""
    rows = [request for request, *_ in ALL if hashable is None or is_hashable(request) is hashable]
    return pytest.mark.parametrize("request_", rows, ids=[f"{type(row).__name__}-{row.method}" for row in rows])


def is_hashable(request: Any) -> bool:
    """Whether each value in it is, apart from its options."""
    contents = [getattr(request, each.name) for each in dataclasses.fields(request) if each.name != "options"]
    return not any(isinstance(content, dict) or hasattr(content, "model_dump") for content in contents)


def changed(request: Any) -> list[Any]:
    """Copies of `request` that differ from it in one field each."""
    return [
        dataclasses.replace(request, **{each.name: f"not {getattr(request, each.name)}"})
        for each in dataclasses.fields(request)
    ]


def test_every_kind_is_here():
    """The table has each class of the module that can be performed."""
    performed = {kind for _, kind in inspect.getmembers(requests, inspect.isclass) if hasattr(kind, "perform")}
    assert performed - {requests.Request} == {type(request) for request, *_ in ALL}


@pytest.mark.parametrize(("request_", "method", "target", "arguments"), ALL)
def test_what_is_asked_for(request_: Any, method: str, target: str | None, arguments: Any):
    """The JSON-RPC method, the tool, prompt or resource, and a tool's arguments."""
    assert (request_.method, request_.target, request_.arguments) == (method, target, arguments)


@each()
def test_equal_when_their_content_is(request_: Any):
    """An independent copy is equal to a request; a copy that differs in one field is not."""
    assert request_ == copy.deepcopy(request_)
    for other in changed(request_):
        assert request_ != other


def test_all_of_them_differ():
    """No two of the requests in the table are equal: not even those that ask for the same in another form."""
    for one, (request_, *_) in enumerate(ALL):
        assert [n for n, (other, *_) in enumerate(ALL) if request_ == other] == [one]


@each()
def test_they_cannot_be_changed(request_: Any):
    """A request that is retried is the one that was made: no field can be assigned."""
    for each_ in dataclasses.fields(request_):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(request_, each_.name, None)


@each()
def test_they_can_be_stored(request_: Any):
    """A pickled request comes back equal, with the same method, target and arguments."""
    back = pickle.loads(pickle.dumps(request_))
    assert back == request_
    assert (back.method, back.target, back.arguments) == (request_.method, request_.target, request_.arguments)


@each()
def test_they_can_be_read(request_: Any):
    """`repr` shows the kind of request and every field with its value."""
    shown = repr(request_)
    assert shown.startswith(f"{type(request_).__name__}(")
    for each_ in dataclasses.fields(request_):
        assert f"{each_.name}={getattr(request_, each_.name)!r}" in shown


def test_a_repr_is_the_code_that_makes_the_request():
    """Where all content is plain, the `repr` of a request evaluates to an equal one."""
    assert repr(CallTool("search", {"q": "x"})) == "CallTool(target='search', arguments={'q': 'x'}, options={})"
    assert repr(JsonRequest("ping")) == "JsonRequest(method='ping', params=None)"
    plain = [
        request for request, *_ in ALL if not any(hasattr(value, "model_dump") for value in vars(request).values())
    ]
    assert len(plain) > 15
    for request in plain:
        assert eval(repr(request), {**vars(requests), "AnyUrl": AnyUrl}) == request


@each(hashable=True)
def test_keys_of_a_dict(request_: Any):
    """A request with hashable content finds what was kept under an equal one."""
    kept = {request_: "answer"}
    assert kept[copy.deepcopy(request_)] == "answer"
    assert not any(other in kept for other in changed(request_))


@each(hashable=False)
def test_mutable_content_has_no_hash(request_: Any):
    """A hash by identity would never find an equal request, so there is none."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(request_)


def test_options_are_compared_but_not_hashed():
    """They are a dict, empty for most requests, and must not keep the others from being keys."""
    plain, special = ReadResource("note://a"), ReadResource("note://a", {"cache_mode": "refresh"})
    assert plain != special
    assert {plain: 1, special: 2} == {
        ReadResource("note://a", {"cache_mode": "refresh"}): 2,
        ReadResource("note://a"): 1,
    }
