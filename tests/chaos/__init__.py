"""Faults against the whole system: real servers, real processes, real files, and checkers of every promise.

`make chaos` runs a long campaign (`python -m tests.chaos --help`); the test modules of this folder are its
short runs in the slow suite. What was measured is in docs/RELIABILITY.md.
"""
