"""The fault matrix: each fault at each place where it can happen, and how the calls of a session there end.

`faults` lists the faults and the promise for each; `stages` are the servers they happen to; `sides` are the two
sessions, the plain SDK and `ResilientClient`; `harness` injects a fault and reports the outcome. The test runs it for
`ResilientClient`; `python -m tests.matrix` runs it for both and prints the README's table.
"""
