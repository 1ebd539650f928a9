"""The default answers of a scripted server. Run as a program, this module is a scripted stdio server.

`python _protocol.py SCRIPT JOURNAL` uses only the standard library, so it starts fast. SCRIPT is a JSON file of
replies, read again for each message; each incoming message is logged to JOURNAL, from which a replacement process
learns how much of the script has been played. The process exits when stdin closes, or a minute later if it is stubborn
or frozen.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

LATEST_SESSION_VERSION = "2025-11-25"
MODERN_VERSION = "2026-07-28"
THIS_ID = "$id"
"""Placeholder, anywhere in a message, for the id of the request being answered."""
NEXT_ID = "$next"
"""Placeholder for the id of the next request."""

TOOLS: tuple[Mapping[str, Any], ...] = (
    {
        "name": "echo",
        "description": "Gives back its text.",
        "inputSchema": {"type": "object"},
        "annotations": {"readOnlyHint": True},
    },
    {"name": "order", "description": "Must not run twice.", "inputSchema": {"type": "object"}},
)
"""The default tools of a scripted server: one that is repeatable and one that is not."""

START = "start"
"""Used in place of a method for what a process does before it reads anything."""
HALF = -1
"""Value of `sent` for a message that is cut in the middle: half of its bytes are sent."""

# Seconds until a process that notices neither SIGTERM nor the end of its stdin exits.
_LONGEST_LIFE = 60
_ORPHAN = "import time; time.sleep(20)"
_CAPABILITIES = {"tools": {}, "resources": {"subscribe": True}, "prompts": {}, "logging": {}}
_INFO = {"name": "scripted", "version": "1"}


def results(tools: Sequence[Mapping[str, Any]], *, modern: bool) -> dict[str, dict[str, Any]]:
    """The results that do not depend on the request, by method; that of "initialize" lacks the version."""
    found: dict[str, dict[str, Any]] = {
        "tools/list": {"tools": list(tools)},
        "resources/list": {"resources": [{"uri": "scripted://note", "name": "note"}]},
        "resources/templates/list": {"resourceTemplates": []},
        "resources/read": {"contents": [{"uri": "scripted://note", "text": "a note"}]},
        "prompts/list": {"prompts": []},
    }
    if modern:
        found["server/discover"] = {
            "supportedVersions": [MODERN_VERSION],
            "capabilities": _CAPABILITIES,
            "_meta": {"io.modelcontextprotocol/serverInfo": _INFO},
        }
        cacheable = {"ttlMs": 0, "cacheScope": "private", "resultType": "complete"}
        return {method: {**result, **cacheable} for method, result in found.items()}
    found["initialize"] = {"capabilities": _CAPABILITIES, "serverInfo": _INFO}
    found.update({m: {} for m in ("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe")})
    return found


def text_result(text: str, *, is_error: bool = False) -> dict[str, Any]:
    """A tool result with one text block."""
    return {"content": [{"type": "text", "text": text}], "isError": is_error, "resultType": "complete"}


def answer(
    method: str | None, params: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], ...]:
    """The messages with which a well-behaved server answers a request; the ids are placeholders."""
    if method == "tools/call":
        result: Mapping[str, Any] = text_result(str((params.get("arguments") or {}).get("text", "")))
    elif method == "initialize" and method in known:
        asked = str(params.get("protocolVersion"))
        result = {**known[method], "protocolVersion": min(asked, LATEST_SESSION_VERSION)}
    elif method == "subscriptions/listen" and "server/discover" in known:
        meta = {"io.modelcontextprotocol/subscriptionId": THIS_ID}
        accepted = {"notifications": params.get("notifications", {}), "_meta": meta}
        return ({"method": "notifications/subscriptions/acknowledged", "params": accepted},)
    elif method is not None and method in known:
        result = known[method]
    else:
        return ({"id": THIS_ID, "error": {"code": -32601, "message": "Method not found"}},)
    return ({"id": THIS_ID, "result": result},)


def addressed(messages: Sequence[Mapping[str, Any]], request_id: Any) -> list[dict[str, Any]]:
    """The messages with their placeholders filled in."""
    after = request_id + 1 if isinstance(request_id, int) else f"{request_id}+1"
    ids = {THIS_ID: request_id, NEXT_ID: after}
    return [{"jsonrpc": "2.0", **_filled(message, ids)} for message in messages]


def _filled(value: Any, ids: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(item, ids) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(item, ids) for item in value]
    return ids.get(value, value) if isinstance(value, str) else value


class _Process:
    """The scripted server of one process."""

    def __init__(self, script: Path, journal: Path) -> None:
        self._script = script
        self._journal = journal
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()
        if journal.exists():
            entries = map(json.loads, journal.read_text(encoding="utf-8").splitlines())
            self._taken.update(entry["message"]["method"] for entry in entries if entry["played"])

    def run(self) -> None:
        start = self._take({"method": START})
        if self._read_script()["stubborn"]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(start.get("delay", 0))
        self._perform(start, {})
        for line in sys.stdin.buffer:
            message = json.loads(line)
            reply = self._take(message)
            if reply.get("delay"):
                late = threading.Timer(reply["delay"], self._perform, [reply, message])
                late.daemon = True
                late.start()
            else:
                self._perform(reply, message)
        if self._read_script()["stubborn"]:
            _live_on()

    def _read_script(self) -> dict[str, Any]:
        return json.loads(self._script.read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    def _take(self, message: dict[str, Any]) -> dict[str, Any]:
        """Log a message and return the scripted reply to it; an empty one if the script has none left."""
        method = message.get("method", "response")
        n = self._taken[method]
        replies = self._read_script()["replies"].get(method, [])[n:]
        entry = {"pid": os.getpid(), "played": bool(replies), "message": message}
        with self._lock, self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._taken[method] += bool(replies)
        return replies[0] if replies else {}

    def _perform(self, reply: dict[str, Any], request: dict[str, Any]) -> None:
        messages = reply.get("messages")
        if messages is None:
            known = self._read_script()["known"]
            asked = "id" in request and "method" in request
            messages = answer(request["method"], request.get("params") or {}, known) if asked else ()
        lines = [json.dumps(message) + "\n" for message in addressed(messages, request.get("id"))]
        data = "".join(lines).encode()
        sent = len(data) // 2 if reply.get("sent") == HALF else reply.get("sent")
        with self._lock:
            for _ in range(reply.get("stderr", 0) // 100):
                sys.stderr.write("e" * 99 + "\n")
            sys.stderr.flush()
            sys.stdout.buffer.write(reply.get("before", "").encode("latin-1") + data[:sent])
            sys.stdout.buffer.flush()
            then = reply.get("then")
            if then == "freeze":
                _live_on()
            if then == "mute":
                os.dup2(
                    os.open(os.devnull, os.O_WRONLY), 1
                )  # the client sees stdout closed; later writes are discarded
            if then == "orphan":
                subprocess.Popen([sys.executable, "-c", _ORPHAN])  # noqa: S603
            if reply.get("exit_code") is not None:
                _leave(reply["exit_code"])


def _live_on() -> NoReturn:
    time.sleep(_LONGEST_LIFE)
    os._exit(70)


def _leave(code: int) -> NoReturn:
    if code < 0 and sys.platform != "win32":
        os.kill(os.getpid(), -code)
        time.sleep(1)
    os._exit(abs(code))


if __name__ == "__main__":
    _Process(Path(sys.argv[1]), Path(sys.argv[2])).run()
