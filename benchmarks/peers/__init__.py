"""`peers`: other stores next to Jobledger, on the same work. It runs only when it is named."""
