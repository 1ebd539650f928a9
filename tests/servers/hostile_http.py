"""A server over Streamable HTTP that floods its client: `PORT=... python -m tests.servers.hostile_http`.

Tools: `echo`; `flood` sends the same bytes again and again in the stream of its answer, and then the answer; `error`
answers with an error of 5 MB; the others have hostile schemas.
"""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .lifeline import die_with_the_test

DEPTH = 24
TWICE = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(DEPTH)}
SCHEMAS: dict[str, dict[str, Any]] = {
    "doubling": {"$defs": {**TWICE, f"d{DEPTH}": {}}, "allOf": [{"$ref": "#/$defs/d0"}]},
    "wide": {"properties": {f"p{n}": {"anyOf": [{"type": "string"}, {"type": "integer"}]} for n in range(20_000)}},
    "backtracking": {"properties": {"x": {"pattern": "^(a+)+$"}}},
}
TOOLS: list[dict[str, Any]] = [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "flood", "error")]
TOOLS += [
    {"name": name, "inputSchema": {"type": "object"}, "outputSchema": {**schema, "type": "object"}}
    for name, schema in SCHEMAS.items()
]
TOOLS += [{"name": f"{name}_in", "inputSchema": {**schema, "type": "object"}} for name, schema in SCHEMAS.items()]
ERROR = {"code": -32602, "message": "m", "data": ["://a?a=b&c=d& token: a " * 22] * 9900}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Write nothing."""

    def do_GET(self) -> None:
        self._send(405, b"")

    def do_DELETE(self) -> None:
        self._send(200, b"")

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        method, params = message.get("method"), message.get("params") or {}
        if "id" not in message or method is None:
            self._send(202, b"")
        elif method == "tools/call" and params["name"] == "flood":
            self._flood(message["id"], **params["arguments"])
        else:
            answer = {"jsonrpc": "2.0", "id": message["id"], **self._answer(method, params)}
            self._send(200, json.dumps(answer).encode())

    def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "initialize":
            info = {"name": "hostile", "version": "1"}
            version = params["protocolVersion"]
            return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}}
        if method == "tools/list":
            return {"result": {"tools": TOOLS}}
        if method == "ping":
            return {"result": {}}
        if method != "tools/call":
            return {"error": {"code": -32601, "message": "Method not found"}}
        if params["name"] == "error":
            return {"error": ERROR}
        content = [{"type": "text", "text": "survived"}]
        structured = {"structuredContent": {"x": "a" * 50_000 + "!"}} if params["name"] in SCHEMAS else {}
        return {"result": {"content": content, **structured}}

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _flood(self, request_id: object, unit: str, size: int, chunk: int = 65_536) -> None:
        """Send `size` bytes of `unit` in chunks of about this many bytes."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        body = unit.encode() * max(1, chunk // len(unit))
        framed = b"%x\r\n%s\r\n" % (len(body), body)
        self.wfile.write(framed * max(1, size // len(body)))
        result = {"content": [{"type": "text", "text": "survived"}]}
        answer = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()
        last = b"\n\ndata: %s\n\n" % answer
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(last), last))


def main() -> None:
    die_with_the_test()
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
