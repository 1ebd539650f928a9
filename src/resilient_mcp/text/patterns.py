"""Finds credentials in text that were not known before: in headers, pairs, URLs, logins, and by known prefixes."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias
from urllib.parse import unquote_plus

from .credentials import (
    KNOWN,
    MASK,
    is_bare_secret,
    is_credential,
    is_identifier,
    is_password,
    is_path,
    is_random,
    is_word,
)

_NAMES = (
    r"(?:(?:api|access|private|secret|subscription|signing)[-_ ]?key|token(?!s)|secret|passw(?:or)?d|passphrase|pwd"
    r"|credentials?|signature|authorization|cookie)"
)
# Hints for `_NAMED` and `_PREFIXED`, see `_PATTERNS`: lower-case text of which each match contains at least one.
_NAMES_BEGIN = (
    *("key", "token", "secret", "passw", "passphrase", "pwd", "credential", "signature", "authorization", "cookie"),
)

_KNOWN_BEGIN = (
    *(
        "sk-",
        "xai-",
        "pul-",
        "nvapi-",
        "pplx-",
        "tvly-",
        "k_live_",
        "k_test_",
        "whsec_",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
    ),
    *("ghr_", "_pat_", "glpat-", "gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "gloas-", "glagent-", "xox", "xapp-"),
    *("_v1_", "shp", "lin_api_", "lsv2_", "gsk_", "sbp_", "sb_secret_", "figd_", "ntn_", "r8_", "pmak-", "cfpat-"),
    *("gocspx-", "atatt3", "atctt3", "sntry", "hvs.", "ya29.", "age-secret", "hf_", "npm_", "pypi-", "akia", "asia"),
    *("aiza", "sg.", ":aa", "eyj", "-----begin"),
)
# What separates a name and its value in text, JSON, JSON in JSON, and the `repr` of headers.
_BETWEEN = r"""\\{0,3}["']?(?:\s{0,3}[:=]\s{0,3}|,\s{0,2}(?=b?["']))(?:b(?=["']))?\\{0,3}["']?"""

_HEADER = re.compile(
    rf"""\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key)({_BETWEEN})([^\r\n"'\\]+)""", re.IGNORECASE
)

_BEARER = re.compile(r"\b(bearer)(\s{1,3})([\w.~+/=-]{6,})", re.IGNORECASE)

_BASIC = re.compile(r"\b(basic)(\s{1,3})([A-Za-z0-9+/]{6,}={0,2})", re.IGNORECASE)

_USERINFO = re.compile(r"""()(://)([^\s/?#"'<>]{1,256})(?=@)""")

_QUERY = re.compile(r"""(://[^\s?#"'<>]{1,256})(\?)([^\s"'<>]+)""")

_NAMED = re.compile(
    rf"""({_NAMES})(\\{{0,3}}["']?\s{{0,3}}[=:]\s{{0,3}})"""
    r"""("[^"\n]{1,4096}"?|'[^'\n]{1,4096}'?|\\{1,3}["'][^\n"'\\]{1,4096}|[^\s"'&,;<>\\]{1,4096})""",
    re.IGNORECASE,
)

_LOGIN = re.compile(
    r"""(?<!\S)(-u|--user|--userpwd|--basic-auth|--proxy-user)([ =]{1,2}["']?[^\s:"'=]{1,64}:)([^\s"']{1,256})"""
)

QUOTES = "\\\"' "

_PREFIXED = re.compile(rf"()()({KNOWN.pattern})")

# The value after a colon may be prose: it is a secret only with a digit, a change to upper case or base64 padding.
_GENERATED = re.compile(r"[0-9=]|[a-z][A-Z]")
# Source lines in a traceback: `token = state.push(...)`, `password == ""`, `secret = {}`.
_CODE = re.compile(r"[={(\[]|[A-Za-z_][\w.]{0,100}[(\[]")

_PROSE = re.compile(r"[A-Za-z]+[,.]?(?: [A-Za-z]+[,.]?)+")

SCHEME = re.compile(r"(bearer|basic|token|apikey|api-key|digest|negotiate) +(?=\S)", re.IGNORECASE)


def _is_header_secret(match: re.Match[str]) -> bool:
    value = match[3].strip()
    return not is_word(value) and (bool(SCHEME.match(value)) or not _PROSE.fullmatch(value))


def _is_bearer(match: re.Match[str]) -> bool:
    return bool(_GENERATED.search(match[3])) and not is_word(match[3])


def _is_basic(match: re.Match[str]) -> bool:
    return ":" in decoded(match[3])


def _is_userinfo(match: re.Match[str]) -> bool:
    return not match[3].isalpha()  # "git@" is a user name without a password


def _is_query_secret(match: re.Match[str]) -> bool:
    return any(_is_parameter_secret(*pair.partition("=")) for pair in re.split("[&;]", match[3]))


def _is_parameter_secret(name: str, equals: str, value: str) -> bool:
    if not equals:
        return is_bare_secret(name)
    if is_credential(unquote_plus(name)):
        return not is_word(value)
    return bool(KNOWN.search(value)) or (is_random(value) and not is_identifier(name))


def _is_named_secret(match: re.Match[str]) -> bool:
    value = match[3].strip(QUOTES)
    if is_word(value) or is_path(value) or _CODE.match(match[3]):
        return False
    return "=" in match[2] or match[3][0] in "\"'\\" or bool(_GENERATED.search(value))


def _is_login(match: re.Match[str]) -> bool:
    return is_password(match[2].strip("=:" + QUOTES), match[3])


def _is_known(_match: re.Match[str]) -> bool:
    return True


_Pattern: TypeAlias = tuple[tuple[str, ...], re.Pattern[str], Callable[[re.Match[str]], bool]]

# Each pattern matches a name, a separator and a value. It is tried only on text whose lower case contains one of its
# hints, which most text does not.
# What pydantic quotes of a long value that it rejects is cut in its middle, and half a secret is not recognized.
_CUT_INPUT = re.compile(r"(input_value)(=)([^\n]{1,80}?\.\.\.[^\n]{1,80}?)(?=, input_type=)")

_PATTERNS: tuple[_Pattern, ...] = (
    (("input_value=",), _CUT_INPUT, lambda _: True),
    (("authorization", "cookie", "x-api-key"), _HEADER, _is_header_secret),
    (("bearer",), _BEARER, _is_bearer),
    (("basic",), _BASIC, _is_basic),
    (("@",), _USERINFO, _is_userinfo),
    (("?",), _QUERY, _is_query_secret),
    (_NAMES_BEGIN, _NAMED, _is_named_secret),
    (("-u ", "-u=", "--user", "--basic-auth", "--proxy-user"), _LOGIN, _is_login),
    (_KNOWN_BEGIN, _PREFIXED, _is_known),
)


def occurring(text: str) -> Sequence[_Pattern]:
    """The patterns that may match somewhere in `text`."""
    lower = text.lower()
    return [pattern for pattern in _PATTERNS if any(hint in lower for hint in pattern[0])]


def masked(text: str, patterns: Sequence[_Pattern] | None = None) -> str:
    """`text` with everything masked that looks like a credential or is named as one.

    Args:
        text: Text of bounded length, since this takes up to 1 µs per character.
        patterns: Those that `occurring` returned for more text than this, or None to search for all.
    """
    lower = text.lower()
    for hints, pattern, is_secret in _PATTERNS if patterns is None else patterns:
        for hint in hints:
            if hint in lower:
                text = pattern.sub(lambda m: f"{m[1]}{m[2]}{MASK}" if is_secret(m) else m[0], text)  # noqa: B023
                break
    return text


def found(text: str) -> Iterator[str]:
    """The values that `masked` would mask."""
    for _, pattern, is_secret in _PATTERNS:
        for match in pattern.finditer(text):
            if is_secret(match):
                yield match[3].strip(QUOTES)


def decoded(text: str) -> str:
    """`text` decoded from base64; empty if it is not base64 of printable ASCII."""
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode("ascii")
    except ValueError:
        return ""
    return decoded if decoded.isprintable() else ""
