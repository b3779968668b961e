"""A real nats-server as our child process, for a laptop, a demo, a test, or a single node.

server      the process: started, watched, restarted, stopped
process     which program, and what it may do
lock        one server per directory; ends a server whose owner is dead
generation  keeps the files of the streams while a start is not proven
inventory   what those files hold
proof       decides whether a start lost anything
asking      what the started server says of its streams
facts       what is known of the streams from before the start, on disk
salvage     makes a damaged log readable, when an operator accepts the loss
"""

from jobledger.store.embedded.process import find_program
from jobledger.store.embedded.server import EmbeddedServer
from jobledger.store.local_service import NATS_FOLDER, default_directory

__all__ = ["NATS_FOLDER", "EmbeddedServer", "default_directory", "find_program"]
