"""What a user is advised to check, by what failed and where it was configured."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest
from mcp import StdioServerParameters

from resilient_mcp import Delivery, Evidence, ExitStatus
from resilient_mcp._sdk.installed import HighLevelServer, StreamableHttpParameters, mcp_error
from resilient_mcp.connection.server import server_of
from resilient_mcp.evidence import FailureKind
from resilient_mcp.verdicts.remedies import Wording, in_python, reason_of, remedy_of
from resilient_mcp.verdicts.verdict import AttemptError

WORDING = Wording("--url", "--header")


def seen(kind: FailureKind, detail: str = "x", **facts: Any) -> AttemptError:
    return AttemptError(None, Evidence(kind, Delivery.UNKNOWN, detail, **facts))


def status(code: int, body: str = "") -> AttemptError:
    return seen(FailureKind.HTTP, http_status=code, body=body)


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        (AttemptError(FileNotFoundError(2, "x"), None), "Is it installed and on PATH? Check --url."),
        (AttemptError(NotADirectoryError(2, "x"), None), "Is it installed and on PATH? Check --url."),
        (AttemptError(OSError(errno.ENOEXEC, "x"), None), "Can it be run from a terminal? Check --url."),
        (AttemptError(TypeError("x"), None), "Are client and server compatible? Check --url."),
        (AttemptError(None, None), "Are client and server compatible? Check --url."),
        (AttemptError(mcp_error(-32022, "x"), None), "Do client and server support a common MCP version? Check both, "),
        (
            AttemptError(RuntimeError("Unsupported protocol version: 1"), None),
            "Do client and server support a common MCP version?",
        ),
        (seen(FailureKind.AUTH), "Are the credentials correct and still valid? Check --header."),
        (status(401), "Are the credentials correct and still valid? Check --header."),
        (status(403), "Are the credentials correct and still valid? Check --header."),
        (
            status(400, "The plain HTTP request was sent to HTTPS port"),
            "Should the URL start with https://? Check --url.",
        ),
        (status(302), "Is that the server's new address?"),
        (status(400), "Is the path right, and is an MCP server there?"),
        (status(404), "Is the path right? Most servers are at /mcp."),
        (status(405), "needs SseServerParameters."),
        (status(421), "allowed_hosts."),
        (seen(FailureKind.PROCESS), "Does it run in a terminal?"),
        (seen(FailureKind.PROTOCOL), "Is an MCP server there?"),
        (
            seen(FailureKind.TLS, "[SSL: CERTIFICATE_VERIFY_FAILED]"),
            "SSL_CERT_FILE names a file of trusted certificate authorities.",
        ),
        (seen(FailureKind.TLS), "Do client and server agree on http:// or https://?"),
        (seen(FailureKind.NETWORK), "Is the server running, and are scheme, host and port right? Check --url."),
    ],
)
def test_the_likely_cause_and_where_to_look(failure: AttemptError, remedy: str):
    """The advice is a question about the cause, and the place where the user configured it."""
    assert remedy in remedy_of(failure, WORDING)


def test_where_python_configures_a_server():
    """The advice uses the terms of what was passed to `ResilientClient`."""
    process = StdioServerParameters(command="x")
    url = StreamableHttpParameters(url="http://x/mcp")
    assert server_of(process).configured_by == "command, args, env and cwd in StdioServerParameters"
    assert server_of(url).configured_by == "the server's URL"
    assert server_of(lambda: None).configured_by == "the function that returns the transport"
    assert server_of(HighLevelServer("x")).configured_by == "the server object"
    assert in_python("the URL").restart == "restart()"
    assert not WORDING.restart


def test_reasons():
    """A reason is one line with the relevant lines of stderr, and never empty."""
    ended = seen(FailureKind.PROCESS, "it ended", exit=ExitStatus(1, 3, stderr="starting\nKeyError: 'A'\n"))
    assert reason_of(ended) == "it ended; its stderr: starting; KeyError: 'A'"
    quiet = AttemptError(None, replace(ended.evidence, exit=ExitStatus(1, 3)))
    assert reason_of(quiet) == "it ended"
    assert (
        reason_of(AttemptError(FileNotFoundError(2, "No such file", "npx"), None)) == "cannot start: No such file: npx"
    )
    assert reason_of(AttemptError(OSError("x"), None)) == "OSError: x"
    assert reason_of(AttemptError(None, None)) == "the connection was lost"
