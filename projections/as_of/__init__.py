"""What was at an earlier point of the log: one job, lists, and what changed between two points."""
