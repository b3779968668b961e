"""A synchronous client of the HTTP API, for the command line and scripts."""
