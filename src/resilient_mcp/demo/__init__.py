"""What `resilient-mcp demo` plays, and the server that it and the examples play it against."""

from .processes import NOTES, HttpServer, notes_server, stdio_server

__all__ = ["NOTES", "HttpServer", "notes_server", "stdio_server"]
