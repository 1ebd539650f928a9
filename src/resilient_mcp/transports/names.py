"""The default name of a server: that of its package, script or image, not that of its launcher.

Sans-I/O. `npx -y @scope/server@1.2` is `@scope/server`, `uv run weather/server.py` is `weather/server.py`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

# Launchers nested in launchers, such as `cmd /c npx`.
_MAX_NESTING = 4

_SUFFIX = re.compile(r"\.(?:exe|cmd|bat|ps1)$", re.IGNORECASE)
# What may follow a package's name: `@1.2`, `[extra]`, `==1.2`.
_VERSION = re.compile(r"(?<=.)(?:@[^/@]*|\[[^]]*\].*|[=<>~!]=.*)$")

_FILE = re.compile(r"^[^:]*[\\/]|\.(?:pyz?|[cm]?[jt]s|sh)$")

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
# File names too generic to identify a server, and directories too generic to qualify them.
_PLAIN_STEMS = frozenset({"index", "main", "server", "cli", "app", "run", "start", "mcp", "__main__"})

_PLAIN_DIRECTORIES = frozenset({"dist", "build", "src", "lib", "bin", "out", "server", ".", ".."})


@dataclass(frozen=True, slots=True)
class _Launcher:
    """A program that starts another, which its first non-option argument names.

    Attributes:
        name: Turns that argument into a name.
        valued: Options that take the next argument as their value.
        plain: Options without a value, for a program where all others take one; else None.
        commands: Subcommands to skip, such as `run`.
        module: The option whose value is the module to run, or None.
        code: Options whose value is code, which contains no name.
    """

    name: Callable[[str], str]
    valued: frozenset[str] = frozenset()
    plain: frozenset[str] | None = None
    commands: frozenset[str] = frozenset()
    module: str | None = None
    code: frozenset[str] = frozenset()

    def find(self, args: Sequence[str]) -> int | None:
        """The index of the argument that names the started program; None if there is none."""
        position = 0
        while position < len(args):
            arg = args[position]
            if arg in self.code:
                return None
            if arg == self.module:
                return position + 1 if position + 1 < len(args) else None
            if arg.startswith("-") and arg != "-":
                takes_value = arg in self.valued if self.plain is None else not self._is_plain(arg)
                position += 2 if takes_value and "=" not in arg else 1
            elif arg in self.commands:
                position += 1
            else:
                return position
        return None

    def _is_plain(self, option: str) -> bool:
        assert self.plain is not None
        bundle = not option.startswith("--") and all(f"-{letter}" in self.plain for letter in option[1:])
        return option in self.plain or bundle


def _package(spec: str) -> str:
    """`@scope/name` of `@scope/name@1.2`, `name` of `name[extra]==1.2` and of `git+https://host/name.git@main`."""
    if "://" in spec:
        spec = spec.partition("#")[0].rpartition("/")[2]
    return _VERSION.sub("", spec).removesuffix(".git")


def _script(path: str) -> str:
    """The file's name, with its directory if the name alone is too generic."""
    parts = path.replace("\\", "/").split("/")
    if PurePosixPath(parts[-1]).stem in _PLAIN_STEMS:
        directory = next((part for part in reversed(parts[:-1]) if part and part not in _PLAIN_DIRECTORIES), None)
        return f"{directory}/{parts[-1]}" if directory else parts[-1]
    return parts[-1]


def _either(target: str) -> str:
    """The name of a script or a package."""
    return _script(target) if _FILE.search(target) else _package(target)


def _image(reference: str) -> str:
    """A container image without registry, tag and digest."""
    name = re.sub(r":[^/:]*$", "", reference.partition("@")[0])
    registry, slash, rest = name.partition("/")
    return rest if slash and re.search(r"[.:]|^localhost$", registry) else name


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NODE = _Launcher(
    _script,
    valued=frozenset({"-r", "--require", "--import", "--loader", "--experimental-loader", "-C", "--conditions"}),
    code=frozenset({"-e", "--eval", "-p", "--print"}),
    commands=frozenset({"run", "watch", "x"}),
)

_NPX = _Launcher(
    _package,
    valued=frozenset({"-p", "--package", "--registry", "--cache", "-w", "--workspace", "--prefix"}),
    commands=frozenset({"exec", "x", "dlx"}),
    code=frozenset({"-c", "--call"}),
)

_UV = _Launcher(
    _either,
    valued=_words(
        "-p --python --from --with --with-editable --with-requirements --directory --project --env-file --extra -w "
        "--group --index --index-url --extra-index-url --default-index --cache-dir --refresh-package"
    ),
    commands=frozenset({"run", "tool", "x"}),
    module="-m",
)

_DOCKER = _Launcher(
    _image,
    plain=_words(
        "-i -t -d -P -q --rm --init --interactive --tty --detach --privileged --read-only --publish-all --quiet "
        "--no-healthcheck --oom-kill-disable --sig-proxy --disable-content-trust"
    ),
    commands=frozenset({"run", "container"}),
)

_PYTHON = _Launcher(_script, valued=frozenset({"-W", "-X"}), module="-m", code=frozenset({"-c"}))

_SCRIPTS = _Launcher(_script, code=frozenset({"-e", "-r"}))

_LAUNCHERS: dict[str, _Launcher] = {
    **dict.fromkeys(("npx", "bunx", "pnpx", "npm", "pnpm", "yarn"), _NPX),
    **dict.fromkeys(("node", "tsx", "ts-node", "bun", "deno"), _NODE),
    **dict.fromkeys(("uvx", "uv", "pipx"), _UV),
    **dict.fromkeys(("docker", "podman", "nerdctl"), _DOCKER),
    **dict.fromkeys(("python", "pythonw", "py", "pypy"), _PYTHON),
    **dict.fromkeys(("ruby", "perl", "php", "dotnet"), _SCRIPTS),
    "java": _Launcher(_script, valued=frozenset({"-cp", "-classpath", "--class-path"}), module="-jar"),
}

_SHELLS = frozenset({"sh", "bash", "zsh", "dash", "cmd", "powershell", "pwsh", "env", "exec", "nice", "nohup", "sudo"})


def name_of_command(command: str, args: Sequence[str], nesting: int = _MAX_NESTING) -> str:
    """Return the default name of a server that a command starts.

    Args:
        command: The program.
        args: Its arguments.
        nesting: How many levels of nested launchers to look into.
    """
    program = _SUFFIX.sub("", command.replace("\\", "/").rstrip("/").rpartition("/")[2]) or command
    key = re.sub(r"[\d.]+$", "", program.lower())
    target = ""
    if key in _SHELLS and nesting and (inner := _inner(args)):
        target = name_of_command(inner[0], inner[1:], nesting - 1)
    elif (launcher := _LAUNCHERS.get(key)) is not None and (found := launcher.find(args)) is not None:
        is_module = found > 0 and args[found - 1] == launcher.module == "-m"
        target = args[found] if is_module else launcher.name(args[found])
    return target or program


def _inner(args: Sequence[str]) -> list[str]:
    """The command that a shell, or a program such as `env`, runs."""
    rest = [arg for arg in args if arg.lower() not in {"/c", "/d", "/s", "-c", "-lc", "-command", "-s", "--"}]
    if len(rest) == 1 and " " in rest[0]:
        try:
            rest = shlex.split(rest[0])
        except ValueError:  # quoting that is not POSIX
            return []
    while rest and (_ASSIGNMENT.match(rest[0]) or rest[0].startswith("-")):
        rest = rest[1:]
    return rest
