"""The HTTP headers that a user gives: fixed ones, or a function that returns them when they are needed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import anyio

from ...foreign_code import ForeignCodeError, awaiting
from ...text.printable import printable

HeadersFunction: TypeAlias = Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]
"""Returns the headers of a connection: a function or a coroutine function without arguments."""

# RFC 9110: a name is a token, and a value has neither control characters nor spaces at its ends.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


class HeadersError(Exception):
    """Raised if a user's function does not return usable headers; nothing was sent then."""


class UserHeaders:
    """The headers of a user, sent with every request.

    Args:
        given: A mapping, a function that returns one, or None. The function is called for each connection, and again
            after a 401.

    Raises:
        TypeError: It is neither, or a header is not a string.
        ValueError: A header cannot be sent.

    Attributes:
        current: The headers to send now. Never changed in place.
    """

    def __init__(self, given: Mapping[str, str] | HeadersFunction | None) -> None:
        self._function: HeadersFunction | None = None
        self.current: Mapping[str, str] = {}
        self._turn: anyio.Lock | None = None
        if isinstance(given, Mapping):
            self.current = checked(given)
        elif callable(given):
            self._function = given
        elif given is not None:
            raise TypeError(f"headers is a {type(given).__name__}: pass a mapping, or a function that returns one")

    async def fetch(self, *, by_caller: bool = False) -> None:
        """Call the function, if there is one.

        Args:
            by_caller: Whether this is a task of a caller.

        Raises:
            HeadersError: It raises, or does not return headers.
        """
        if self._function is None:
            return
        try:
            with awaiting("headers()", by_caller=by_caller):
                returned: Any = self._function()
                if inspect.isawaitable(returned):
                    returned = await returned
            self.current = checked(returned)
        except ForeignCodeError as exc:
            raise HeadersError(str(exc)) from exc
        except Exception as exc:
            raise HeadersError(f"headers() failed: {type(exc).__name__}: {printable(str(exc), 200)}") from exc

    async def renewed(self, refused: Mapping[str, str]) -> bool:
        """Call the function after a 401 for `refused`; returns whether there are other headers now.

        Of several calls that are refused together, one calls the function, and the others wait for it.

        Raises:
            HeadersError: The function raises, or does not return headers.
        """
        if self._function is None:
            return False
        self._turn = self._turn or anyio.Lock()
        async with self._turn:
            if self.current is refused:
                await self.fetch(by_caller=True)
        return self.current != refused


def checked(headers: Any) -> dict[str, str]:
    """A copy of `headers`.

    Raises:
        TypeError: It is not a mapping, or a name or a value is not a string.
        ValueError: A name or a value cannot be sent. A value is never quoted: it may be a secret.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"it is a {type(headers).__name__}, not a mapping of names to values")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            shown = printable(repr(name), 60)
            raise TypeError(f"the header {shown} is a {type(value).__name__}: names and values must be strings")
        if not _NAME.fullmatch(name):
            raise ValueError(f"the header name {printable(repr(name), 60)} has characters that no header name can have")
        if not _VALUE.fullmatch(value) or value != value.strip() or not _is_latin_1(value):
            raise ValueError(
                f"the value of the header {name!r} has a line break, another control character, a space at an end, or "
                "characters beyond Latin-1: encode it"
            )
    return dict(headers)


def _is_latin_1(value: str) -> bool:
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True
