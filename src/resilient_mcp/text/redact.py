"""Keep secrets out of everything that leaves the client: messages, events, log records, spans, statistics.

A `Redactor` knows the secrets a client was configured with (environment, headers, URLs, arguments that look like
credentials, the `Authorization` of each request) in the forms in which servers echo them, and recognizes other secrets
by their pattern; `credentials` has the rules. It replaces each with `***`. Text is cleaned *before* it is cut, since
half a secret is not recognized. Tool results are not changed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from mcp.types import ErrorData
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..bounded import LruDict
from .configured import in_header
from .credentials import MASK, is_credential_header, is_random, is_worth_keeping
from .patterns import masked, occurring
from .printable import MAX_DETAIL, printable
from .spellings import Spelling, without_runs

_LEARNED_KEPT = 64
# A hostile error of 5 MB must not block the event loop. So only this many characters of a text, or of all strings in a
# value, are searched for known secrets; what comes after them is masked. No genuine error is that long.
_READ = 256 * 1024
# Of these, the characters searched for patterns, which takes up to 1 µs each; a string counts as this many more.
_PATTERNS_READ, _PER_STRING = 32 * 1024, 32
# A line of a multi-line value (a PEM key) that is at least this long is a secret of its own, since logs are written
# line by line.
_LINE_OF_KEY = 16
# Servers quote the first characters of a long secret, so that people know which one is meant; they are masked too.
_LONG, _BEGINNING = 24, 8

_MAX_DEPTH = 32
# Nested values inspected in one value: no genuine server error has more.
_MAX_VALUES = 2_000
# Causes, contexts and sub-exceptions that one error keeps.
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
        self._known = _Known(
            sorted(known, key=lambda one: one.length, reverse=True),  # one secret may contain another
            {core for one in known for core in one.cores},
            [form for one in known for form in one.escaped],
        )
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
        """`text` without secrets.

        Unknown secrets are masked only in its first 32 Ki characters; what comes after 256 Ki is masked as a whole.
        """
        if len(text) > _READ:
            text = self._beginning(text, _READ, self._known.masked) + MASK
        return self._clean(text)

    def _clean(self, text: str) -> str:
        text = self._known.masked(text)
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
        return self._beginning(text, limit, self._clean)

    def _beginning(self, text: str, limit: int, clean: Callable[[str], str]) -> str:
        if len(text) <= limit + self._margin:
            return clean(text)
        # A secret that straddles the cut is not recognized in `cut`, but masked in `more`, which holds all of it: from
        # there on the two differ, and only what they have in common is safe.
        cut, more = clean(text[:limit]), clean(text[: limit + self._margin])
        return cut if more.startswith(cut) else _common_beginning(cut, more)

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

        Whatever is nested too deeply, or is beyond the number of values or characters inspected, is masked.
        """
        if value is None or isinstance(value, int | float):
            return value
        if type(value) is str:
            return self.clean(value)  # type: ignore[arg-type, return-value]
        # All strings are searched together first: most values have no secret at all, and then that was it.
        texts: list[str] = []
        left = _READ

        def collect(text: str) -> str:
            nonlocal left
            most = left // 2  # so that something is left for the strings after a long one
            left -= min(most, len(text))
            if len(text) > most:
                text = self._beginning(text, most, self._known.masked) + MASK if most else MASK
            texts.append(text)
            return text

        value = _Walk(collect).on(value)
        everything = "\n".join(texts)
        known, patterns = self._known.within(everything), occurring(everything)
        if not known and not patterns:
            return value
        pattern_left = _PATTERNS_READ

        def clean(text: str) -> str:
            nonlocal pattern_left
            text = known.masked(text)
            begin, rest = text[:pattern_left], text[pattern_left:]
            pattern_left = max(0, pattern_left - len(text) - _PER_STRING)
            return masked(begin, patterns) + rest

        return _Walk(clean).on(value)  # type: ignore[no-any-return]

    # --- errors ---

    def clean_error(self, error: T) -> T:
        """Remove secrets from `error`, its causes, contexts, notes and sub-exceptions, in place where possible.

        Of a longer chain or a larger group, 64 errors are kept; only those are cleaned.

        Returns:
            The same error, or a new one of its type if its text cannot be changed.
        """
        cleaned: T | None = self._clean_linked(error, {})
        return error if cleaned is None else cleaned

    def _clean_linked(self, error: Any, seen: dict[int, tuple[Any, Any]]) -> Any:
        """`error` with all that it links to; None if there are too many, or if it is still being rebuilt."""
        if id(error) in seen:
            return seen[id(error)][1]
        if len(seen) >= _MAX_CHAIN:
            return None
        old = error
        # The key is an id, so the error is kept as long as the key.
        seen[id(old)] = old, None
        if members := _members(error):
            kept = [self._clean_linked(member, seen) for member in members]
            error = self._regrouped(error, members, [member for member in kept if member is not None])
        else:
            error = self._rebuilt(error)
        seen[id(old)] = seen[id(error)] = old, error
        self._clean_in_place(error)
        suppressed = error.__suppress_context__
        for link in ("__cause__", "__context__"):
            linked = getattr(error, link)
            if linked is not None and (new := self._clean_linked(linked, seen)) is not linked:
                setattr(error, link, new)
        error.__suppress_context__ = suppressed  # which setting a cause also sets
        return error

    def _clean_in_place(self, error: BaseException) -> None:
        args = self._cleaned_or_masked(error.args)
        if args is not error.args:
            error.args = args if isinstance(args, tuple) else (args,)
        facts = vars(error)  # written directly, since some exceptions reject `setattr`
        for name, value in list(facts.items()):
            if (new := self._cleaned_or_masked(value)) is not value:
                facts[name] = new
        if isinstance(error, OSError):
            error.strerror, error.filename = self._cleaned_or_masked((error.strerror, error.filename))

    def _cleaned_or_masked(self, value: Any) -> Any:
        """`value` without secrets, or the mask if it is of a foreign type that cannot be inspected."""
        try:
            return self.cleaned(value)
        except Exception:
            return MASK

    def _regrouped(self, group: Any, members: tuple[Any, ...], kept: list[Any]) -> Any:
        """The group, or a new one of its type: neither its message nor its members can be changed."""
        message = self.clean(group.message)
        if message == group.message and len(kept) == len(members) and all(map(_is, kept, members)):
            return group
        if len(kept) < len(members):
            kept.append(Exception(f"{len(members) - len(kept)} more errors"))
        try:
            new = type(group)(message, kept)
        except Exception:  # a subclass may take other arguments
            new = _plain_group(group)(message, kept)
        return _as_before(new, group)

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
        return _as_before(ValidationError.from_exception_data(error.title, details), error)


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """Secrets to search for."""

    spellings: list[Spelling]
    cores: set[str]
    escaped: list[str]

    def __bool__(self) -> bool:
        return bool(self.spellings or self.cores or self.escaped)

    def within(self, text: str) -> _Known:
        """Those that may occur in `text`."""
        escaped = [form for form in self.escaped if form in text] if "\\u00" in text else []
        spellings = [one for one in self.spellings if one.anchor in text]
        return _Known(spellings, {core for core in self.cores if core in text}, escaped)

    def masked(self, text: str) -> str:
        """`text` without them."""
        for one in self.spellings:
            if one.anchor in text:
                text = one.pattern.sub(MASK, text) if one.pattern else text.replace(one.anchor, MASK)
        text = without_runs(text, self.cores, MASK)
        if "\\u00" in text:
            for form in self.escaped:
                text = text.replace(form, MASK)
        return text


