"""Exports past events, from one point of the log to another: `jobledger events replay`."""
