"""Snippets for mcp 2.x, for `mcp.Client` as its documentation uses it."""

from __future__ import annotations

from . import (
    callbacks,
    client,
    extensions,
    input_required,
    prompts,
    resources,
    session,
    streams,
    subscriptions,
    tools,
    transports,
)

__all__ = [
    "callbacks",
    "client",
    "extensions",
    "input_required",
    "prompts",
    "resources",
    "session",
    "streams",
    "subscriptions",
    "tools",
    "transports",
]
