"""A stdio server that lists the tools of a file, two per page, and refuses every call except of an unlisted tool.

`python -m tests.servers.listing_server [FILE] [--unknown {-32601,-32602,result}]`; FILE is a JSON list of tools, and
without one the server declares no tools.
"""

from __future__ import annotations

import argparse
import json
import sys

PAGE = 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?")
    parser.add_argument("--unknown", default="-32602")
    options = parser.parse_args()
    tools = []
    if options.file:
        with open(options.file) as file:
            tools = json.load(file)
    for line in sys.stdin.buffer:
        message = json.loads(line)
        method, params = message.get("method"), message.get("params", {})
        reply: dict = {"error": {"code": -32601, "message": "Method not found"}}
        if method == "initialize":
            capabilities = {"tools": {}} if options.file else {}
            info = {"name": "listing", "version": "1"}
            version = params["protocolVersion"]
            reply = {"result": {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}}
        elif method == "tools/list":
            begin = int(params.get("cursor", "0"))
            page = tools[begin : begin + PAGE] if isinstance(tools, list) else tools
            more = {"nextCursor": str(begin + PAGE)} if begin + PAGE < len(tools) else {}
            reply = {"result": {"tools": page, **more}}
        elif method == "tools/call" and params["name"] == "hidden":
            reply = {"result": {"content": [{"type": "text", "text": "found"}]}}
        elif method == "tools/call":
            text = f"Unknown tool: {params['name']}"
            reply = {"error": {"code": -32602, "message": text}}
            if options.unknown == "result":
                reply = {"result": {"content": [{"type": "text", "text": text}], "isError": True}}
            else:
                reply["error"]["code"] = int(options.unknown)
        if "id" in message:
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **reply}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
