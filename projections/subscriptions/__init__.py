"""Durable subscriptions: who reads the log in the name of a service, and how far it came."""
