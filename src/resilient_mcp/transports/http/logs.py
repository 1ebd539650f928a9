"""Keep secrets out of the log records of the HTTP library and the SDK's transports.

At INFO httpx logs the URL of each request; at DEBUG httpcore logs response headers and the SDK logs messages and
errors. While a client of this library is sending, its redactor cleans these records; the records of other code in the
process are unchanged.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

from ...text.redact import Redactor

sending: ContextVar[Redactor | None] = ContextVar("sending", default=None)
"""Redactor of the client whose request the HTTP library is sending."""

connecting: ContextVar[Redactor | None] = ContextVar("connecting", default=None)
"""Redactor of the client whose connection the SDK's transport serves; its tasks inherit the context it is opened in."""

_LAYERS = ("connection", "http11", "http2", "proxy", "socks")
_OF_HTTP = (
    *("httpx", "httpx2", "hpack.hpack", "hpack.table"),
    *(f"{library}.{layer}" for library in ("httpcore", "httpcore2") for layer in _LAYERS),
)
_OF_SDK = ("mcp.client.streamable_http", "mcp.client.sse", "mcp.client.auth.oauth2", "mcp.client.auth.utils")


class _Cleaner(logging.Filter):
    """Removes secrets from log records; called only for records of an enabled level."""

    def __init__(self, whose: ContextVar[Redactor | None]) -> None:
        super().__init__()
        self._whose = whose

    def filter(self, record: logging.LogRecord) -> bool:
        if (redactor := self._whose.get() or sending.get()) is None:
            return True
        try:
            text = record.getMessage()
        except Exception:
            text = f"{record.msg} {record.args}"  # a record that cannot be formatted must not fail the request
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
