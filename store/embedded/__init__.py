"""A real nats-server as a child process: for a laptop, a demo, a test, or a single node.

server         starts, watches, restarts and stops it
process        which program, with which privileges, and one per directory
staging        keeps the staging of batches in memory
generation     keeps the files of the streams while a start is not proven
proof          decides whether a start lost anything
stream_states  the streams as the server reports them, and as recorded before the start
salvage        makes a damaged log readable after an operator accepts the loss
"""

from jobledger.store.embedded.process import find_program
from jobledger.store.embedded.server import EmbeddedServer
from jobledger.store.local_service import NATS_FOLDER, default_directory

__all__ = ["NATS_FOLDER", "EmbeddedServer", "default_directory", "find_program"]
