"""The scenes of `resilient-mcp demo`, and the servers that the demo and the examples use."""

from .processes import NOTES, HttpServer, notes_server, stdio_server

__all__ = ["NOTES", "HttpServer", "notes_server", "stdio_server"]
