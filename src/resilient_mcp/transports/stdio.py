"""The stdio transport: a server process as a pair of message streams, and the evidence of how it ended.

Unlike the SDK's `stdio_client` it reports exit code, signal and stderr, splits lines in linear time and bounded
memory, and knows for each message whether its write ever began. Garbage, invalid UTF-8, a full pipe or a frozen server
do not stop other calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio
import anyio.lowlevel
from mcp import StdioServerParameters
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage

from .._sdk.installed import PARSE_ERROR
from .._sdk.messages import (
    add_meta,
    cancelled_id,
    clean_error_response,
    decode,
    encode,
    error_message,
    method_and_id,
    response_id,
)
from .._sdk.transports import Streams
from ..event_loop import Pace, Signal
from ..evidence import Delivery, Evidence, ExitStatus, FailureKind
from ..in_flight import InFlight
from ..text.configured import in_arguments, in_pairs
from ..text.redact import Redactor
from .framing import LineFramer, Oversize, find_id
from .inbox import Turn, is_admitted
from .jsonrpc import parse
from .names import name_of_command
from .process import STDERR_TAIL, ServerProcess, spawn
from .server import Channel, HttpOptions, Server
from .stderr import StderrLines

# Characters of a name.
_NAME = 100

# Seconds to wait, after stdout ended, for the exit that usually explains it.
_EXIT_GRACE = 1.0

# Bytes of a garbage line from which its sample is taken: enough that the sample does not cut a secret.
_GARBAGE_READ = 64 * 1024

# Maximum garbage lines per connection that are passed to the `message_handler`.
_REPORTED = 100

# Bytes of a damaged line that is still parsed; of a longer one, the bytes of either end in which its id is looked for.
_DAMAGED_READ, _ENDS = 1024 * 1024, 4096
# Bytes of other text in front of a message on the same line.
_PREFIX = 64 * 1024
# Possible beginnings of a message, to find one that follows other text on the same line.
_STARTS = (b'{"jsonrpc"', b'{"result"', b'{"id"', b'{"error"', b'{"method"')


class StdioServer(Server):
    """A command that is started as a child process.

    Args:
        parameters: The SDK's parameters.

    Raises:
        ValueError: The command is empty, or the encoding is not UTF-8.
    """

    is_process = True
    detects_disconnect = True
    configured_by = "command, args, env and cwd in StdioServerParameters"

    def __init__(self, parameters: StdioServerParameters) -> None:
        if not parameters.command.strip():
            raise ValueError(
                f"StdioServerParameters.command is {parameters.command!r}: write the program to start, such as 'npx'"
            )
        if parameters.encoding.lower().replace("_", "-") not in {"utf-8", "utf8"}:
            raise ValueError(
                f"StdioServerParameters.encoding is {parameters.encoding!r}: leave it at 'utf-8', which MCP prescribes"
            )
        self._parameters = parameters

    @classmethod
    def of(cls, given: Any, options: HttpOptions) -> Server | None:  # noqa: ARG003 - it has no HTTP
        return cls(given) if isinstance(given, StdioServerParameters) else None

    def name(self, redactor: Redactor) -> str:
        return redactor.line(name_of_command(self._parameters.command, self._parameters.args), _NAME)

    def secrets(self) -> Iterator[str]:
        harmless = get_default_environment()  # HOME, PATH and the like, which the SDK gives to every server
        own = {name: value for name, value in (self._parameters.env or {}).items() if harmless.get(name) != value}
        yield from in_pairs(own.items())
        yield from in_arguments(self._parameters.args)

    def telemetry(self) -> Mapping[str, str | int]:
        return {"network.transport": "pipe"}

    def open(self, channel: Channel) -> AbstractAsyncContextManager[Streams]:
        return stdio(self._parameters, channel)


@dataclass(slots=True, eq=False)
class _Outgoing:
    """A queued message. Once `begun` it must be written to its end, since half a line would corrupt the next one."""

    data: memoryview
    request_id: object
    done: anyio.Event
    begun: bool = False


class StdioWriter:
    """The session's write stream. Writes immediately what fits the pipe, and queues the rest in order.

    A message is in one of three places, which decides what a cancellation or a broken pipe means for it. Written in
    full by `_write_now`: the server may run it. In the queue and not `begun`: no byte has left, so it can be withdrawn.
    Head of the queue and `begun`: a part has left, so `flush` finishes it, whether or not its sender still waits.

    Args:
        process: The server.
        in_flight: Notified of every request whose write begins.
        on_broken: Called when the server no longer reads.
    """

    def __init__(self, process: ServerProcess, in_flight: InFlight, on_broken: Callable[[], object]) -> None:
        self._process = process
        self._in_flight = in_flight
        self._on_broken = on_broken
        self._queue: deque[_Outgoing] = deque()
        self._wake = Signal()
        self._broken = False

    async def send(self, item: SessionMessage) -> None:
        """Write one message.

        If `send` is cancelled before the write began, the message is not sent; otherwise the write is finished in the
        background.

        Raises:
            anyio.BrokenResourceError: The server no longer reads; this message was not sent.
        """
        method, request_id = method_and_id(item)
        if method is None:
            try:
                await self._send(item, method, request_id)
            finally:
                self._in_flight.replied(request_id)
        else:
            await self._send(item, method, request_id)

    async def _send(self, item: SessionMessage, method: str | None, request_id: Any) -> None:
        if method is not None and request_id is not None:
            add_meta(item, self._in_flight.sending(method, request_id))
        if self._broken:
            raise anyio.BrokenResourceError
        data = encode(item) + b"\n"
        written = self._write_now(data, request_id)
        if written == len(data):
            return
        # No await since `_write_now`: otherwise another sender could write between the two parts of this message.
        outgoing = _Outgoing(memoryview(data)[written:], request_id, anyio.Event(), begun=written > 0)
        self._queue.append(outgoing)
        self._wake.notify()
        if method == "notifications/cancelled":
            self._withdraw(cancelled_id(item), outgoing)
            return  # not awaited: the caller that gives up must not hang on a frozen server
        await self._written(outgoing)

    def _write_now(self, data: bytes, request_id: object) -> int:
        """Write as much as fits the pipe now; returns the number of bytes, 0 if other messages are queued."""
        if self._queue:
            return 0  # to overtake them would reorder messages, or split one whose beginning has left
        try:
            written = self._process.send_nowait(data)
        except OSError:
            self._break()
            self._on_broken()
            raise anyio.BrokenResourceError from None
        if written:
            self._in_flight.sent(request_id)
        return written

    async def _written(self, outgoing: _Outgoing) -> None:
        """Wait until `flush` has written `outgoing`; a cancellation withdraws it if its write has not begun."""
        try:
            await outgoing.done.wait()
        except BaseException:
            if not outgoing.begun:
                self._drop(outgoing)
            raise
        # `done` is also set when the pipe breaks or the message is withdrawn. Only a message that never began may be
        # reported as not sent: the server may have read one that began, and `on_end` gives its call the evidence.
        if not outgoing.begun:
            raise anyio.BrokenResourceError

    async def flush(self) -> None:
        """Write what did not fit the pipe, until cancelled."""
        while True:
            while self._queue:
                # Marked before the first byte: if its sender is cancelled while `process.send` waits, the message must
                # not be dropped half-written. It stays in the queue so that `_write_now` does not write in between.
                head = self._queue[0]
                head.begun = True
                self._in_flight.sent(head.request_id)
                try:
                    await self._process.send(head.data)
                except OSError:
                    self._break()
                    self._on_broken()
                    return
                self._drop(head)  # not `popleft`: `aclose` may have emptied the queue meanwhile
                head.done.set()
            await self._wake.wait()  # no await since the queue was seen empty, so no wake-up is lost

    def _withdraw(self, request_id: object, courtesy: _Outgoing) -> None:
        """Drop a cancelled request that is still queued, together with its cancellation, here called `courtesy`."""
        for waiting in self._queue:
            if waiting.request_id == request_id and request_id is not None and not waiting.begun:
                self._drop(waiting)
                self._drop(courtesy)
                waiting.done.set()  # its sender may still wait: `_written` reports that nothing was sent
                return

    def _drop(self, outgoing: _Outgoing) -> None:
        if outgoing in self._queue:
            self._queue.remove(outgoing)

    def _break(self) -> None:
        self._broken = True
        while self._queue:
            self._queue.popleft().done.set()

    async def aclose(self) -> None:
        """Reject further writes."""
        self._break()

    async def __aenter__(self) -> StdioWriter:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class StdioReader:
    """The session's read stream: messages parsed directly from bytes.

    Args:
        process: The server.
        in_flight: Notified of every response.
        redactor: Removes secrets from the server's errors, before the SDK turns them into exceptions and spans.
        max_bytes: Maximum length of a line.
        errors: How to handle invalid UTF-8, as in `bytes.decode`: "strict" fails the answer.
        on_garbage: Called with every line that is not a message, unchanged.
        on_end: Called once when nothing more will come, before the session notices.
    """

    def __init__(
        self,
        process: ServerProcess,
        in_flight: InFlight,
        redactor: Redactor,
        *,
        max_bytes: int,
        errors: str,
        on_garbage: Callable[[bytes], None],
        on_end: Callable[[], object],
    ) -> None:
        self._process = process
        self._in_flight = in_flight
        self._redactor = redactor
        self._framer = LineFramer(max_bytes)
        self._lines: Iterator[bytes | Oversize] = iter(())  # what is left of the latest chunk
        self._pace = Pace()
        self._max_bytes = max_bytes
        self._errors = errors
        self._ready: deque[SessionMessage | Exception] = deque()
        self._reported = 0
        self._on_garbage = on_garbage
        self._on_end = on_end
        self._ended = False
        self._turn = Turn()

    def __aiter__(self) -> StdioReader:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        await self._turn.over()
        while not self._ready:
            # One line at a time: the message in the first line does not wait for a thousand lines of garbage.
            for line in self._lines:
                self._take(line)
                await self._pace.step(len(line) if isinstance(line, bytes) else 0)
                if self._ready:
                    break
            if self._ready:
                break
            chunk = b"" if self._ended else await self._process.receive()
            if not chunk:
                self.end()
                await anyio.lowlevel.checkpoint()
                raise StopAsyncIteration
            self._in_flight.hear()
            self._lines = self._framer.feed(chunk)
        return self._turn.of(self._ready.popleft())

    async def receive(self) -> SessionMessage | Exception:
        """The next message, or the error of a line that is not one: the session passes it to its `message_handler`.

        Raises:
            anyio.EndOfStream: The server is gone.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise anyio.EndOfStream from None

    def end(self) -> None:
        """Mark the stream as ended."""
        if not self._ended:
            self._ended = True
            self._on_end()

    def _take(self, line: bytes | Oversize) -> None:
        if isinstance(line, Oversize):
            text = f"a message of {line.size} bytes, over the limit of {self._max_bytes} (Policy.max_message_bytes)"
            self._fail(line.request_id, text)
            return
        if not line.strip():
            return
        message = problem = _decode(line)
        if isinstance(message, ValueError) and self._errors != "strict":
            message = _decode(line.decode("utf-8", self._errors).encode())
        if isinstance(message, ValueError):
            self._on_garbage(line)
            found, fault = _damaged(line)
            if found is not None:
                self._fail(found, fault)
            elif self._reported < _REPORTED:
                self._reported += 1
                self._ready.append(self._redactor.clean_error(problem))
            return
        if (answered := response_id(message)) is not None:
            self._in_flight.answered(answered)
            clean_error_response(message, self._redactor.cleaned)
        else:
            self._in_flight.hear_message()
            if not is_admitted(message, self._in_flight):
                return
        self._ready.append(message)

    def _fail(self, request_id: object, text: str) -> None:
        """Fail a waiting call with a made-up error response, since its answer cannot be used."""
        if self._in_flight.get(request_id) is None:
            return
        evidence = Evidence(FailureKind.PROTOCOL, Delivery.UNKNOWN, f"the server sent {text}")
        self._in_flight.note(request_id, evidence)
        self._ready.append(error_message(request_id, PARSE_ERROR, evidence.detail))

    async def aclose(self) -> None:
        """Do nothing: the process owns the pipe."""

    async def __aenter__(self) -> StdioReader:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


