"""A client of our own HTTP API, synchronous and typed: what the command line asks the service with."""
