"""Compares `ResilientClient` with the plain SDK: run `python -m tests.benchmarks` in the root of the repository.

Both sides are measured in one run, in turns, so that other load on the machine affects both. Figures are printed;
missing a goal is not a failure.
"""
