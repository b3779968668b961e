"""The log on NATS JetStream. See DESIGN.md beside this file."""

from jobledger.store.jetstream.declarations import StreamSettings
from jobledger.store.jetstream.log import JetStreamLog

__all__ = ["JetStreamLog", "StreamSettings"]
