"""Webhooks: the events of a durable subscription, POSTed to an address and signed."""
