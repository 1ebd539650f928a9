"""What `resilient-mcp demo` plays, and the server that it and the examples play it against."""

from .processes import HttpServer, stdio_server

__all__ = ["HttpServer", "stdio_server"]
