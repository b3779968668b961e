"""The interfaces of Jobledger: HTTP API, live feeds, webhooks, audit and command line."""
