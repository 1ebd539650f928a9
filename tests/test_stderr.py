"""A server's stderr goes to the log and to `errlog`, without secrets, and never blocks the server."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable
from typing import Any, TextIO

import anyio
import pytest

from resilient_mcp import ConnectionLost
from resilient_mcp.text.redact import Redactor
from resilient_mcp.transports import stderr
from resilient_mcp.transports.stderr import LINE, StderrLines

from .support import client_of, raw_server, text_of
from .test_events import Records, records  # noqa: F401 - a fixture

pytestmark = pytest.mark.anyio

TOKEN = "t0k3n-0123456789"


async def say(client: Any, text: str) -> None:
    assert text_of(await client.call_tool("say", {"text": text})) == "said"


def lines_in(log: Records) -> list[str]:
    return [record.getMessage() for record in log.at(logging.INFO) if record.name == "resilient_mcp.server"]


async def until(errlog: io.StringIO, text: str) -> None:
    while text not in errlog.getvalue():
        await anyio.sleep(0.005)


async def test_stderr_of_a_running_server_is_logged(records: Records):  # noqa: F811
    """Each line is logged at INFO and written to `errlog`; the secret from `env` appears in neither."""
    errlog = io.StringIO()
    server = raw_server(env={"API_TOKEN": TOKEN})
    async with client_of(server, name="notes", errlog=errlog) as client:
        await say(client, f"listening\n\n  with {TOKEN}\nhalf a")
        await say(client, " line\n")
        await until(errlog, "half a line\n")
        with pytest.raises(ConnectionLost):
            await client.call_tool("unsafe", {"do": "exit", "code": 1})
        await until(errlog, "disk is full")
    assert errlog.getvalue().startswith("listening\n  with ***\nhalf a line\ncannot go on: the disk is full\n")
    assert lines_in(records)[:3] == ["notes: listening", "notes: with ***", "notes: half a line"]


async def test_by_default_stderr_is_shown(capsys: pytest.CaptureFixture[str]):
    """A user who changes only the construction still sees it, as with `stdio_client`; `errlog=None` is silent."""
    async with client_of(raw_server()) as client:
        await say(client, "seen\n")
    async with client_of(raw_server(), errlog=None) as client:
        await say(client, "unseen\n")
    assert capsys.readouterr().err == "seen\n"


async def test_an_unread_errlog_pipe_blocks_nothing():
    """What the pipe cannot hold is dropped, and calls are answered meanwhile."""
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-8") as errlog, open(reading, "rb") as unread:
        async with client_of(raw_server(), errlog=errlog) as client:
            assert text_of(await client.call_tool("stderr", {"kilobytes": 1000})) == "written"
            assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        os.set_blocking(reading, False)
        assert 0 < len(unread.read()) < 500_000


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("no space left")


def for_reading() -> TextIO:
    return open(os.devnull, encoding="utf-8")


@pytest.mark.parametrize("broken", [Broken, for_reading])
async def test_a_broken_errlog_is_dropped(broken: Callable[[], TextIO], records: Records):  # noqa: F811
    """It is dropped with one warning, and the log goes on."""
    errlog = broken()
    async with client_of(raw_server(), name="notes", errlog=errlog) as client:
        for n in range(3):
            await say(client, f"{n}\n")
    assert lines_in(records) == ["notes: 0", "notes: 1", "notes: 2"]
    (warning,) = records.at(logging.WARNING)
    assert "stderr is no longer written to errlog" in warning.getMessage()
    errlog.close()


def fed(*chunks: bytes) -> list[str]:
    errlog = io.StringIO()
    lines = StderrLines("notes", Redactor(["t0k3n-0123456789"]), errlog)
    for chunk in chunks:
        lines.feed(chunk)
    lines.end()
    return errlog.getvalue().splitlines()


def test_lines_that_come_in_pieces():
    """However the bytes are chunked, lines are whole, and bytes that are not UTF-8 are replaced."""
    text = b"one\r\ntwo\n\n \nthree \xe9\nend"
    for size in range(1, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert fed(*pieces) == ["one", "two", "three \ufffd", "end"]


def test_an_endless_line_is_cut():
    """At most 4 KiB of a line are kept however it arrives, the next one is whole, and no part of a secret is left."""
    long = b"x" * (LINE - 5) + TOKEN.encode() + b"y" * 100_000
    for size in (1000, LINE, LINE + 3, 10_000, 200_000):
        shown = fed(*[(long + b"\nnext")[at : at + size] for at in range(0, len(long) + 5, size)])
        assert shown[-1] == "next"
        assert len(shown) == 2
        assert len(shown[0]) <= LINE
        assert "t0k" not in shown[0]


def test_nothing_is_kept_without_a_reader(monkeypatch: pytest.MonkeyPatch):
    """Without `errlog` and with the log turned off, nothing is buffered."""
    monkeypatch.setattr(stderr.logger, "disabled", True)
    lines = StderrLines("notes", Redactor(), None)
    lines.feed(b"half")
    assert lines._begun == b""
    monkeypatch.setattr(stderr.logger, "disabled", False)
    stderr.logger.setLevel(logging.INFO)
    lines.feed(b"x" * 10)
    assert lines._begun == b"x" * 10
    stderr.logger.setLevel(logging.NOTSET)


def test_streams_without_a_descriptor_accept_everything():
    """A stream without a file descriptor is in memory; whether it is closed shows only on writing."""
    assert stderr._takes(io.StringIO())
    assert stderr._takes(object())  # type: ignore[arg-type]
