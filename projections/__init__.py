"""The read side: what the log means, kept in SQLite. The catalogue is `jobledger/__init__.py`."""
