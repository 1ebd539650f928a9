"""Keep secrets out of everything that leaves the client: messages, events, log records, spans, statistics.

A `Redactor` knows the secrets a client was configured with (environment, headers, URLs, arguments that look like
credentials, the `Authorization` of each request) in the forms in which servers echo them, and recognizes other secrets
by their pattern; `credentials` has the rules. It replaces each with `***`. Text is cleaned *before* it is cut, since
half a secret is not recognized. Tool results are not changed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from mcp.types import ErrorData
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..bounded import LruDict
from .configured import in_header
from .credentials import MASK, is_credential_header, is_random, is_worth_keeping
from .patterns import masked
from .printable import MAX_DETAIL, printable
from .spellings import Spelling, without_runs

_LEARNED_KEPT = 64
# Characters searched for patterns: a hostile error of 10 MB must not block the event loop for seconds. No text of this
# length reaches an event, a log or an `advice`.
_PATTERNS_READ = 64 * 1024
# A line of a multi-line value (a PEM key) that is at least this long is a secret of its own, since logs are written
# line by line.
_LINE_OF_KEY = 16
# Servers quote the first characters of a long secret, so that people know which one is meant; they are masked too.
_LONG, _BEGINNING = 24, 8

_MAX_DEPTH = 32
# Nested values inspected in one value: no genuine server error has more.
_MAX_VALUES = 10_000

_MAX_CHAIN = 64

T = TypeVar("T")


class Redactor:
    """Removes secrets from text.

    Args:
        secrets: The secrets, in plain text.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._given = _spellings(secrets)
        self._learned: LruDict[str, set[Spelling]] = LruDict(_LEARNED_KEPT)
        self._sort()

    def _sort(self) -> None:
        known = self._given.union(*self._learned.values())
        self._known = sorted(known, key=lambda one: one.length, reverse=True)  # one secret may contain another
        self._cores = {core for one in known for core in one.cores}
        self._escaped = [form for one in self._known for form in one.escaped]
        self._margin = max([MAX_DETAIL, *(one.length for one in known)])

    def learn_headers(self, headers: Any) -> None:
        """Add the credentials in the headers of a request (an HTTP library's `Headers`).

        Only the latest 64 are remembered.
        """
        for name, value in headers.raw:
            if _carries_credentials(name):
                text = value.decode("latin-1")
                self._learn(text, in_header(name.decode("latin-1"), text))

    def learn(self, secrets: Iterable[str]) -> None:
        """Add secrets, such as the tokens of a login. Only the latest 64 are remembered."""
        for secret in secrets:
            self._learn(secret, [secret])

    def _learn(self, value: str, secrets: Iterable[str]) -> None:
        if self._learned.get(value) is None:
            self._learned[value] = _spellings(secrets)
            self._sort()

    # --- text ---

    def clean(self, text: str) -> str:
        """`text` without secrets; unknown secrets are masked only in its first 64 Ki characters."""
        for one in self._known:
            if one.anchor in text:
                text = one.pattern.sub(MASK, text) if one.pattern else text.replace(one.anchor, MASK)
        text = without_runs(text, self._cores, MASK)
        if "\\u00" in text:
            for form in self._escaped:
                text = text.replace(form, MASK)
        begin, rest = text[:_PATTERNS_READ], text[_PATTERNS_READ:]
        begin = masked(begin)
        return begin + rest if rest else begin

    def line(self, text: str, limit: int = MAX_DETAIL) -> str:
        """Make untrusted text one printable line without secrets, of at most `limit` characters."""
        return printable(self.head(text, 4 * limit), limit)

    def head(self, text: str, limit: int) -> str:
        """About the first `limit` characters of `text`, without secrets; the time taken does not depend on its length.

        Args:
            text: Text of any length.
            limit: Number of characters before cleaning.
        """
        if len(text) <= limit + self._margin:
            return self.clean(text)
        # A secret that straddles the cut is not recognized in `cut`, but masked in `more`, which holds all of it: from
        # there on the two differ, and only what they have in common is safe.
        cut, more = self.clean(text[:limit]), self.clean(text[: limit + self._margin])
        if more.startswith(cut):
            return cut
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(cut, more, strict=False))
        return "".join(character for character, _ in same)

    def clean_tail(self, text: str, limit: int) -> str:
        """A tail of some text, without secrets.

        Args:
            text: The tail.
            limit: The length from which on the tail may start in the middle of a secret; then its beginning is dropped.
        """
        return self.clean(text)[self._margin :] if len(text) >= limit else self.clean(text)

    # --- objects that hold text ---

    def cleaned(self, value: T) -> T:
        """`value` without secrets: a string, or containers and dataclasses of strings; `value` itself if it has none.

        Whatever is nested too deeply, or is beyond the number of values inspected, is masked.
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
        """Remove secrets from `error`, its causes, contexts and sub-exceptions, in place where possible.

        Returns:
            The same error, or a new one of its type if its text cannot be changed.
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
        facts = vars(error)  # written directly, since some exceptions reject `setattr`
        for name, value in list(facts.items()):
            if (new := self.cleaned(value)) is not value:
                facts[name] = new
        if isinstance(error, OSError):
            error.strerror, error.filename = self.cleaned((error.strerror, error.filename))

    def _rebuilt(self, error: Any) -> Any:
        """Rebuild a pydantic error with secrets in it: it quotes the rejected input, shortened, and is immutable."""
        if not isinstance(error, ValidationError):
            return error
        faults = error.errors(include_url=False, include_context=False)
        quoted = [(fault["msg"], fault["loc"], fault["input"]) for fault in faults]
        if (cleaned := self.cleaned(quoted)) is quoted:
            return error
        details = [
            InitErrorDetails(type=PydanticCustomError(fault["type"], "{said}", {"said": said}), loc=loc, input=value)
            for fault, (said, loc, value) in zip(faults, cleaned, strict=True)
        ]
        rebuilt = ValidationError.from_exception_data(error.title, details)
        rebuilt.__cause__, rebuilt.__context__ = error.__cause__, error.__context__
        return rebuilt.with_traceback(error.__traceback__)


def _spellings(secrets: Iterable[str]) -> set[Spelling]:
    return {Spelling.of(secret) for secret in set(_worth_keeping(secrets))}


def _worth_keeping(secrets: Iterable[str]) -> Iterator[str]:
    """The secrets long enough to be masked, and the parts that text may quote: a line, or the beginning."""
    for secret in map(str.strip, secrets):
        if is_worth_keeping(secret):
            yield secret
        if len(secret) >= _LONG and is_random(secret[:_BEGINNING]):
            yield secret[:_BEGINNING]
        if "\n" in secret:
            yield from (line for line in map(str.strip, secret.splitlines()) if len(line) >= _LINE_OF_KEY)


@lru_cache(maxsize=256)
def _carries_credentials(header: bytes) -> bool:
    return is_credential_header(header.decode("latin-1"))
