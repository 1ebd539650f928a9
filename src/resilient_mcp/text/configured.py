"""Finds the credentials in a configuration: environment, headers, command lines, URLs, and values nested in others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, unquote_plus

from .credentials import (
    DIGEST,
    KNOWN,
    MASK,
    ROOTED,
    is_bare_secret,
    is_credential,
    is_credential_header,
    is_identifier,
    is_password,
    is_path,
    is_random,
    is_token,
    is_word,
    is_worth_keeping,
    split_url,
)
from .patterns import QUOTES, SCHEME, decoded, found

# Characters of the shortest cookie value that counts as a secret.
_SHORTEST_COOKIE = 6
# The same for what follows the prefix of a known kind of credential.
_SHORTEST_REST = 8

_MAX_DEPTH = 32
# Flags whose value is a named value (`NAME=value`, `Name: value`), and flags that take a login.
_ENVIRONMENT_FLAGS = frozenset({"-e", "--env", "--environment", "--env-var"})

_HEADER_FLAGS = frozenset({"-H", "--header", "--headers"})

_LOGIN_FLAGS = frozenset({"-u", "--user", "--userpwd", "--basic-auth", "--proxy-user", "--auth", "--credentials"})
# A short flag with its value attached, such as `-eNAME=value`.
_ATTACHED = re.compile(r"(-[eHu])(?=[^-\s])(.+)", re.DOTALL)

_SEPARATOR = re.compile(r"""[\s"'`(){}\[\]<>|,;]+""")

_PIECE = re.compile(r"[\w~+-]+")

_LINK = re.compile(r"(?<![\w+.-])[A-Za-z][\w+.-]*(?::[a-z]+)?://[^\s\"'<>`]+")


def in_named(name: str, value: str) -> Iterator[str]:
    """The secrets in a named value: of a variable, a flag or a parameter."""
    value = value.strip()
    if is_credential(name) and "://" not in value and not is_path(value):
        yield from _in_credential(name, value)
    elif is_identifier(name):
        yield from (match[0] for match in KNOWN.finditer(value))
    else:
        yield from in_value(value)


def in_header(name: str, value: str) -> Iterator[str]:
    """The secrets in a header."""
    if is_credential_header(name):
        yield from _in_credential(name, value)
    else:
        yield from in_named(name, value)


def _in_credential(name: str, value: str) -> Iterator[str]:
    """A credential as it stands, without its scheme, and the parts of a login or of cookies."""
    value = value.strip(QUOTES)
    if "cookie" in name.lower():
        values = (pair.partition("=")[2].strip(QUOTES) for pair in value.split(";"))
        yield from (one for one in values if len(one) >= _SHORTEST_COOKIE and not is_word(one))
    if scheme := SCHEME.match(value):
        credential = value[scheme.end() :]
        yield from _in_login(decoded(credential))
        yield credential
    elif is_worth_keeping(value):
        yield value
        yield from _in_login(value)
    yield from in_value(value)


def _in_login(text: str) -> Iterator[str]:
    """The password in `user:password`, and the pair."""
    user, colon, password = text.partition(":")
    if colon and is_password(user, password):
        yield text
        yield password


def in_value(value: str) -> Iterator[str]:
    """The secrets in a value whose name is no help: of URLs, pairs, JSON and lists only the secret parts."""
    for secret in found(value):
        yield secret
        if KNOWN.match(secret) and len(rest := re.split("[-_.]", secret)[-1]) >= _SHORTEST_REST:
            yield rest  # some servers quote a key without its prefix
    try:
        yield from _in_json(json.loads(value if value[:1] in {"{", "["} else ""), "", 0)
    except (ValueError, RecursionError):
        for link in _LINK.findall(value):
            yield from in_url(link)
        for word in _SEPARATOR.split(DIGEST.sub(" ", _LINK.sub(" ", value))):
            if not ROOTED.match(word):
                yield from _in_word(word)


def _in_word(word: str) -> Iterator[str]:
    """The secrets in `name=value`, or in a word that looks random."""
    name, equals, value = word.rstrip("=").partition("=")  # base64 may end in "="
    if equals:
        yield from in_named(name, value)
    elif is_random(word):
        yield word
        yield from (piece for piece in _PIECE.findall(word) if is_random(piece))


def _in_json(value: Any, name: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        yield from in_named(name, value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _in_json(item, key, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _in_json(item, name, depth + 1)


def in_pairs(pairs: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """The secrets in named values: the variables of an environment, the parameters of a query."""
    for name, value in pairs:
        yield from in_named(name, str(value))


def in_arguments(arguments: Sequence[str]) -> Iterator[str]:
    """The secrets in a command line: `--name value`, `--name=value`, `-eNAME=value`, `-H 'Name: value'` and others."""
    before = ""
    for argument in arguments:
        attached = _ATTACHED.fullmatch(argument)
        if attached:
            yield from _in_flag(*attached.groups())
        elif argument.startswith("--") and "=" in argument:
            yield from _in_flag(*argument.split("=", 1))
        elif argument.startswith("-"):
            yield from in_value(argument[2:])  # a short flag may have its value attached
        else:
            yield from _in_flag(before, argument)
        before = argument if argument.startswith("-") and not attached and "=" not in argument else ""


def _in_flag(flag: str, value: str) -> Iterator[str]:
    if flag in _HEADER_FLAGS:
        name, _, value = value.partition(":")
        yield from in_header(name, value.strip())
    elif flag in _ENVIRONMENT_FLAGS:
        name, _, value = value.partition("=")
        yield from in_named(name, value)
    else:
        if flag in _LOGIN_FLAGS:
            yield from _in_login(value)
        yield from in_named(flag, value)


def in_url(url: str) -> Iterator[str]:
    """The secrets in a URL: userinfo, random host labels, token-like segments, parameters, the fragment."""
    scheme, authority, path, query, fragment = split_url(url)
    userinfo, _, host = authority.rpartition("@")
    user, colon, password = unquote(userinfo).partition(":")
    if colon:
        yield f"{user}:{password}"
        yield from (one for one in (password, userinfo.partition(":")[2]) if one != user)
    if is_bare_secret(user) or (user and not colon and not user.isalpha()):
        yield user
    for label in host.split("."):
        if is_random(label):
            yield from (label, label.lower())
    if scheme.lower() not in {"file", "unix"}:
        for segment in DIGEST.sub("", path).split("/"):
            head, *parameters = segment.split(";")
            if is_token(unquote(head)):
                yield from (head, unquote(head))
            for parameter in parameters:
                yield from _in_query(parameter)
    yield from _in_query(query)
    yield from _in_query(DIGEST.sub("", f"#{fragment}").lstrip("#"))


def _in_query(query: str) -> Iterator[str]:
    for pair in re.split("[&;]", query):
        name, equals, value = pair.partition("=")
        if not equals and is_bare_secret(pair):
            yield unquote_plus(pair)
        yield from in_named(unquote_plus(name), unquote_plus(value))


def shown(value: Any, name: str = "", depth: int = 0) -> Any:
    """`value`, given under `name`, as it may be shown in a message: secrets are masked."""
    if isinstance(value, str):
        return MASK if any(True for _ in in_named(name, value)) else value
    if isinstance(value, Mapping | list | tuple) and depth > _MAX_DEPTH:
        return MASK
    if isinstance(value, Mapping):
        return {shown(key): shown(item, str(key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item, name, depth + 1) for item in value]
    is_harmless = value is None or isinstance(value, bool) or not is_credential(name)
    return value if is_harmless else MASK