def _decode(line: bytes) -> SessionMessage | ValueError:
    """The message in `line`, also after text printed without a newline; the error if there is none."""
    try:
        return decode(line)
    except ValueError as exc:
        problem = exc.with_traceback(None)  # which refers to this frame: a flood would have to be garbage-collected
    start = min((at for at in (line.find(mark, 1, _PREFIX) for mark in _STARTS) if at > 0), default=0)
    if start:
        try:
            return decode(line[start:])
        except ValueError:
            pass
    return problem


def _damaged(line: bytes) -> tuple[object, str]:
    """The id of a damaged response, or None if `line` is not one, and what is wrong with it."""
    if len(line) > _DAMAGED_READ:  # as Python objects, it would take many times its size
        return find_id(line[:_ENDS], line[-_ENDS:]), "an answer that is not a JSON-RPC response"
    message, fault = parse(line), "an answer that is not a JSON-RPC response"
    if message is None:
        message, fault = parse(line.decode("utf-8", "replace").encode()), "an answer that is not valid UTF-8"
    if not isinstance(message, dict) or "method" in message:
        return None, ""
    return message.get("id"), fault


@asynccontextmanager
async def stdio(parameters: StdioServerParameters, channel: Channel) -> AsyncIterator[tuple[StdioReader, StdioWriter]]:
    """Start a server process and connect to it; on exit, stop it and everything it started.

    The server gets four fifths of `Policy.timeout.shutdown` to stop by itself before it is killed.

    Args:
        parameters: The SDK's parameters.
        channel: The connection that it carries.

    Raises:
        OSError: The server cannot be started.
    """
    env = {**get_default_environment(), **(parameters.env or {})}
    process = await spawn([parameters.command, *parameters.args], env, parameters.cwd)
    try:
        async with _connected(process, parameters.encoding_error_handler, channel) as streams:
            yield streams
    finally:
        # Usually it has been stopped by now, but asyncio's `Task.cancel` and Ctrl-C interrupt that, shielded or not.
        process.kill()
        process.close()


