"""A stdio server in plain Python: it starts instantly, speaks up to 2025-11-25, and misbehaves on request.

`python -m tests.servers.raw_server [--die-at-start CODE] [--mute] [--no-listing] [--slow SECONDS] [--one-handshake]`
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

READ_ONLY = {"readOnlyHint": True}
TOOLS = [
    "echo", "pid", "big", "garbage", "prefixed", "bad_utf8", "exit", "die", "hang", "stderr", "say", "orphan_pipe",
    "eof", "env", "partial", "no_answer",
]  # fmt: skip


CLIENT: dict = {}


def write(message: dict) -> None:
    sys.stdout.buffer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    sys.stdout.buffer.flush()


def raw(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def answer(request_id: object, text: str) -> None:
    write({"id": request_id, "result": {"content": [{"type": "text", "text": text}]}})


def call(request_id: object, tool: str, arguments: dict) -> None:
    text = arguments.get("text", "")
    if tool == "echo":
        answer(request_id, text)
    elif tool == "pid":
        answer(request_id, str(os.getpid()))
    elif tool == "env":
        answer(request_id, os.environ.get(text, ""))
    elif tool == "big":
        body = json.dumps({"content": [{"type": "text", "text": "x" * arguments["size"]}]})
        if arguments.get("id_first", True):
            raw(b'{"jsonrpc":"2.0","id":%d,"result":%s}\n' % (request_id, body.encode()))
        else:
            raw(b'{"result":%s,"jsonrpc":"2.0","id":%d}\n' % (body.encode(), request_id))
    elif tool == "garbage":
        raw(b"Starting up...\n\n[1, 2]\n\x1b[31mred\x1b[0m\n" * arguments.get("times", 1))
        answer(request_id, text)
    elif tool == "prefixed":
        raw(b"progress: 50% ")
        answer(request_id, text)
    elif tool == "bad_utf8":
        raw(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"caf\xe9"}]}}\n' % request_id)
    elif tool == "partial":
        raw(b'{"jsonrpc":"2.0","id":%d,"result"' % request_id)
        os._exit(3)
    elif tool == "exit":
        sys.stderr.write("cannot go on: the disk is full\n")
        sys.stderr.flush()
        os._exit(arguments["code"])
    elif tool == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif tool == "hang":
        time.sleep(arguments.get("seconds", 3600))
        answer(request_id, "awake")
    elif tool == "stderr":
        for _ in range(arguments["kilobytes"]):
            sys.stderr.write("y" * 1023 + "\n")
        sys.stderr.write("the last line\n")
        sys.stderr.flush()
        answer(request_id, "written")
    elif tool == "say":
        sys.stderr.write(text)
        sys.stderr.flush()
        answer(request_id, "said")
    elif tool == "orphan_pipe":  # a child keeps stdout open after this process has exited
        subprocess.Popen(["sleep", "30"])
        answer(request_id, "about to die")
        os._exit(4)
    elif tool == "eof":  # stdout is closed, the process lives on
        os.close(1)
        time.sleep(3600)
    elif tool == "flood":  # writes the same text again and again, reads nothing meanwhile, and then answers
        data = arguments["unit"].encode() * (arguments["size"] // len(arguments["unit"]))
        if arguments.get("to") == "stderr":
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
        else:
            raw(data)
        raw(b"\n")
        answer(request_id, "survived")
    elif tool == "no_answer":
        pass
    elif tool == "who":  # the client's `initialize` parameters
        answer(request_id, json.dumps(CLIENT))
    elif tool == "result":  # a response written by the test
        write({"id": request_id, **arguments})
    elif tool == "send":  # sends messages written by the test, and answers with the response to the last one
        for message in arguments["messages"]:
            write(message)
        if "id" in message:
            answer(request_id, sys.stdin.buffer.readline().decode())
        else:
            answer(request_id, text)
    else:
        write({"id": request_id, "error": {"code": -32602, "message": f"Unknown tool: {tool}"}})


def main() -> None:
    if "--die-at-start" in sys.argv:
        sys.stderr.write(
            "no licence found for host \x1b[31mred\x1b[0m, token=" + os.environ.get("TOKEN", "none") + "\n"
        )
        sys.stderr.flush()
        os._exit(int(sys.argv[sys.argv.index("--die-at-start") + 1]))
    if "--mute" in sys.argv:
        time.sleep(3600)
    if "--slow" in sys.argv:
        time.sleep(float(sys.argv[sys.argv.index("--slow") + 1]))
    asked = False
    for line in sys.stdin.buffer:
        message = json.loads(line)
        method, request_id = message.get("method"), message.get("id")
        params = message.get("params", {})
        asked = asked or method == "server/discover"
        if method == "initialize" and asked and "--one-handshake" in sys.argv:
            write({"id": request_id, "error": {"code": -32000, "message": "a second handshake"}})
        elif method == "initialize":
            CLIENT.update(params)
            version = params["protocolVersion"]
            if "--old-protocol" in sys.argv:
                version = "1999-01-01"
            info = {"name": "raw", "version": "1"}
            if "--die-after-handshake" in sys.argv:
                write(
                    {"id": request_id, "result": {"protocolVersion": version, "capabilities": {}, "serverInfo": info}}
                )
                os._exit(9)
            capabilities = {
                "tools": {},
                "resources": {"subscribe": True},
                "prompts": {},
                "completions": {},
                "logging": {},
            }
            result = {
                "protocolVersion": version,
                "capabilities": capabilities,
                "serverInfo": info,
                "instructions": "hi",
            }
            write({"id": request_id, "result": result})
        elif method == "tools/list" and "--no-listing" in sys.argv:
            write({"id": request_id, "error": {"code": -32602, "message": "no listing today"}})
        elif method == "tools/list":
            schema = {"type": "object"}
            tools = [{"name": name, "inputSchema": schema, "annotations": READ_ONLY} for name in TOOLS]
            write({"id": request_id, "result": {"tools": [*tools, {"name": "unsafe", "inputSchema": schema}]}})
        elif method == "tools/call":
            name, arguments = params["name"], params.get("arguments") or {}
            if name == "unsafe":
                name = arguments.pop("do")
            call(request_id, name, arguments)
        elif method == "resources/list":
            write({"id": request_id, "result": {"resources": [{"uri": "raw://a", "name": "a"}]}})
        elif method == "resources/templates/list":
            template = {"uriTemplate": "raw://{x}", "name": "t"}
            write({"id": request_id, "result": {"resourceTemplates": [template]}})
        elif method == "resources/read":
            write({"id": request_id, "result": {"contents": [{"uri": params["uri"], "text": "read"}]}})
        elif method == "prompts/list":
            write({"id": request_id, "result": {"prompts": [{"name": "p"}]}})
        elif method == "prompts/get":
            content = {"type": "text", "text": params["name"]}
            write({"id": request_id, "result": {"messages": [{"role": "user", "content": content}]}})
        elif method == "completion/complete":
            write({"id": request_id, "result": {"completion": {"values": ["done"]}}})
        elif method in ("ping", "resources/subscribe", "resources/unsubscribe", "logging/setLevel"):
            write({"id": request_id, "result": {}})
        elif method == "notifications/cancelled" and "--journal" in sys.argv:
            with open(sys.argv[sys.argv.index("--journal") + 1], "a") as file:
                file.write(line.decode())
        elif request_id is not None and method is not None:
            write({"id": request_id, "error": {"code": -32601, "message": "Method not found"}})


if __name__ == "__main__":
    main()
