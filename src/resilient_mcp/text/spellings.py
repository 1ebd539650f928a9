"""Finds a known secret in any form in which it may be echoed: escaped for JSON, URLs or HTML, or encoded.

No escaping changes letters and digits, so most secrets are searched for literally. The others become a pattern that
allows any escaping of each special character, which is applied only to text that contains the secret's longest run of
letters and digits.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.entities import codepoint2name

# Characters of the shortest base64 form that is searched for.
_SHORTEST_CORE = 6
# Runs of characters that no escaping changes; any other character may be escaped, and runs of whitespace and of
# backslashes may change in length.
_PART = re.compile(r"[A-Za-z0-9_.~-]+|\s+|\\+|.", re.DOTALL)

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")
# The most characters that one may become: `&amp;#x00002f;`, or `\\u002f` where the whole secret is escaped.
_QUOTED, _ESCAPED = 20, 6

_WHITESPACE = r"(?:\s|\+|\\{1,8}[nrt]|%(?:25)?(?:20|0[aAdD9])|&#(?:9|1[03]|32|[xX](?:9|20|[aAdD]));)"

_RUN = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


@dataclass(frozen=True, slots=True)
class Spelling:
    """How to find one secret.

    Attributes:
        anchor: A part that all escapings leave as it is; the secret itself if there is no pattern.
        pattern: Matches the secret in any escaping, or None.
        length: Characters of its longest form.
        cores: Strings of which text contains one if it holds the secret in base64 or hex.
        escaped: The secret with every character as a JSON escape of four hexadecimal digits, in lower and upper case.
    """

    anchor: str
    pattern: re.Pattern[str] | None
    length: int
    cores: frozenset[str]
    escaped: tuple[str, str]

    @classmethod
    def of(cls, secret: str) -> Spelling:
        """The spelling of `secret`, which must not begin or end with whitespace."""
        parts = _PART.findall(secret)
        plain = [part for part in parts if _PLAIN.fullmatch(part)]
        quoted = plain != parts
        return cls(
            anchor=max(plain, key=len, default=""),
            pattern=re.compile("".join(map(_spelled, parts))) if quoted else None,
            length=max(len("".join(plain)) + _QUOTED * (len(secret) - len("".join(plain))), _ESCAPED * len(secret)),
            cores=frozenset(_cores(secret)),
            escaped=_escaped(secret),
        )


def _spelled(part: str) -> str:
    """A pattern for one part of a secret."""
    if _PLAIN.match(part):
        return re.escape(part)
    if part.isspace():
        return f"{_WHITESPACE}{{1,{2 * len(part)}}}"
    if part[0] == "\\":
        return rf"(?:\\|%(?:25)?5[cC]|&#92;|&#[xX]5[cC];){{1,{8 * len(part)}}}"
    return f"(?:{'|'.join(_quotings(part))})"


def _quotings(character: str) -> Iterator[str]:
    """Patterns for one special character."""
    yield r"\\{0,8}" + re.escape(character)
    code = ord(character)
    units = re.findall("....", character.encode("utf-16-be", "surrogatepass").hex())
    names = [codepoint2name.get(code), "apos" if character == "'" else None]
    for ignoring_case in (
        "".join(f"%(?:25)?{byte:02x}" for byte in character.encode("utf-8", "replace")),
        "".join(rf"\\{{1,8}}u{unit}" for unit in units),
        rf"\\{{1,8}}(?:x{code:02x}|U{code:08x})",
        rf"&(?:amp;)?#(?:0{{0,4}}{code}|x0{{0,4}}{code:x});",
        *(rf"&(?:amp;)?{name};" for name in names if name),
    ):
        yield f"(?i:{ignoring_case})"


def _cores(secret: str) -> Iterator[str]:
    """Substrings of any text that has `secret` in base64 or hex, alone or inside something longer.

    In base64 a byte may start at any of three bit offsets, so there are three forms. Their first and last characters
    are left out where they also depend on the bytes around the secret.
    """
    data = secret.encode("utf-8", "replace")
    yield from (data.hex(), data.hex().upper())
    for before in range(3):
        begin, end = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        core = base64.b64encode(b"\0" * before + data).decode()[begin:end]
        if len(core) >= _SHORTEST_CORE:
            yield from (core, core.replace("+", "-").replace("/", "_"))


def _escaped(secret: str) -> tuple[str, str]:
    units = re.findall("....", secret.encode("utf-16-be", "surrogatepass").hex())
    return "".join(rf"\u{unit}" for unit in units), "".join(rf"\u{unit.upper()}" for unit in units)


def without_runs(text: str, cores: Iterable[str], mask: str) -> str:
    """`text` with each run of base64 or hex that contains one of `cores` replaced by `mask`."""
    found = [core for core in cores if core in text]
    return _RUN.sub(lambda run: mask if any(core in run[0] for core in found) else run[0], text) if found else text
