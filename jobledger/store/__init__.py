"""The write side: what may be said about a job, and the log it is said to. The catalogue is `jobledger/__init__.py`."""
