"""Keeps secrets out of everything that leaves: messages, events, log records, spans, statistics.

A `Redactor` knows the values that a client was given to keep (environment, headers, URLs, arguments that look like
credentials, the `Authorization` of each request) in the forms in which servers echo them, and how secrets look that it
was never told of. What it finds becomes `***`. Text is cleaned *before* it is cut, for half a secret is not recognized.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from mcp.client.stdio import get_default_environment
from mcp.types import ErrorData
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from . import _sdk
from .evidence import MAX_DETAIL, printable

MASK = "***"
_SHORTEST = 6
"""Characters of a value of which nothing is known but that it was given: shorter ones ("false", "debug", "8080") keep
no secret, and taking them out would blank half a log."""
_SHORTEST_NAMED = 4
"""The same where the name says that it is a credential."""
_LEARNED_KEPT = 64
_PATTERNS_READ = 64 * 1024
"""Characters that the patterns look at: a hostile error of 10 MB must not hold up everybody for seconds. Nothing that
long reaches an event, a log or an advice."""
_LINE_OF_KEY = 16
"""From this length on a line of a multi-line value (a PEM key) is a secret of its own: logs are written by line."""
_WORDS = frozenset({"true", "false", "none", "null", "auto", "basic", "bearer"})
"""What flags and headers with the name of a credential may say without being one."""
_MAX_DEPTH = 32
_MAX_VALUES = 10_000
"""Values within one value that are looked at: more is no error that a server means."""
_MAX_CHAIN = 64

_NAMES = (
    r"(?:(?:api|access|private|secret|subscription|signing)[-_ ]?key|token(?!s)|secret|passw(?:or)?d|passphrase|pwd"
    r"|credentials?|signature|authorization|cookie)"
)
_NAME = re.compile(rf"{_NAMES}$", re.IGNORECASE)
_CREDENTIAL_HEADER = re.compile(rb"auth|token|key|secret|cookie|passw|signature|credential", re.IGNORECASE)
_PUBLIC_HEADERS = frozenset(
    {"accept", "accept-encoding", "accept-language", "connection", "content-type", "user-agent"}
)
_SCHEME = re.compile(r"[A-Za-z][\w-]{0,19} +(?=\S)")
_SYMBOL = re.compile(r"[\d_~+/=-]|[a-z][A-Z]")

_HEADER = re.compile(
    r"""\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key)(\\{0,3}["']?\s{0,3}[:=]\s{0,3}\\{0,3}["']?)([^\r\n"'\\]+)""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer|basic)(\s{1,3})([\w.~+/=-]{6,})", re.IGNORECASE)
_USERINFO = re.compile(r"""()(://)([^\s/?#@"'<>]{1,256})(?=@)""")
_QUERY = re.compile(r"""(://[^\s?#"'<>]{1,256})(\?)([^\s"'<>]+)""")
_NAMED = re.compile(
    rf"""({_NAMES})(\\{{0,3}}["']?\s{{0,3}}[=:]\s{{0,3}})"""
    r"""("[^"\n]{1,4096}"?|'[^'\n]{1,4096}'?|\\{1,3}["'][^\n"'\\]{1,4096}|[^\s"'&,;<>\\]{1,4096})""",
    re.IGNORECASE,
)
_PATTERNS = (_HEADER, _BEARER, _USERINFO, _QUERY, _NAMED)

T = TypeVar("T")


