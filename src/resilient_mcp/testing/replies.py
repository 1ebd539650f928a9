"""What a scripted server does with a request. A reply is a value that names only how it differs from a good answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from typing_extensions import Self

from ._protocol import HALF, NEXT_ID, THIS_ID, text_result


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply over any transport; `Reply()` is the answer that the server would have given by itself.

    Attributes:
        messages: The JSON-RPC messages to send, without "jsonrpc"; None for the server's own answer. The strings "$id"
            and "$next" in them stand for the id of the request and of the one that comes after it.
        delay: Seconds until it is sent. Other requests are answered meanwhile.
        hangs: Whether the request is held open after what is sent, until the client goes away.
    """

    messages: tuple[Mapping[str, Any], ...] | None = None
    delay: float = 0.0
    hangs: bool = False

    @classmethod
    def ok(cls, text: str) -> Self:
        """A tool's result with this text."""
        return cls.result(text_result(text))

    @classmethod
    def tool_error(cls, text: str) -> Self:
        """A tool's result with `isError`."""
        return cls.result(text_result(text, is_error=True))

    @classmethod
    def result(cls, result: Mapping[str, Any]) -> Self:
        """This result, as it is on the wire."""
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
        """An answer to a request that nobody made; the one that was made gets none."""
        return cls.sending({"id": 987654321, "result": text_result(text)})

    @classmethod
    def twice(cls, text: str) -> Self:
        """Two answers with the same id."""
        answer = {"id": THIS_ID, "result": text_result(text)}
        return cls.sending(answer, answer)

    @classmethod
    def ahead(cls, text: str, early: str = "too early") -> Self:
        """An answer to the next request, before that was made, and then the answer to this one."""
        return cls.sending({"id": NEXT_ID, "result": text_result(early)}, {"id": THIS_ID, "result": text_result(text)})

    @classmethod
    def hang(cls) -> Self:
        """No answer, ever; other requests get theirs."""
        return cls(messages=(), hangs=True)

    def after(self, seconds: float) -> Self:
        """The same, later."""
        return replace(self, delay=seconds)


@dataclass(frozen=True, kw_only=True)
class SseEvent:
    """One server-sent event.

    Attributes:
        data: Its data; a mapping is a JSON-RPC message as in `Reply.messages`; None for an event without data.
        id: Its id, by which the client may ask to resume.
        retry: Milliseconds after which the client may come back.
        delay: Seconds until it is sent.
    """

    data: Mapping[str, Any] | str | None = None
    id: str | None = None
    retry: int | None = None
    delay: float = 0.0

    @classmethod
    def ok(cls, text: str, *, id: str | None = None) -> Self:  # noqa: A002 - the field's name
        """A tool's result with this text."""
        return cls(data={"id": THIS_ID, "result": text_result(text)}, id=id)


@dataclass(frozen=True, kw_only=True)
class HttpReply(Reply):
    """A reply over HTTP, with what only HTTP can do wrong.

    Attributes:
        status: The HTTP status.
        headers: Headers beside those that the reply makes itself; they win.
        body: The body, in place of messages.
        events: Server-sent events, in place of messages.
        announced: The `Content-Length`, where it is not the body's.
        sent: How many bytes of the body or of the events are sent; None for all.
        end: What follows: "keep" the connection for the next request, "close" it, "reset" it.
        headless: Whether not even a status is sent.
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
        """This status with this body.

        Args:
            status: The HTTP status.
            body: The body.
            content_type: Its type.
            retry_after: The header `Retry-After`: seconds, or an HTTP date.
        """
        headers = [("content-type", content_type)]
        if retry_after is not None:
            headers.append(
                ("retry-after", f"{retry_after:g}" if isinstance(retry_after, (int, float)) else retry_after)
            )
        return cls(status=status, headers=tuple(headers), body=body)

    @classmethod
    def raw(cls, body: bytes, *, content_type: str = "application/json") -> Self:
        """200 with any body: bad JSON, HTML, an unknown type."""
        return cls.refusal(200, body, content_type=content_type)

    @classmethod
    def html(cls, status: int = 200) -> Self:
        """The page of a proxy that stands in between."""
        return cls.refusal(status, b"<!doctype html><title>Gateway</title><h1>Try later</h1>", content_type="text/html")

    @classmethod
    def redirect(cls, location: str, status: int = 307) -> Self:
        """To another address."""
        return cls(status=status, headers=(("location", location),), body=b"")

    @classmethod
    def sse(cls, *events: SseEvent) -> Self:
        """These server-sent events, and then the end of the stream."""
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
        """A JSON body of `length` bytes is announced, and nothing of it comes."""
        return cls(body=b"", headers=(("content-type", "application/json"),), announced=length, hangs=True)

    def cut(self, sent: int | None = None, *, reset: bool = False) -> Self:
        """The same, ended in the middle of the body.

        Args:
            sent: How many bytes of it are sent; half of them by default, of `sse` all events, without their end.
            reset: Whether the end is a reset.
        """
        return replace(self, sent=HALF if sent is None else sent, end="reset" if reset else "close")

    def holding(self) -> Self:
        """The same, and the stream stays open: as the GET stream of a server that has no more to say."""
        return replace(self, hangs=True)


@dataclass(frozen=True, kw_only=True)
class StdioReply(Reply):
    """A reply over stdio, with what only a process can do wrong.

    Attributes:
        before: Bytes on stdout before the answer.
        sent: How many bytes of the answer's line are sent; None for all.
        stderr: How many bytes go to stderr first, in lines.
        exit_code: With what the process exits after it; None to go on. Negative is a signal, as in `subprocess`.
        then: What else the process does: "serve" on, "freeze" and read no more, "mute": close stdout and live, or
            leave an "orphan": a child that holds stdout for a while.
    """

    before: bytes = b""
    sent: int | None = None
    stderr: int = 0
    exit_code: int | None = None
    then: Literal["serve", "freeze", "mute", "orphan"] = "serve"

    @classmethod
    def exit(cls, code: int = 1) -> Self:
        """No answer: the process exits. -9 for one that is killed."""
        return cls(messages=(), exit_code=code)

    @classmethod
    def garbage(cls, data: bytes = b"Starting up...\n\xff\xfe not UTF-8\n{]\n") -> Self:
        """Bytes on stdout that are no message, and then the answer."""
        return cls(before=data)

    @classmethod
    def flood(cls, stderr: int = 10_000_000) -> Self:
        """So many bytes on stderr, and then the answer."""
        return cls(stderr=stderr)

    @classmethod
    def freeze(cls) -> Self:
        """No answer, and nothing is read any more."""
        return cls(messages=(), then="freeze")

    @classmethod
    def mute(cls) -> Self:
        """No answer: stdout is closed, and the process lives on."""
        return cls(messages=(), then="mute")

    @classmethod
    def orphan(cls, code: int = 1) -> Self:
        """No answer: the process exits, and a child of it lives on and holds stdout."""
        return cls(messages=(), then="orphan", exit_code=code)

    def cut(self, sent: int | None = None, *, exit_code: int | None = 1) -> Self:
        """The same, but the line breaks off in the middle.

        Args:
            sent: How many bytes of it are sent; half of them by default.
            exit_code: With what the process then exits; None to leave the line unfinished.
        """
        return replace(self, sent=HALF if sent is None else sent, exit_code=exit_code)
