"""Durable consumers on JetStream: creation, holding, pinning, takeover and acknowledgment."""
