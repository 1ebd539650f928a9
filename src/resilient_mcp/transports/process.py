"""A server process: spawned in a group of its own, watched by its exit, read and written without blocking.

The pipes are our own. On POSIX that lets a write that fits the pipe happen at once, makes `wait` return at the exit and
not at the pipe's end (a grandchild may hold it), and leaves nothing for an event loop to close late. On Windows the
SDK's helper spawns the process in a job object and resolves commands such as `npx`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.abc

from ..evidence import ExitStatus

_CHUNK = 256 * 1024
_STDERR_CHUNK = 8 * 1024
"""Bytes of stderr read at once: they may be thousands of lines, and the event loop waits for each to be logged."""
STDERR_TAIL = 64 * 1024
_DRAIN_LIMIT = 1024 * 1024
"""Bytes read at most after the exit: a pipe holds no more; a grandchild that goes on writing is not waited for."""
_GROUP_POLL = 0.01


class ServerProcess(Protocol):
    """What the stdio transport needs of a process."""

    pid: int
    on_stderr: Callable[[bytes], object]
    """Gets what the process writes to stderr, as it comes."""

    @property
    def stderr(self) -> str:
        """The last of what it has written to stderr so far, at most 64 KiB."""
        ...

    async def receive(self) -> bytes:
        """The next bytes of stdout; empty at its end, or when the process exited and all it wrote was read."""
        ...

    def send_nowait(self, data: bytes) -> int:
        """Write what the pipe takes at once; how many bytes that was. Raises OSError when the pipe is broken."""
        ...

    async def send(self, data: memoryview) -> None:
        """Write all of `data`. Raises OSError when the pipe is broken."""
        ...

    async def wait(self) -> ExitStatus:
        """Wait for the exit; run by one task only."""
        ...

    async def drain_stderr(self) -> None:
        """Keep reading stderr; returns at its end."""
        ...

    async def stop(self, grace: float) -> None:
        """Close stdin, then end the process and its group: politely for up to `grace` seconds, then by force."""
        ...

    def kill(self) -> None:
        """End the process and its group by force, now."""
        ...

    def close(self) -> None:
        """Release the pipes."""
        ...


class PosixProcess:
    """A process with pipes of our own, in a session of its own."""

    def __init__(self, process: anyio.abc.Process, stdin: int, stdout: int, stderr: int) -> None:
        self.pid = process.pid
        self.on_stderr: Callable[[bytes], object] = lambda _: None
        self._process = process
        self._stdin: int | None = stdin
        self._stdout = stdout
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
            OSError: It cannot be started: not found, not executable, no such `cwd`.
        """
        (child_in, stdin), (stdout, child_out), (stderr, child_err) = _pipes(3)
        try:
            process = await anyio.open_process(
                list(command),
                stdin=child_in,
                stdout=child_out,
                stderr=child_err,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        except BaseException:
            for fd in (stdin, stdout, stderr):
                os.close(fd)
            raise
        finally:
            for fd in (child_in, child_out, child_err):
                os.close(fd)
        return cls(process, stdin, stdout, stderr)

    async def receive(self) -> bytes:
        while not self._exited:
            try:
                await anyio.wait_readable(self._stdout)
            except anyio.ClosedResourceError:  # woken by `wait`: the process is gone
                break
            with suppress(BlockingIOError):
                return os.read(self._stdout, _CHUNK)
        if self._drained >= _DRAIN_LIMIT:
            return b""
        try:
            chunk = os.read(self._stdout, _CHUNK)
        except BlockingIOError:
            return b""
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
        returncode = await self._process.wait()
        for _ in range(_DRAIN_LIMIT // _STDERR_CHUNK):
            if not self._read_stderr():
                break
        self._exited = True
        anyio.notify_closing(self._stdout)
        return ExitStatus.from_returncode(self.pid, returncode, self.stderr)

    @property
    def stderr(self) -> str:
        return b"".join(self._tail).decode("utf-8", "replace")

    async def drain_stderr(self) -> None:
        with suppress(anyio.ClosedResourceError):
            while not self._stderr_ended:
                await anyio.wait_readable(self._stderr)
                self._read_stderr()

    def _read_stderr(self) -> bool:
        """Read some of what stderr holds now; whether there was any."""
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
        self._close_stdin()
        with anyio.move_on_after(grace / 2):
            while self._process.returncode is None:
                await anyio.sleep(_GROUP_POLL)
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a stopped process acts on SIGTERM only when it runs
        with anyio.move_on_after(grace / 2):
            while self._signal(0):
                # Reading the return code reaps the leader on trio; a zombie keeps the group alive.
                _ = self._process.returncode
                await anyio.sleep(_GROUP_POLL)
        self.kill()

    def kill(self) -> None:
        self._close_stdin()
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> bool:
        """Signal the group, which outlives its leader; whether any of it was there."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS answers so for zombies; no proof that the group is gone
            return self._process.returncode is None
        return True

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            fd, self._stdin = self._stdin, None
            anyio.notify_closing(fd)
            os.close(fd)

    def close(self) -> None:
        self._close_stdin()
        self._exited = True
        for fd in (self._stdout, self._stderr):
            anyio.notify_closing(fd)
            os.close(fd)


class WindowsProcess:  # pragma: no cover - Windows only
    """A process in a job object, through the SDK's helpers; stderr goes to a temporary file."""

    def __init__(self, process: Any, errlog: Any) -> None:
        self.pid: int = process.pid
        self.on_stderr: Callable[[bytes], object] = lambda _: None
        self._process = process
        self._errlog = errlog

    @classmethod
    async def spawn(cls, command: Sequence[str], env: Mapping[str, str], cwd: str | Path | None) -> WindowsProcess:
        """Start `command`; `.cmd` and the like are found.

        Raises:
            OSError: It cannot be started.
        """
        from mcp.os.win32 import utilities  # noqa: PLC0415

        errlog = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
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
        return ""  # it is in a file that the process has open, and read at its end

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
    """Whether the operating system says that a process of a group is stopped (SIGSTOP); False where it does not say so.

    The server may be a child of what was started, as under `npx`. Only Linux tells: state and group are the first and
    third fields after the name in `/proc/PID/stat`, see proc(5).
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, its_group, *_ = stat.read_bytes().rpartition(b")")[2].split()
        except (OSError, ValueError):
            continue  # it has just ended
        if state in {b"T", b"t"} and int(its_group) == group:
            return True
    return False


def _pipes(count: int) -> list[tuple[int, int]]:
    """So many pipes or, where descriptors are used up, none."""
    pairs: list[tuple[int, int]] = []
    try:
        for _ in range(count):
            pairs.append(os.pipe())  # noqa: PERF401 - those that there are must be known when the next one fails
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
