"""The write side: the job model, specs, commands, and the log. See `jobledger/__init__.py`."""
