"""What tests of tokens need."""

import time


def late() -> int:
    """A clock for which every file is old: an unchanged stat then means an unchanged file."""
    return time.time_ns() + 3_600_000_000_000


def bearer(text: str) -> bytes:
    """The header `Authorization` with this token."""
    return f"Bearer {text}".encode()
