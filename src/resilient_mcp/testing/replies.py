"""Replies of scripted servers: values that state only how they differ from a normal answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from typing_extensions import Self

from ._protocol import HALF, NEXT_ID, THIS_ID, text_result


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply over any transport; `Reply()` is the server's normal answer.

    Attributes:
        messages: The JSON-RPC messages to send, without "jsonrpc"; None for the server's normal answer. The strings
            "$id" and "$next" in them are replaced by the id of the request and of the next one.
        delay: Seconds until it is sent. Other requests are answered meanwhile.
        hangs: Whether the request is held open after the messages are sent, until the client disconnects. No effect
            over stdio.
    """

    messages: tuple[Mapping[str, Any], ...] | None = None
    delay: float = 0.0
    hangs: bool = False

    @classmethod
    def ok(cls, text: str) -> Self:
        """A tool result with this text."""
        return cls.result(text_result(text))

    @classmethod
    def tool_error(cls, text: str) -> Self:
        """A tool result with `isError`."""
        return cls.result(text_result(text, is_error=True))

    @classmethod
    def result(cls, result: Mapping[str, Any]) -> Self:
        """This result, as sent on the wire."""
        return cls.sending({"id": THIS_ID, "result": result})

    @classmethod
    def error(cls, code: int, message: str, data: Any = None) -> Self:
        """A JSON-RPC error."""
        return cls.sending({"id": THIS_ID, "error": {"code": code, "message": message, "data": data}})

    @classmethod
    def sending(cls, *messages: Mapping[str, Any]) -> Self:
        """These JSON-RPC messages, and no other answer."""
        return cls(messages=messages)

    @classmethod
    def wrong_id(cls, text: str = "not for you") -> Self:
        """An answer with an id that was never used; the request itself gets no answer."""
        return cls.sending({"id": 987654321, "result": text_result(text)})

    @classmethod
    def twice(cls, text: str) -> Self:
        """Two answers with the same id."""
        answer = {"id": THIS_ID, "result": text_result(text)}
        return cls.sending(answer, answer)

    @classmethod
    def ahead(cls, text: str, early: str = "too early") -> Self:
        """An answer to the next request before it is made, then the answer to this one."""
        return cls.sending({"id": NEXT_ID, "result": text_result(early)}, {"id": THIS_ID, "result": text_result(text)})

    @classmethod
    def hang(cls) -> Self:
        """No answer, ever; other requests are answered."""
        return cls(messages=(), hangs=True)

    def after(self, seconds: float) -> Self:
        """The same reply, sent after a delay in seconds."""
        return replace(self, delay=seconds)


@dataclass(frozen=True, kw_only=True)
class SseEvent:
    """One server-sent event.

    Attributes:
        data: Its data; a mapping is a JSON-RPC message, as in `Reply.messages`; None for an event without data.
        id: Its id, from which the client may resume.
        retry: Milliseconds after which the client may reconnect.
        delay: Seconds until it is sent.
    """

    data: Mapping[str, Any] | str | None = None
    id: str | None = None
    retry: int | None = None
    delay: float = 0.0

    @classmethod
    def ok(cls, text: str, *, id: str | None = None) -> Self:  # noqa: A002 - the field's name
        """An event with a tool result with this text."""
        return cls(data={"id": THIS_ID, "result": text_result(text)}, id=id)


