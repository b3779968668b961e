"""The examples at the end of every help text."""


def examples(*lines: str) -> str:
    """The end of a command's help: command lines that can be run as they are, with names of one's own."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
