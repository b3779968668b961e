"""The log on NATS JetStream. See DESIGN.md beside this file."""

from jobledger.store.jetstream.adapter import JetStreamLog
from jobledger.store.jetstream.declarations import StreamSettings

__all__ = ["JetStreamLog", "StreamSettings"]
