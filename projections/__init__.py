"""The read side: the state of all jobs, folded from the log into SQLite. Public names are in `jobledger`."""
