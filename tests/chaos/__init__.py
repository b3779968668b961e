"""Fault injection against the whole real system, with a checker for every guarantee.

`make chaos` runs a long campaign (`python -m tests.chaos --help`); the test modules of this folder are its
short runs in the slow suite. docs/RELIABILITY.md has the measurements.
"""
