"""A server process: started in its own process group, read and written without blocking, and never left behind.

On POSIX it uses pipes that this library creates. So a write that fits the pipe completes immediately, `wait` returns at
the exit and not when the pipe ends (a grandchild may hold it open), and the event loop has nothing left to close late.
Each server has a guard, a shell that stops the server if this process is killed.

On Windows the SDK's helper starts the process in a job object and resolves commands such as `npx`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import anyio

from ..evidence import ExitStatus
from .guard import Guard
from .pipe import pipe_of

# Bytes of stderr read in one go: they may hold thousands of lines, and logging them blocks the event loop.
_STDERR_CHUNK = 8 * 1024

STDERR_TAIL = 64 * 1024

# Maximum bytes read after the exit: a pipe holds no more, and a grandchild that keeps writing is not waited for.
_DRAIN_LIMIT = 1024 * 1024

# Windows has neither.
_SIGKILL: int = getattr(signal, "SIGKILL", 0)
_SIGCONT: int = getattr(signal, "SIGCONT", 0)

# Seconds between two looks at whether a process or its group is gone.
_GROUP_POLL = 0.01
# The same for the exit of a running process, where no file descriptor reports it.
_EXIT_POLL = 0.1
# Seconds that `stop` waits for a process that was killed, and that `close` may block the event loop for one.
_REAP, _REAP_NOW = 1.0, 0.05


class ServerProcess(Protocol):
    """The process interface that the stdio transport uses."""

    pid: int
    on_stderr: Callable[[bytes], object]
    """Called with each chunk of stderr."""

    @property
    def stderr(self) -> str:
        """The end of the stderr output so far, at most 64 KiB."""
        ...

    async def receive(self) -> bytes:
        """The next bytes of stdout; empty when it ends, or when the process has exited and all its output was read."""
        ...

    def send_nowait(self, data: bytes) -> int:
        """Write as much as fits the pipe now; returns the number of bytes. Raises OSError if the pipe is broken."""
        ...

    async def send(self, data: memoryview) -> None:
        """Write all of `data`. Raises OSError if the pipe is broken."""
        ...

    async def wait(self) -> ExitStatus:
        """Wait for the exit; called by one task only."""
        ...

    async def drain_stderr(self) -> None:
        """Read stderr until it ends."""
        ...

    async def stop(self, grace: float) -> None:
        """Close stdin, let the process and its group exit for up to `grace` seconds, then kill them."""
        ...

    def kill(self) -> None:
        """Kill the process and its group now."""
        ...

    def close(self) -> None:
        """Release the pipes."""
        ...


class PosixProcess:
    """A process in its own session, connected by pipes that this library creates."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: int, stdout: int, stderr: int) -> None:
        self.pid = process.pid
        self.on_stderr: Callable[[bytes], object] = lambda _: None
        self._process = process
        self._guard = Guard(process.pid)
        self._owner = os.getpid()
        self._is_status_lost = False
        self._is_group_gone = False
        self._stdin: int | None = stdin
        self._stdout = stdout
        self._output = pipe_of(stdout)
        self._stderr = stderr
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._stderr_ended = False
        self._exited = False
        self._drained = 0
        for fd in (stdin, stdout, stderr):
            os.set_blocking(fd, False)

    @classmethod
    async def spawn(cls, command: Sequence[str], env: Mapping[str, str], cwd: str | Path | None) -> PosixProcess:
        """Start `command`.

        Raises:
            OSError: It cannot be started: not found, not executable, or `cwd` does not exist.
        """
        (child_in, stdin), (stdout, child_out), (stderr, child_err) = _pipes(3)
        process: subprocess.Popen[bytes] | None = None
        try:
            # Not in a worker thread: a cancellation or Ctrl-C during the wait for it would lose the process.
            process = subprocess.Popen(  # noqa: ASYNC220, S603
                list(command),
                stdin=child_in,
                stdout=child_out,
                stderr=child_err,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
            return cls(process, stdin, stdout, stderr)
        except BaseException:
            if process is not None:  # Ctrl-C
                process.kill()
            for fd in (stdin, stdout, stderr):
                os.close(fd)
            raise
        finally:
            for fd in (child_in, child_out, child_err):
                os.close(fd)

    async def receive(self) -> bytes:
        # After the exit only what the pipe still holds is read, without waiting: if a grandchild holds the pipe open,
        # its end never comes.
        if self._drained >= _DRAIN_LIMIT:
            return b""
        chunk = await self._output.receive()
        if self._exited:
            self._drained += len(chunk)
        return chunk

    def send_nowait(self, data: bytes) -> int:
        if self._stdin is None:
            raise BrokenPipeError("stdin is closed")
        try:
            return os.write(self._stdin, data)
        except BlockingIOError:
            return 0

    async def send(self, data: memoryview) -> None:
        while data:
            if self._stdin is None:
                raise BrokenPipeError("stdin is closed")
            try:
                data = data[os.write(self._stdin, data) :]
            except BlockingIOError:
                try:
                    await anyio.wait_writable(self._stdin)
                except anyio.ClosedResourceError:
                    raise BrokenPipeError("stdin is closed") from None

    async def wait(self) -> ExitStatus:
        await self._exit()
        # The last words explain the exit, and `drain_stderr` may not have read them yet. Bounded, since a grandchild
        # may go on writing.
        for _ in range(_DRAIN_LIMIT // _STDERR_CHUNK):
            if not self._read_stderr():
                break
        self._exited = True
        self._output.wake()
        if self._is_status_lost:
            return ExitStatus(self.pid, stderr=self.stderr)
        return ExitStatus.from_returncode(self.pid, self._process.returncode, self.stderr)

    async def _exit(self) -> None:
        """Wait for the exit."""
        fd = None
        if sys.platform == "linux":
            with suppress(OSError):  # not allowed, no descriptor left, or it is gone
                fd = os.pidfd_open(self.pid)
        try:
            while not self._has_exited():
                await (anyio.sleep(_EXIT_POLL) if fd is None else anyio.wait_readable(fd))
        finally:
            if fd is not None:
                os.close(fd)

    def _has_exited(self) -> bool:
        """Whether the process has exited; if so, it is reaped."""
        if sys.platform == "win32":  # pragma: no cover - for the type checker
            raise NotImplementedError
        if self._process.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                # This program ignores SIGCHLD, or waits for any child: who reaped it has not kept its status for us.
                self._is_status_lost = True
                self._process.returncode = 0
            else:
                if pid:
                    self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode is not None

    @property
    def stderr(self) -> str:
        return b"".join(self._tail).decode("utf-8", "replace")

    async def drain_stderr(self) -> None:
        with suppress(anyio.ClosedResourceError):
            while not self._stderr_ended:
                await anyio.wait_readable(self._stderr)
                self._read_stderr()

    def _read_stderr(self) -> bool:
        """Read a chunk of what stderr holds now; whether there was any."""
        try:
            chunk = os.read(self._stderr, _STDERR_CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._stderr_ended = True
            return False
        self._tail.append(chunk)
        self._tail_size += len(chunk)
        while self._tail_size - len(self._tail[0]) >= STDERR_TAIL:
            self._tail_size -= len(self._tail.popleft())
        self.on_stderr(chunk)
        return True

    async def stop(self, grace: float) -> None:
        # The MCP way to stop a stdio server is to close its stdin.
        self._close_stdin()
        with anyio.move_on_after(grace / 2):
            while not self._has_exited():
                await anyio.sleep(_GROUP_POLL)
        # The signal is sent even if the leader has exited: its children, as under `npx`, may still be running.
        self._signal(signal.SIGTERM)
        self._signal(_SIGCONT)  # a stopped process handles SIGTERM only once it continues
        with anyio.move_on_after(grace / 2):
            while self._signal(0):
                self._has_exited()  # reaps the leader, which as a zombie would keep the group alive
                await anyio.sleep(_GROUP_POLL)
        self.kill()
        with anyio.move_on_after(_REAP):
            while not self._has_exited():
                await anyio.sleep(_GROUP_POLL)

    def kill(self) -> None:
        self._signal(_SIGKILL)
        self._close_stdin()

    def _signal(self, number: int) -> bool:
        """Signal the group, which may outlive its leader; whether any process of it existed."""
        if sys.platform == "win32":  # pragma: no cover - for the type checker
            raise NotImplementedError
        # Once it is gone, its number may be used for another group; and a fork of this program that ends, and runs what
        # is left to run in its copy of the program's frames, must leave the group alone.
        if self._is_group_gone or os.getpid() != self._owner:
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            self._is_group_gone = True
            return False
        except PermissionError:  # raised by macOS for zombies; it does not prove that the group is gone
            return not self._has_exited()
        return True

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            # Once closed, the number may be reused for another file, so `send` must not find it any more.
            fd, self._stdin = self._stdin, None
            _notify_closing(fd)
            os.close(fd)

    def close(self) -> None:
        # Usually it was reaped long ago. If `stop` was interrupted, it has just been killed and takes a moment to end.
        until = time.monotonic() + _REAP_NOW
        while not self._has_exited() and time.monotonic() < until:
            time.sleep(0.001)
        self._guard.dismiss()
        self._close_stdin()
        self._exited = True
        with suppress(RuntimeError):  # the event loop is closed
            self._output.wake()
        _notify_closing(self._stderr)
        for fd in (self._stdout, self._stderr):
            os.close(fd)


def _notify_closing(fd: int) -> None:
    """Wake the tasks that wait for `fd`, unless the event loop has ended before them."""
    with suppress(RuntimeError):
        anyio.notify_closing(fd)


class WindowsProcess:  # pragma: no cover - Windows only
    """A process in a job object, started by the SDK's helpers; its stderr is written to a temporary file."""

    def __init__(self, process: Any, errlog: Any) -> None:
        self.pid: int = process.pid
        self.on_stderr: Callable[[bytes], object] = lambda _: None
        self._process = process
        self._errlog = errlog

    @classmethod
    async def spawn(cls, command: Sequence[str], env: Mapping[str, str], cwd: str | Path | None) -> WindowsProcess:
        """Start `command`, resolving extensions such as `.cmd`.

        Raises:
            OSError: It cannot be started.
        """
        from mcp.os.win32 import utilities  # noqa: PLC0415

        errlog: Any = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            program = utilities.get_windows_executable_command(command[0])
            process = await utilities.create_windows_process(program, list(command[1:]), dict(env), errlog, cwd)
        except BaseException:
            errlog.close()
            raise
        return cls(process, errlog)

    async def receive(self) -> bytes:
        try:
            return bytes(await self._process.stdout.receive())
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return b""

    def send_nowait(self, data: bytes) -> int:  # noqa: ARG002
        return 0

    async def send(self, data: memoryview) -> None:
        try:
            await self._process.stdin.send(bytes(data))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as exc:
            raise BrokenPipeError("stdin is closed") from exc

    async def wait(self) -> ExitStatus:
        while self._process.returncode is None:
            await anyio.sleep(0.05)
        self._errlog.seek(max(0, self._errlog.tell() - STDERR_TAIL))
        stderr = self._errlog.read()
        self.on_stderr(stderr.encode())
        return ExitStatus(self.pid, code=self._process.returncode, stderr=stderr)

    @property
    def stderr(self) -> str:
        return ""  # it is in a file that the process holds open, and is read at the exit

    async def drain_stderr(self) -> None:
        return

    async def stop(self, grace: float) -> None:
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._process.stdin.aclose()
        with anyio.move_on_after(grace):
            while self._process.returncode is None:
                await anyio.sleep(0.05)
        self.kill()

    def kill(self) -> None:
        with suppress(OSError):
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(self.pid)], check=False, capture_output=True)  # noqa: S603, S607

    def close(self) -> None:
        self._errlog.close()


def is_stopped(group: int) -> bool:
    """Whether any process of a group is known to be stopped (SIGSTOP); False on systems other than Linux.

    The server may be a child of the started process, as under `npx`. State and group are the first and third fields
    after the name in `/proc/PID/stat`, see proc(5).
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, its_group, *_ = stat.read_bytes().rpartition(b")")[2].split()
        except (OSError, ValueError):
            continue  # it has just exited
        if state in {b"T", b"t"} and int(its_group) == group:
            return True
    return False


def _pipes(count: int) -> list[tuple[int, int]]:
    """Create `count` pipes, or none if file descriptors run out."""
    pairs: list[tuple[int, int]] = []
    try:
        for _ in range(count):
            pairs.append(os.pipe())  # noqa: PERF401 - the pipes made so far must be closed when the next one fails
    except OSError:
        for fd in chain(*pairs):
            os.close(fd)
        raise
    return pairs


async def spawn(command: Sequence[str], env: Mapping[str, str], cwd: str | Path | None) -> ServerProcess:
    """Start a server process with piped stdin, stdout and stderr.

    Raises:
        OSError: It cannot be started.
    """
    if sys.platform == "win32":  # pragma: no cover
        return await WindowsProcess.spawn(command, env, cwd)
    return await PosixProcess.spawn(command, env, cwd)