class Redactor:
    """Takes secrets out of text.

    Args:
        secrets: Values to keep, as they are.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._given = {form for secret in secrets for form in _forms(secret)}
        self._learned: dict[str, list[str]] = {}
        self._sort()

    @classmethod
    def of(cls, server: Any, http_client: Any = None) -> Redactor:
        """The redactor of a client: it knows what `server` and `http_client` were configured with."""
        return cls(_configured(server, http_client))

    def _sort(self) -> None:
        learned = (form for forms in self._learned.values() for form in forms)
        self._forms = sorted({*self._given, *learned}, key=len, reverse=True)  # a secret may be part of a longer one
        self._margin = max(MAX_DETAIL, len(self._forms[0]) if self._forms else 0)

    def learn(self, secret: str) -> None:
        """Keep one more value, such as an OAuth token; of these only the latest are known."""
        if (forms := self._learned.pop(secret, None)) is not None:
            self._learned[secret] = forms
            return
        self._learned[secret] = [form for value in (secret, *_parts(secret)) for form in _forms(value)]
        if len(self._learned) > _LEARNED_KEPT:
            del self._learned[next(iter(self._learned))]
        self._sort()

    def learn_headers(self, headers: Any) -> None:
        """Keep what the headers of a request, an HTTP library's `Headers`, carry as credentials."""
        for name, value in headers.raw:
            if _carries_credentials(name):
                self.learn(value.decode("latin-1"))

    # --- text ---

    def clean(self, text: str) -> str:
        """`text` without secrets; of those that it was never told of, only the first 64 KiB."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        begin, rest = text[:_PATTERNS_READ], text[_PATTERNS_READ:]
        for pattern in _PATTERNS:
            begin = pattern.sub(_mask, begin)
        return begin + rest if rest else begin

    def line(self, text: str, limit: int = MAX_DETAIL) -> str:
        """One printable line of untrusted text without secrets, at most `limit` characters; cleaned, then cut."""
        return printable(self.head(text, 4 * limit), limit)

    def head(self, text: str, limit: int) -> str:
        """The first `limit` characters or so, without secrets. However long the text, no more is looked at."""
        if len(text) <= limit + self._margin:
            return self.clean(text)
        # What the cut went through lies in the last characters, and no mask is longer than what it stands for.
        return self.clean(text[: limit + self._margin])[: -self._margin]

    def clean_tail(self, text: str, limit: int) -> str:
        """The end of a text without secrets. From `limit` characters on it may begin in the middle of one."""
        return self.clean(text)[self._margin :] if len(text) >= limit else self.clean(text)

    # --- whatever holds text ---

    def cleaned(self, value: T) -> T:
        """`value` without secrets: a string, or containers and dataclasses of them; itself when there are none.

        Of what is too deep or too much to look at, nothing is left.
        """
        return self._cleaned(value, 0, itertools.count())  # type: ignore[no-any-return]

    def _cleaned(self, value: Any, depth: int, seen: Iterator[int]) -> Any:
        if value is None or isinstance(value, int | float):
            return value
        if depth > _MAX_DEPTH or next(seen) > _MAX_VALUES:
            return MASK
        new = value
        if type(value) is str:
            new = self.clean(value)
        elif isinstance(value, Mapping):
            pairs = value.items()
            new = {self._cleaned(key, depth + 1, seen): self._cleaned(item, depth + 1, seen) for key, item in pairs}
        elif type(value) in {list, tuple, set, frozenset}:
            new = type(value)(self._cleaned(item, depth + 1, seen) for item in value)
        elif isinstance(value, ErrorData):
            said = {"message": self.clean(value.message), "data": self._cleaned(value.data, depth + 1, seen)}
            new = value.model_copy(update=said)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._cleaned_fields(value, depth, seen)
        return value if new == value else new

    def _cleaned_fields(self, value: Any, depth: int, seen: Iterator[int]) -> Any:
        changed = {}
        for field in dataclasses.fields(value):
            if field.init and field.metadata.get("redact", True):
                old = getattr(value, field.name)
                if (new := self._cleaned(old, depth + 1, seen)) is not old and new != old:
                    changed[field.name] = new
        return dataclasses.replace(value, **changed) if changed else value

    def clean_error(self, error: T) -> T:
        """`error`, and all that it came from, without secrets: changed in place where that is possible.

        Returns:
            The same error; another one of its type if its text cannot be changed.
        """
        result: Any = self._rebuilt(error)
        todo, seen = [result], set[int]()
        while todo and len(seen) < _MAX_CHAIN:
            one = todo.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            self._clean_in_place(one)
            for link in ("__cause__", "__context__"):
                linked = getattr(one, link)
                if (rebuilt := self._rebuilt(linked)) is not linked:
                    setattr(one, link, rebuilt)
                todo.append(rebuilt)
            todo.extend(getattr(one, "exceptions", ()))
        return result  # type: ignore[no-any-return]

    def _clean_in_place(self, error: BaseException) -> None:
        args = self.cleaned(error.args)
        if args is not error.args:
            error.args = args
        facts = vars(error)  # written directly: some exceptions refuse `setattr`
        for name, value in list(facts.items()):
            if (new := self.cleaned(value)) is not value:
                facts[name] = new
        if isinstance(error, OSError):
            error.strerror, error.filename = self.cleaned((error.strerror, error.filename))

    def _rebuilt(self, error: Any) -> Any:
        """Pydantic's errors quote what they refuse, and cannot be changed."""
        if not isinstance(error, ValidationError) or self.clean(text := str(error)) == text:
            return error
        details = [
            InitErrorDetails(
                type=PydanticCustomError(fault["type"], "{said}", {"said": self.clean(fault["msg"])}),
                loc=self.cleaned(fault["loc"]),
                input=self.cleaned(fault["input"]),
            )
            for fault in error.errors(include_url=False, include_context=False)
        ]
        rebuilt = ValidationError.from_exception_data(error.title, details)
        rebuilt.__cause__, rebuilt.__context__ = error.__cause__, error.__context__
        return rebuilt.with_traceback(error.__traceback__)


