"""The lines of a dead process's stderr that say why it died (sans-I/O).

The last lines are not always those: npm names the package a dozen lines before its end, and a stack trace of Node ends
with the version of Node. So what every failure of a tool has in common is left out, and lines that speak of an error
go before others.
"""

from __future__ import annotations

import re

from .printable import printable

_READ = 1000
"""Lines from the end that are looked at."""

_SHOWN = 300
"""Characters of one line that are shown."""

_NPM = re.compile(r"npm (?:error|ERR!)(?: (?:code|\d{3}))?(?= |$)")
"""What npm writes in front of each line of an error."""

_SAYS_NOTHING = re.compile(
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
    """The lines that most likely name the cause, in their order.

    Of a text that is longer, the last line is always among them unless it says nothing; then lines that look like
    errors are preferred to others, those to indented ones, which are details, and late lines to early ones.

    Args:
        stderr: What the process wrote, without secrets.
        lines: How many lines at most.

    Returns:
        Printable lines; none is empty.
    """
    written = [line for line in stderr.splitlines() if printable(line)][-_READ:]
    telling = [line for line in written if not _SAYS_NOTHING.match(_plain(line))] or written
    last = len(telling) - 1
    best = sorted(range(len(telling)), key=lambda n: (n == last, _rank(telling[n]), n), reverse=True)
    return [printable(telling[n], _SHOWN) for n in sorted(best[:lines])]


def _plain(line: str) -> str:
    """A line without control characters and what a tool writes in front of each of them."""
    return _NPM.sub("", printable(line, _SHOWN), count=1).strip()


def _rank(line: str) -> int:
    """2 for a line that says why, 1 for another, 0 for a detail: an indented one."""
    if _SAYS_WHY.search(_plain(line)):
        return 2
    prefix = _NPM.match(line)
    return 0 if line[prefix.end() + 1 if prefix else 0 :][:1].isspace() else 1
