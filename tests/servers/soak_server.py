"""A server for the soak: it counts like `counting_server`, and its resources change like those of `changing_server`.

`python -m tests.servers.soak_server raw|stdio|http|scripted [PORT] --journal FILE --seed N [--sse] [--sabotage KIND]`

`raw` is plain Python on stdin and stdout and starts instantly; `stdio` and `http` are servers of the installed SDK;
`scripted` refuses, cuts and resets over HTTP. All but `scripted` have resources `soak://...`, which the tool `change`
changes: a resource's text is its number of changes in the journal, so that it outlives the process. `held` returns
the current subscriptions. `--sabotage` breaks one promise, to check that this is detected.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from .counting_server import ONCE, RAW_FATES, Journal, RawServer, text_result, write
from .lifeline import die_with_the_test

# Delay of a slow answer, in seconds; longer than the limit of an attempt.
LATE = 17.0
STDIO_FATES = {name: share * 0.3 for name, share in RAW_FATES.items()}
SDK_FATES = {
    "busy": 0.02,
    "slow before": 0.003,
    "slow after": 0.003,
    "die before": 0.0015,
    "die after": 0.0015,
}


def fates_of(kind: str) -> dict[str, float]:
    """What may happen to a key on a server of this kind, and its probability."""
    if kind == "scripted":
        from .counting_http import HTTP_FATES

        return {name: share * 0.3 for name, share in HTTP_FATES.items()}
    return STDIO_FATES if kind == "raw" else SDK_FATES


# Execute some keys of `ONCE` twice; answer some with another text; refuse some; ignore subscriptions.
SABOTAGES = ("twice", "wrong", "lost", "deaf")
# Which tenth of the keys is affected.
_SPOILT = {"twice": 0, "wrong": 1, "lost": 2}


class Saboteur(Journal):
    """A journal that also knows the sabotages of its server."""

    def __init__(self, path: Path, sabotages: Collection[str]) -> None:
        super().__init__(path)
        self.sabotages = sabotages

    def spoils(self, key: str, sabotage: str) -> bool:
        return sabotage in self.sabotages and zlib.crc32(key.encode()) % 10 == _SPOILT[sabotage]

    def note(self, word: str, key: str) -> int:
        if word == "ran" and key.startswith(ONCE) and self.spoils(key, "twice"):
            super().note(word, key)
        return super().note(word, key)

    def version(self, uri: str) -> str:
        """How many times a resource was changed."""
        return str(self._seen[f"changed {uri}"])


class RawSoakServer(RawServer):
    """The soak's server in plain Python, up to 2025-11-25."""

    capabilities: ClassVar[dict[str, Any]] = {"tools": {}, "resources": {"subscribe": True}}
    tools: ClassVar[list[dict[str, Any]]] = [
        *RawServer.tools,
        *(
            {"name": name, "inputSchema": {"type": "object"}, "annotations": {"idempotentHint": True}}
            for name in ("change", "held")
        ),
    ]

    journal: Saboteur

    def __init__(self, journal: Saboteur, seed: int, fates: Mapping[str, float]) -> None:
        super().__init__(journal, seed, fates)
        self.subscribed: set[str] = set()

    def result(self, method: str, params: dict) -> dict | None:
        uri = params.get("uri", "")
        if method == "resources/read":
            return {"contents": [{"uri": uri, "text": self.journal.version(uri)}]}
        if method == "resources/subscribe":
            if "deaf" not in self.journal.sabotages:
                self.subscribed.add(uri)
            return {}
        if method == "resources/unsubscribe":
            self.subscribed.discard(uri)
            return {}
        if method == "tools/call" and params["name"] == "held":
            return text_result(" ".join(sorted(self.subscribed)))
        if method == "tools/call" and params["name"] == "change":
            uri = params["arguments"]["uri"]
            self.journal.note("changed", uri)
            if uri in self.subscribed:
                write({"method": "notifications/resources/updated", "params": {"uri": uri}})
            return text_result("changed")
        return super().result(method, params)

    def text(self, key: str) -> str:
        return "another answer" if self.journal.spoils(key, "wrong") else key

    def count(self, request_id: object, key: str) -> None:
        if self.journal.spoils(key, "lost"):
            self.journal.note("received", key)
            write({"id": request_id, "error": {"code": -32602, "message": "no such key"}})
        else:
            super().count(request_id, key)


async def scripted(journal: Saboteur, seed: int, port: int, *, sse: bool) -> None:
    """Serve until killed."""
    import anyio

    from .counting_http import CountingHttp

    fates = fates_of("scripted")
    async with CountingHttp(seed, journal, sse=sse, late=LATE, retry_after="1", fates=fates).serve(port):
        await anyio.sleep_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["raw", "stdio", "http", "scripted"])
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--sse", action="store_true")
    parser.add_argument("--sabotage", nargs="*", choices=SABOTAGES, default=())
    arguments = parser.parse_args()
    journal, seed = Saboteur(arguments.journal, arguments.sabotage), arguments.seed
    if arguments.kind == "raw":
        RawSoakServer(journal, seed, STDIO_FATES).run()
        return
    if arguments.kind == "stdio":
        journal.note("started", "")
        from .soak_sdk_server import build

        build(journal, seed).run("stdio")
        return
    die_with_the_test()
    journal.note("started", "")
    if arguments.kind == "scripted":
        import anyio

        anyio.run(lambda: scripted(journal, seed, arguments.port, sse=arguments.sse))
        return
    import uvicorn

    from .soak_sdk_server import build

    app = build(journal, seed).streamable_http_app()
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="critical", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
