"""The log on NATS JetStream. DESIGN.md in this folder explains it."""

from jobledger.store.jetstream.declarations import StreamSettings
from jobledger.store.jetstream.log import JetStreamLog

__all__ = ["JetStreamLog", "StreamSettings"]
