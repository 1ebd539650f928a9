"""Real gateways between a client and its servers: nginx and HAProxy, each on a free loopback port.

    async with nginx(server.port, location="proxy_read_timeout 1s;") as gateway:
        async with ResilientClient(gateway.url) as client:
            ...

A test gives the lines that matter in the product's own syntax; the rest of the configuration is here. The process
keeps its files in a temporary folder and ends with its test.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from .support import free_port


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin")


def _needs(program: str) -> pytest.MarkDecorator:
    """Skip a test where `program` is missing; in CI, let it fail."""
    missing = _find(program) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(missing, reason=f"needs {program}, which is not installed")


needs_nginx = _needs("nginx")
needs_haproxy = _needs("haproxy")


@dataclass(frozen=True)
class Middlebox:
    """A running gateway.

    Attributes:
        url: Where an MCP client connects.
        port: The port of `url`.
        process: The process in the foreground; nginx reloads its configuration on SIGHUP.
        folder: Holds its configuration (`config`) and its log (`log`).
    """

    url: str
    port: int
    process: subprocess.Popen[bytes]
    folder: Path


@asynccontextmanager
async def nginx(
    *upstreams: int | str,
    location: str = "",
    server: str = "",
    http: str = "",
    upstream: str = "",
    certificate: Path | None = None,
    http2: bool = False,
) -> AsyncIterator[Middlebox]:
    """Run nginx in front of `upstreams`.

    Args:
        upstreams: Loopback ports, each optionally with parameters of nginx's `server`: `"8001 backup"`.
        location: Lines for `location /`, which forwards to `upstreams`. One with `proxy_set_header` must set `Host`
            too: nginx then drops the one that is set here, and the SDK's servers refuse unknown hosts.
        server: Lines for `server`, such as `error_page` and more locations.
        http: Lines for `http`, such as `limit_req_zone`.
        upstream: Lines for `upstream`, such as `keepalive`.
        certificate: A PEM file with certificate and key: serve TLS.
        http2: Whether to offer HTTP/2 too; needs `certificate`.
    """
    port = free_port()
    servers = "".join(f"server 127.0.0.1:{address}; " for address in upstreams)
    tls = f"ssl_certificate {certificate}; ssl_certificate_key {certificate};" if certificate else ""
    user = f"user {pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name};" if os.getuid() == 0 else ""
    temporary = "".join(f"{kind}_temp_path {kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = f"""
        daemon off;
        {user}
        worker_processes 1;
        pid pid;
        error_log stderr;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            {temporary}
            {http}
            upstream servers {{ {servers} {upstream} }}
            server {{
                listen 127.0.0.1:{port}{" ssl" if certificate else ""}{" http2" if http2 else ""};
                {tls}
                proxy_set_header Host $http_host;
                {server}
                location / {{
                    proxy_pass http://servers;
                    {location}
                }}
            }}
        }}
    """
    async with _running(
        "nginx", "-e", "stderr", "-p", "./", "-c", port=port, config=config, tls=bool(tls)
    ) as middlebox:
        yield middlebox


@asynccontextmanager
async def haproxy(
    *upstreams: int | str, backend: str = "", frontend: str = "", certificate: Path | None = None
) -> AsyncIterator[Middlebox]:
    """Run HAProxy in front of `upstreams`.

    Args:
        upstreams: Loopback ports, each optionally with options of HAProxy's `server`:
            `"8001 check inter 100ms cookie a"`. The servers are called `server1`, `server2` and so on.
        backend: Lines for `backend`, such as `retries`, `cookie` or `option httpchk`.
        frontend: Lines for `frontend`, such as `http-request deny`.
        certificate: A PEM file with certificate and key: serve TLS.
    """
    port = free_port()
    servers = "\n".join(f"server server{n} 127.0.0.1:{address}" for n, address in enumerate(upstreams, 1))
    config = f"""
        defaults
            mode http
            timeout connect 5s
            timeout client 1m
            timeout server 1m
        frontend gateway
            bind 127.0.0.1:{port} {f"ssl crt {certificate}" if certificate else ""}
            {frontend}
            default_backend servers
        backend servers
            {backend}
            {servers}
    """
    async with _running("haproxy", "-db", "-f", port=port, config=config, tls=certificate is not None) as middlebox:
        yield middlebox


@asynccontextmanager
async def _running(program: str, *arguments: str, port: int, config: str, tls: bool) -> AsyncIterator[Middlebox]:
    """Run `program` with `arguments` and its configuration; enter the body once it listens, and end it afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"{program}-") as name:
        folder = Path(name)
        (folder / "config").write_text(config + "\n")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [_find(program) or program, *arguments, "config"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call
            )
        try:
            await _listening(process, port, folder / "log")
            yield Middlebox(f"{'https' if tls else 'http'}://127.0.0.1:{port}/mcp", port, process, folder)
        finally:
            _end(process)


def _end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies: a killed test run cannot clean up."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


async def _listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    with anyio.move_on_after(15):
        while process.poll() is None:
            with suppress(OSError):
                await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                return
            await anyio.sleep(0.02)
    raise RuntimeError(f"{process.args} did not start:\n{log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the process; kill its whole group if that takes too long or leaves a worker behind.

    Blocks, so that a cancellation cannot interrupt it.
    """
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
