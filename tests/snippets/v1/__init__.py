"""Snippets for mcp 1.x: a `ClientSession` over a transport's streams, which the snippet initializes itself."""

from __future__ import annotations

from . import callbacks, group, prompts, resources, session, tasks, tools, transports

__all__ = ["callbacks", "group", "prompts", "resources", "session", "tasks", "tools", "transports"]
