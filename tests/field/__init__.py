"""`ResilientClient` with its defaults and real servers from npm and PyPI; `python -m tests.field` prints a table.

Each server is started by `npx` or `uvx` with an empty cache, and again with that cache, in one generation however long
the download takes. Then it is asked for its lists and for a harmless call; it is killed during a call, and after that
`npx` or `uvx` is killed while the server lives on. Each time the next call is answered by a new generation, and nothing
of the old one is left. Last comes the plain SDK, which must not negotiate or list more. The exit status is 1 if one of
these promises was broken for a server that starts at all. Arguments select the servers that have one of them in their
names.
"""
