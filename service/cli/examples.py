"""The examples at the end of a help text; apart from `options`, whose imports every start would pay for."""


def examples(*lines: str) -> str:
    """The epilog of a command's help: commands that can be run as they are."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