@dataclass(frozen=True, kw_only=True)
class HttpReply(Reply):
    """A reply over HTTP, with the faults that only HTTP has.

    Attributes:
        status: The HTTP status.
        headers: Extra headers; they override those that the server sets.
        body: The body, in place of messages.
        events: Server-sent events, in place of messages.
        announced: The `Content-Length`, if it differs from the body's length.
        sent: How many bytes of the body or of the events are sent; None for all.
        end: What happens to the connection afterwards: "keep", "close" or "reset".
        headless: Whether nothing is sent, not even a status line.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    events: tuple[SseEvent, ...] | None = None
    announced: int | None = None
    sent: int | None = None
    end: Literal["keep", "close", "reset"] = "keep"
    headless: bool = False

    @classmethod
    def refusal(
        cls, status: int, body: bytes = b"", *, content_type: str = "text/plain", retry_after: float | str | None = None
    ) -> Self:
        """A response with this status and body.

        Args:
            status: The HTTP status.
            body: The body.
            content_type: Its content type.
            retry_after: The `Retry-After` header: seconds, or an HTTP date.
        """
        headers = [("content-type", content_type)]
        if retry_after is not None:
            headers.append(
                ("retry-after", f"{retry_after:g}" if isinstance(retry_after, (int, float)) else retry_after)
            )
        return cls(status=status, headers=tuple(headers), body=body)

    @classmethod
    def raw(cls, body: bytes, *, content_type: str = "application/json") -> Self:
        """200 with any body: invalid JSON, HTML, an unknown content type."""
        return cls.refusal(200, body, content_type=content_type)

    @classmethod
    def html(cls, status: int = 200) -> Self:
        """The HTML error page of a proxy in between."""
        return cls.refusal(status, b"<!doctype html><title>Gateway</title><h1>Try later</h1>", content_type="text/html")

    @classmethod
    def redirect(cls, location: str, status: int = 307) -> Self:
        """A redirect to another address."""
        return cls(status=status, headers=(("location", location),), body=b"")

    @classmethod
    def sse(cls, *events: SseEvent) -> Self:
        """These server-sent events, then the end of the stream."""
        return cls(events=events)

    @classmethod
    def reset(cls) -> Self:
        """The connection is reset before the first byte."""
        return cls(messages=(), headless=True, end="reset")

    @classmethod
    def close(cls) -> Self:
        """The connection is closed before the first byte."""
        return cls(messages=(), headless=True, end="close")

    @classmethod
    def announce(cls, length: int) -> Self:
        """A JSON body of `length` bytes is announced, but none of it is sent."""
        return cls(body=b"", headers=(("content-type", "application/json"),), announced=length, hangs=True)

    def cut(self, sent: int | None = None, *, reset: bool = False) -> Self:
        """The same, ended in the middle of the body.

        Args:
            sent: How many bytes of it are sent; half of them by default, of `sse` all events, without their end.
            reset: Whether the end is a reset.
        """
        return replace(self, sent=HALF if sent is None else sent, end="reset" if reset else "close")

    def holding(self) -> Self:
        """The same reply, but the stream stays open, like the GET stream of a server with nothing to send."""
        return replace(self, hangs=True)


@dataclass(frozen=True, kw_only=True)
class StdioReply(Reply):
    """A reply over stdio, with the faults that only a process has.

    Attributes:
        before: Bytes written to stdout before the answer.
        sent: How many bytes of the answer's line are sent; None for all.
        stderr: How many bytes are written to stderr first, in lines of 100.
        exit_code: The status with which the process exits afterwards; None to keep running. A negative value is a
            signal, as in `subprocess`.
        then: What else the process does: "serve" (keep serving), "freeze" (stop reading), "mute" (close stdout and stay
            alive), or "orphan" (leave a child that holds stdout open for a while).
    """

    before: bytes = b""
    sent: int | None = None
    stderr: int = 0
    exit_code: int | None = None
    then: Literal["serve", "freeze", "mute", "orphan"] = "serve"

    @classmethod
    def exit(cls, code: int = 1) -> Self:
        """No answer: the process exits; -9 for one that is killed by SIGKILL."""
        return cls(messages=(), exit_code=code)

    @classmethod
    def garbage(cls, data: bytes = b"Starting up...\n\xff\xfe not UTF-8\n{]\n") -> Self:
        """Bytes on stdout that are not a message, then the answer."""
        return cls(before=data)

    @classmethod
    def flood(cls, stderr: int = 10_000_000) -> Self:
        """`stderr` bytes on stderr, then the answer."""
        return cls(stderr=stderr)

    @classmethod
    def freeze(cls) -> Self:
        """No answer, and the process stops reading."""
        return cls(messages=(), then="freeze")

    @classmethod
    def mute(cls) -> Self:
        """No answer: stdout is closed, and the process stays alive."""
        return cls(messages=(), then="mute")

    @classmethod
    def orphan(cls, code: int = 1) -> Self:
        """No answer: the process exits, and a child of it stays alive and holds stdout open."""
        return cls(messages=(), then="orphan", exit_code=code)

    def cut(self, sent: int | None = None, *, exit_code: int | None = 1) -> Self:
        """The same reply, but its line is cut off in the middle.

        Args:
            sent: How many bytes of the line are sent; half of them by default.
            exit_code: The status with which the process then exits; None to keep running with the line unfinished.
        """
        return replace(self, sent=HALF if sent is None else sent, exit_code=exit_code)
