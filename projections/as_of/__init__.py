"""Queries as of an earlier point of the log: one job, lists, and the changes between two points."""