def _mask(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    if match.re is _BEARER and not _SYMBOL.search(value):
        return match[0]  # "bearer authentication" is no token
    if match.re is _NAMED and "=" not in between and value[0] not in "\"'\\" and not _SYMBOL.search(value):
        return match[0]  # "invalid token: expired" is none either
    return f"{name}{between}{MASK}"


def _forms(secret: str) -> set[str]:
    """The spellings in which a secret may come back."""
    plain = {secret, secret.strip(), " ".join(secret.split())}
    plain.update(line.strip() for line in secret.splitlines() if len(line.strip()) >= _LINE_OF_KEY)
    spelled = {base64.b64encode(secret.encode("utf-8", "replace")).decode().rstrip("=")}
    for value in plain:
        spelled |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
        spelled |= {
            quote(value, errors="replace"),
            quote(value, safe="", errors="replace"),
            quote_plus(value, errors="replace"),
        }
    return {form for form in plain | spelled if len(form) >= _SHORTEST_NAMED and form.lower() not in _WORDS}


def _parts(text: str) -> Iterator[str]:
    """The secrets within a value: a token behind its scheme, userinfo and query of a URL, `key=value` pairs."""
    if scheme := _SCHEME.match(text):
        yield text[scheme.end() :]
    for match in (m for pattern in _PATTERNS for m in pattern.finditer(text)):
        value = match[3].strip("\\\"'")
        yield value
        if match.re is _USERINFO:
            yield from _userinfo(value)
        elif match.re is _QUERY:
            yield from (item for _, item in parse_qsl(value))


def _userinfo(text: str) -> Iterator[str]:
    user, _, password = text.partition(":")
    pair = f"{unquote(user)}:{unquote(password)}"
    yield base64.b64encode(pair.encode()).decode()  # as `Authorization: Basic` spells it
    yield from (unquote(user), unquote(password), password)


def _kept(name: str, value: str) -> Iterator[str]:
    """A value that was given under a name, and the secrets within."""
    limit = _SHORTEST_NAMED if _NAME.search(name) else _SHORTEST
    yield from (secret for secret in (value, *_parts(value)) if len(secret.strip()) >= limit)


def _configured(server: Any, http_client: Any) -> Iterator[str]:
    """The secrets in the configuration of a server and of an HTTP client."""
    if isinstance(server, _sdk.StdioServerParameters):
        harmless = get_default_environment()  # HOME, PATH and the like, which the SDK gives to every server
        for name, value in (server.env or {}).items():
            if harmless.get(name) != value:
                yield from _kept(name, value)
        yield from _in_arguments(server.args)
    elif isinstance(server, _sdk.StreamableHttpParameters | _sdk.SseServerParameters):
        yield from _in_url(server.url)
        yield from _in_headers(server.headers or {})
    if http_client is not None:
        yield from _in_headers(http_client.headers)
        yield from _in_url(str(http_client.base_url))
        yield from (str(value) for _, value in http_client.params.multi_items())
        yield from (str(cookie.value) for cookie in http_client.cookies.jar if cookie.value)


def _in_headers(headers: Mapping[str, Any]) -> Iterator[str]:
    for name, value in headers.items():
        if name.lower() not in _PUBLIC_HEADERS:
            yield from _kept(name, str(value))


def _in_url(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    userinfo = parts.netloc.rpartition("@")[0]
    if userinfo:
        yield userinfo
        yield from _userinfo(userinfo)
    if parts.query:
        yield parts.query
        yield from (value for _, value in parse_qsl(parts.query))
    if parts.fragment:
        yield parts.fragment


def _in_arguments(arguments: Sequence[str]) -> Iterator[str]:
    """`--token X`, `--token=X`, `--header 'Name: X'`, `-e NAME=X`, and URLs with userinfo or query."""
    before = ""
    for argument in arguments:
        if _NAME.search(before.lstrip("-")) and before.startswith("-"):
            yield from _kept("token", argument)
        elif before in {"-H", "--header", "-e", "--env"}:
            name, _, value = argument.partition(":" if before in {"-H", "--header"} else "=")
            yield from _kept(name, value.strip())
        else:
            yield from (part for part in _parts(argument) if len(part) >= _SHORTEST_NAMED)
        before = argument


@lru_cache(maxsize=256)
def _carries_credentials(header: bytes) -> bool:
    return bool(_CREDENTIAL_HEADER.search(header))
