"""Outages behind real gateways: what twenty callers get through them, with the plain SDK and with ours.

`situations` lists what happens: nginx or HAProxy, real SDK servers behind it, and their outage; `load` is the callers
and what became of their calls; `sides` are the two sessions. The test asks about ours in a few short ones, and
`python -m tests.outages` about both in all of them.
"""
