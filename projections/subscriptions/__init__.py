"""Durable subscriptions: named positions in the log, and the processes that read from them."""
