"""Keeps secrets out of the records of the HTTP library and of the SDK's transports.

At INFO httpx logs the URL of each request, at DEBUG httpcore logs the headers of answers and the SDK logs messages and
errors. While a client of this library sends, such records are cleaned by its redactor; those of everybody else in the
process are left alone.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

from ..text.redact import Redactor

sending: ContextVar[Redactor | None] = ContextVar("sending", default=None)
"""Whose request the HTTP library sends."""

connecting: ContextVar[Redactor | None] = ContextVar("connecting", default=None)
"""Whose connection the SDK's transport serves: it starts its tasks in the context in which it is opened."""

_LAYERS = ("connection", "http11", "http2", "proxy", "socks")
_OF_HTTP = (
    *("httpx", "httpx2", "hpack.hpack", "hpack.table"),
    *(f"{library}.{layer}" for library in ("httpcore", "httpcore2") for layer in _LAYERS),
)
_OF_SDK = ("mcp.client.streamable_http", "mcp.client.sse", "mcp.client.auth.oauth2", "mcp.client.auth.utils")


class _Cleaner(logging.Filter):
    """Takes secrets out of records; asked only for records that somebody wants."""

    def __init__(self, whose: ContextVar[Redactor | None]) -> None:
        super().__init__()
        self._whose = whose

    def filter(self, record: logging.LogRecord) -> bool:
        if (redactor := self._whose.get()) is None:
            return True
        try:
            text = record.getMessage()
        except Exception:
            text = f"{record.msg} {record.args}"  # a record that its logger cannot format must not fail the request
        if (cleaned := redactor.clean(text)) != text:
            record.msg, record.args = cleaned, ()
        if record.exc_info is not None and record.exc_info[1] is not None:
            error = redactor.clean_error(record.exc_info[1])
            record.exc_info = (type(error), error, error.__traceback__)
        return True


def _install() -> None:
    for names, whose in ((_OF_HTTP, sending), (_OF_SDK, connecting)):
        cleaner = _Cleaner(whose)
        for name in names:
            logging.getLogger(name).addFilter(cleaner)


_install()
