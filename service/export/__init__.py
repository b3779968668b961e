"""Events told again, from one point of the log to another: `jobledger events replay`."""