@asynccontextmanager
async def _connected(
    process: ServerProcess, errors: str, channel: Channel
) -> AsyncIterator[tuple[StdioReader, StdioWriter]]:
    """Connect to a process; on exit, stop it. `errors` is how to handle invalid UTF-8."""
    redactor, in_flight, shutdown = channel.redactor, channel.in_flight, channel.policy.timeout.shutdown
    stderr = StderrLines(channel.name, redactor, channel.errlog)
    process.on_stderr = stderr.feed
    channel.on_start(process)
    ended, exited, reported, broken = (anyio.Event() for _ in range(4))
    status: ExitStatus | None = None

    reader = StdioReader(
        process,
        in_flight,
        redactor,
        max_bytes=channel.policy.max_message_bytes,
        errors=errors,
        on_garbage=lambda line: channel.on_garbage(redactor.line(line[:_GARBAGE_READ].decode("utf-8", "replace"))),
        on_end=ended.set,
    )
    writer = StdioWriter(process, in_flight, broken.set)

    # The end has three signs, in any order: stdout ends, the process exits, or a write fails. None is enough alone: a
    # grandchild may keep stdout open after the exit, a server may close stdout and keep running, and a write may fail
    # just before the exit that explains it. So each waits briefly for the others; then `reader.end` sets `ended`, and
    # `report` calls `on_end` once.

    async def watch_exit() -> None:
        nonlocal status
        ended_as = await process.wait()
        stderr.end()
        status = replace(ended_as, stderr=redactor.clean_tail(ended_as.stderr, STDERR_TAIL))
        exited.set()
        # The reader first delivers what the pipe still holds: an answer written just before the exit counts.
        with anyio.move_on_after(_EXIT_GRACE):
            await ended.wait()
        reader.end()

    async def watch_stdin() -> None:
        await broken.wait()
        with anyio.move_on_after(_EXIT_GRACE):  # usually the server is just exiting
            await ended.wait()
        reader.end()

    async def report() -> None:
        try:
            await _explained(ended, exited)
        finally:
            reported.set()  # also if cancelled, so that nothing waits for it
        channel.on_end(_end_evidence(process.pid, status))

    async with anyio.create_task_group() as tg:
        for task in (watch_exit, watch_stdin, report, process.drain_stderr, writer.flush):
            tg.start_soon(task)
        try:
            yield reader, writer
        finally:
            # Shielded, so that a server whose caller was cancelled has its time to stop as well.
            with anyio.CancelScope(shield=True):
                # A server that ended by itself may have left children behind, so its group is killed as well; but only
                # after the report, or the reason given would be this client's own SIGKILL.
                if ended.is_set() or broken.is_set():
                    with anyio.move_on_after(2 * _EXIT_GRACE):
                        await reported.wait()
                    process.kill()
                else:
                    await process.stop(shutdown * 0.8)
                with anyio.move_on_after(shutdown * 0.2):
                    await exited.wait()
            tg.cancel_scope.cancel()


async def _explained(ended: anyio.Event, exited: anyio.Event) -> None:
    """Wait for the end of stdout, then briefly for the exit that explains it."""
    await ended.wait()
    with anyio.move_on_after(_EXIT_GRACE):
        await exited.wait()


def _end_evidence(pid: int, status: ExitStatus | None) -> Evidence:
    if status is None:
        return Evidence(FailureKind.PROCESS, Delivery.UNKNOWN, f"the server (pid {pid}) closed its stdin or stdout")
    detail = f"the server process (pid {pid}) ended: {status}"
    return Evidence(FailureKind.PROCESS, Delivery.UNKNOWN, detail, exit=status)
