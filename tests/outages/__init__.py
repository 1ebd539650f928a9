"""Outages behind real gateways: what twenty callers get, with the plain SDK and with `ResilientClient`.

`situations` lists the outages: nginx or HAProxy, real SDK servers behind it, and what happens to them; `load` has the
callers and the outcomes of their calls; `sides` are the two sessions. The test runs `ResilientClient` in a few short
situations; `python -m tests.outages` runs both sides in all of them.
"""
