"""Streamable HTTP, on the HTTP library of the installed SDK."""