class _Walk:
    """Applies a function to every string in a value, up to the limits; what is beyond them is masked.

    Args:
        function: Returns the string to put in its place.
    """

    def __init__(self, function: Callable[[str], str]) -> None:
        self._function = function
        self._seen = 0

    def on(self, value: Any, depth: int = 0) -> Any:
        """The value with the results in it; `value` itself if they are all equal."""
        self._seen += 1
        if value is None or isinstance(value, int | float):
            return value
        if depth > _MAX_DEPTH or self._seen > _MAX_VALUES:
            return MASK
        new = value
        if type(value) is str:
            new = self._function(value)
        elif isinstance(value, Mapping):
            new = {self.on(key, depth + 1): self.on(item, depth + 1) for key, item in self._some(value.items(), value)}
            new.update({MASK: MASK} if self._seen > _MAX_VALUES else {})
        elif type(value) in {list, tuple, set, frozenset}:
            items = [self.on(item, depth + 1) for item in self._some(value, value)]
            new = type(value)([*items, MASK] if self._seen > _MAX_VALUES else items)
        elif isinstance(value, ErrorData):
            said = {"message": self.on(value.message, depth), "data": self.on(value.data, depth + 1)}
            new = value.model_copy(update=said)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._on_fields(value, depth)
        return value if new == value else new

    def _some(self, items: Iterable[T], container: Collection[Any]) -> Iterator[T]:
        """As many of the items of a container as may be inspected; what is left out is counted as seen."""
        left = max(0, _MAX_VALUES - self._seen)
        yield from itertools.islice(items, left)
        self._seen += max(0, len(container) - left)

    def _on_fields(self, value: Any, depth: int) -> Any:
        changed = {}
        for field in dataclasses.fields(value):
            if field.init and field.metadata.get("redact", True):
                old = getattr(value, field.name)
                if (new := self.on(old, depth + 1)) is not old and new != old:
                    changed[field.name] = new
        return dataclasses.replace(value, **changed) if changed else value


def _common_beginning(one: str, other: str) -> str:
    """The longest text with which both begin."""
    length, beyond = 0, min(len(one), len(other)) + 1
    while beyond - length > 1:
        middle = (length + beyond) // 2
        if one[length:middle] == other[length:middle]:
            length = middle
        else:
            beyond = middle
    return one[:length]


def _members(error: BaseException) -> tuple[BaseException, ...]:
    """The members of an exception group, built in or of the backport for Python 3.10; empty for other errors."""
    members = getattr(error, "exceptions", ())
    is_group = isinstance(members, tuple) and hasattr(error, "derive") and hasattr(error, "message")
    return members if is_group else ()


def _plain_group(group: BaseException) -> Any:
    """The class of groups that the class of `group` extends."""
    return next(kind for kind in type(group).__mro__ if kind.__name__ in {"ExceptionGroup", "BaseExceptionGroup"})


def _is(one: object, other: object) -> bool:
    return one is other


def _as_before(new: Any, old: BaseException) -> Any:
    """`new` with the traceback, the links and the notes of `old`."""
    new.__cause__, new.__context__ = old.__cause__, old.__context__
    new.__suppress_context__ = old.__suppress_context__
    if (notes := getattr(old, "__notes__", None)) is not None:
        new.__notes__ = notes
    return new.with_traceback(old.__traceback__)


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
