"""`ResilientClient` as it comes, with real servers of npm and PyPI: `python -m tests.field` prints a table of them.

Each is started by `npx` or `uvx` with an empty cache, and again with that cache; in one generation, however long the
download takes. Then its lists and a call that does no harm; the server is killed while it holds a call, and after that
`npx` or `uvx` is, while the server lives on. Each time the next call is answered by a new generation, and nothing of
the old one is left. Last comes the plain SDK, which must not negotiate or list more. The exit status is 1 if one of
these promises was broken for a server that starts at all. Words choose the servers with one of them in their names.
"""
