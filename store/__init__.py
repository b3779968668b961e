"""The write side: what may be said about a job, and the log it is said to. See `jobledger/__init__.py`."""
