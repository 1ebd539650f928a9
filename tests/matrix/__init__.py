"""The fault matrix: each fault at each place it can happen, and what becomes of the calls of a session there.

`faults` lists the faults and what is promised for each; `stages` are the servers they happen to; `sides` are the two
sessions, the plain SDK's and ours; `harness` makes a fault happen and tells what came of it. The test asks it about
ours, and `python -m tests.matrix` about both, and prints the README's table.
"""
