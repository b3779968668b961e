"""The shapes of answers that prove something."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from jobledger.service.audit.bundle import Bundle

_Hash = Annotated[str, Meta(description="32 bytes in base64", pattern="^[A-Za-z0-9+/]{43}=$")]


class Consistency(msgspec.Struct, rename="pascal"):
    """That the tree of one size begins with that of another."""

    from_size: Annotated[int, Meta(ge=0, description="events in the smaller tree")] = msgspec.field(
        name="From"
    )
    to_size: Annotated[int, Meta(ge=0, description="events in the larger tree")] = msgspec.field(name="To")
    from_root: Annotated[_Hash, Meta(description="the root of the smaller tree")]
    to_root: Annotated[_Hash, Meta(description="the root of the larger tree")]
    proof: list[_Hash]


ANSWERS: Final = (Bundle, Consistency)
