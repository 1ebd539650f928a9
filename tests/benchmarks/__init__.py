"""How `ResilientClient` compares with the plain SDK: `python -m tests.benchmarks` from the root of the repository.

Both sides are measured in one run, turn by turn, so that what else the machine does hits both. Figures are printed;
nothing fails on them.
"""
