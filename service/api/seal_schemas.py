"""The shapes of answers about keys and seals."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, field

_Moment = Annotated[str, Meta(description="RFC 3339")]
_Vkey = Annotated[str, Meta(description="`<name>+<id>+<base64>`, as C2SP's signed-note has it")]


class AuditKey(msgspec.Struct, rename="pascal"):
    """A public key of seals."""

    key: _Vkey
    id: Annotated[str, Meta(description="`<name>+<id>`, as seals name it")] = field(name="ID")
    created: Annotated[str, Meta(description="RFC 3339; empty for a key of another replica")]
    retires: Annotated[str, Meta(description="RFC 3339, when it stops to sign; empty: not told yet")]
    signs: Annotated[bool, Meta(description="whether this service signs with it now")]
    trusted: Annotated[bool, Meta(description="whether seals by it count for this service")]


class AuditKeyList(msgspec.Struct, rename="pascal"):
    """The keys that this service signs and signed with, oldest first; then those of other replicas."""

    origin: Annotated[str, Meta(description="the first line of this log's seals")]
    items: list[AuditKey]


class Seal(msgspec.Struct, rename="pascal"):
    """A seal, as it was published."""

    sequence: Annotated[int, Meta(ge=1, description="its position in the stream of seals")]
    time: _Moment
    size: Annotated[int, Meta(ge=0, description="how many events it covers: sequences 1 to this one")]
    root: Annotated[str, Meta(description="of the tree over them: 32 bytes in base64")]
    keys: Annotated[list[str], Meta(description="that it says have signed it; check that yourself")]
    note: Annotated[str, Meta(description="the signed checkpoint itself")]
    problem: Annotated[
        str, Meta(description="why this is no seal, if somebody else wrote it there; or empty")
    ]


class SealList(msgspec.Struct, rename="pascal"):
    """Seals, newest first."""

    items: list[Seal]
    next_token: Annotated[str, Meta(description="pass it as `next_token`; empty: this was the last page")]


ANSWERS: Final = (AuditKeyList, AuditKey, SealList, Seal)
