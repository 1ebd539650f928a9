"""The HTTP client that is made for a server if the user passes none."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any
from urllib.request import getproxies

import anyio

from ..._sdk.installed import http
from .network import JoiningBackend
from .one_origin import IDLE, OneOrigin


class OwnClient(http.AsyncClient):  # type: ignore[misc]
    """The client that is made here; nobody else changes its headers."""

    def build_from_all_headers(self, method: str, url: Any, headers: Any, content: bytes | None) -> Any:
        """Build a request whose headers include those of the client: merging them for each costs a tenth of a call."""
        timeouts = {"timeout": self.timeout.as_dict()}
        return http.Request(method, url, headers=headers, cookies=self.cookies, content=content, extensions=timeouts)


@asynccontextmanager
async def create_http_client(
    url: str, headers: Mapping[str, Any] | None, *, connect: float
) -> AsyncIterator[OwnClient]:
    """An HTTP client of the installed SDK's library, with no limit on concurrent calls and none on reading.

    TCP keep-alive detects dead connections: a stream on which only the server sends would otherwise hang forever. It is
    left out if the environment names a proxy, which the library finds only without a custom transport.

    Args:
        url: The server's URL.
        headers: Headers of every request, or None.
        connect: Seconds that connecting, and each write, may take.
    """
    timeout = http.Timeout(connect, read=None, pool=None)
    trusted = _trust(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    limits = http.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=IDLE)
    options: dict[str, Any] = {"limits": limits, "verify": trusted}
    async with anyio.create_task_group() as background:
        if not {"http", "https", "all"} & getproxies().keys():
            transport = http.AsyncHTTPTransport(**options, socket_options=KEEPALIVE)
            transport._pool = OneOrigin(  # noqa: SLF001 - there is no other way to give its transport a pool
                url,
                transport._pool,  # noqa: SLF001
                background,
                ssl_context=trusted,
                socket_options=KEEPALIVE,
                network_backend=JoiningBackend(),
            )
            options = {"transport": transport}
        async with OwnClient(headers=dict(headers or {}), timeout=timeout, **options) as client:
            yield client


def _keepalive() -> list[tuple[int, int, int]]:
    wanted = {
        "TCP_KEEPIDLE": 30,  # seconds of silence before the first probe
        "TCP_KEEPALIVE": 30,  # the same on macOS
        "TCP_KEEPINTVL": 10,
        "TCP_KEEPCNT": 3,
    }
    known = {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *((socket.IPPROTO_TCP, *option) for option in known.items())]


KEEPALIVE = _keepalive()
"""Socket options with which the operating system detects a silent disconnect within a minute.

The probes also keep routers from dropping an idle connection.
"""


@lru_cache(maxsize=8)
def _trust(*_where: str | None) -> Any:
    """The HTTP library's default TLS context, cached by the environment variables that it reads.

    Shared by all clients: a context of its own would cost each of them 800 KiB and 25 ms.
    """
    return http.create_ssl_context()
