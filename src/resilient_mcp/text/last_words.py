"""Picks the lines of an exited process's stderr that explain why it exited (sans-I/O).

Those are not always the last ones: npm names the package a dozen lines before the end, and a Node stack trace ends with
the version of Node. So lines common to every failure of a tool are left out, and lines that mention an error are
preferred.
"""

from __future__ import annotations

import re

from .printable import printable

# Lines from the end that are considered.
_READ = 1000
# Characters of one line that are shown.
_SHOWN = 300

# npm's prefix on each line of an error.
_NPM = re.compile(r"npm (?:error|ERR!)(?: (?:code|\d{3}))?(?= |$)")

_BOILERPLATE = re.compile(
    r"""
      [\W_]*$                                        # brackets, carets, rules
    | at\ .*(?:[:(]|<anonymous>)                     # a frame of a stack trace of Node
    | (?:code|errno|syscall|address|port|type|path|requireStack):\ ['\[\d-]  # the properties below it
    | (?:throw\ (?:err|new)\b|Traceback\ \(most\ recent)
    | Node\.js\ v\d
    | npm\ (?:notice|warn|WARN)
    | A\ complete\ log\ of\ this\ run\ can\ be\ found
    | (?:Note\ that\ you\ can\ also\ install\ from\ a|tarball,\ folder,\ http\ url)
    | If\ you\ are\ behind\ a\ proxy,
    | This\ is\ (?:a\ permanent\ error|probably\ not\ a\ problem\ with\ npm)
    | (?:Run|See)\ '[\w ]+--help'
    """,
    re.VERBOSE,
)

_SAYS_WHY = re.compile(
    r"error\b|exception\b|fatal|panic|fail|cause|cannot|can't|could\ not|couldn't|unable|invalid|missing|required"
    r"|no\ (?:such|module|solution|matching)|not\ (?:\w+\ )?(?:found|exist|installed|set|in\ this\ registry)|denied"
    r"|refused|unauthorized|because",
    re.IGNORECASE,
)


def last_words(stderr: str, lines: int) -> list[str]:
    """Return the lines that most likely name the cause, in their original order.

    Lines that are common to every failure are dropped, unless there are no others. Of the rest, the last line is always
    kept; then come lines that look like errors, other lines, and indented ones, which are details, late before early.

    Args:
        stderr: What the process wrote, without secrets.
        lines: The most lines to return.

    Returns:
        Printable lines, none of them empty.
    """
    written = [line for line in stderr.splitlines() if printable(line)][-_READ:]
    telling = [line for line in written if not _BOILERPLATE.match(_plain(line))] or written
    last = len(telling) - 1
    best = sorted(range(len(telling)), key=lambda n: (n == last, _rank(telling[n]), n), reverse=True)
    return [printable(telling[n], _SHOWN) for n in sorted(best[:lines])]


def _plain(line: str) -> str:
    """A line without control characters and without the prefix that npm writes on each line."""
    return _NPM.sub("", printable(line, _SHOWN), count=1).strip()


def _rank(line: str) -> int:
    """2 for a line that mentions an error, 0 for an indented one (a detail), 1 for any other."""
    if _SAYS_WHY.search(_plain(line)):
        return 2
    prefix = _NPM.match(line)
    return 0 if line[prefix.end() + 1 if prefix else 0 :][:1].isspace() else 1
