"""The process that serves: its start, its sockets, what it watches of itself, and its end in order."""
