"""The documentation, and the generators of its derived parts."""
