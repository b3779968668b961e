"""Keys, seals and consistency proofs; the proof of a job is `audit.bundle.Bundle`. Pure."""

from typing import Annotated

import msgspec
from msgspec import Meta, field

from jobledger.service.wire.fields import NextToken, Time

Hash = Annotated[str, Meta(description="32 bytes in base64", pattern="^[A-Za-z0-9+/]{43}=$")]


class AuditKey(msgspec.Struct, rename="pascal"):
    """A public key of seals."""

    key: Annotated[str, Meta(description="`<name>+<id>+<base64>`, as in C2SP's signed-note")]
    id: Annotated[str, Meta(description="`<name>+<id>`, as seals name it")] = field(name="ID")
    created: Annotated[str, Meta(description="RFC 3339; empty for a key of another replica")]
    retires: Annotated[str, Meta(description="RFC 3339, when it stops signing; empty: not decided yet")]
    signs: Annotated[bool, Meta(description="whether this service signs with it now")]
    trusted: Annotated[bool, Meta(description="whether this service accepts seals signed with it")]


class AuditKeyList(msgspec.Struct, rename="pascal"):
    """The current and former keys of this service, oldest first; then the keys of other replicas."""

    origin: Annotated[str, Meta(description="the first line of this log's seals")]
    items: list[AuditKey]


class Seal(msgspec.Struct, rename="pascal"):
    """A seal, as it was published."""

    sequence: Annotated[int, Meta(ge=1, description="its position in the stream of seals")]
    time: Time
    size: Annotated[int, Meta(ge=0, description="how many events it covers: sequences 1 to this one")]
    root: Annotated[str, Meta(description="of the tree over them: 32 bytes in base64")]
    keys: Annotated[list[str], Meta(description="the keys that it names as signers; verify that yourself")]
    note: Annotated[str, Meta(description="the signed checkpoint itself")]
    problem: Annotated[str, Meta(description="why this is not a valid seal; empty if it is one")]


class SealList(msgspec.Struct, rename="pascal"):
    """Seals, newest first."""

    items: list[Seal]
    next_token: NextToken


class Consistency(msgspec.Struct, rename="pascal"):
    """The proof that the tree of one size is the beginning of that of another."""

    from_size: Annotated[int, Meta(ge=0, description="events in the smaller tree")] = field(name="From")
    to_size: Annotated[int, Meta(ge=0, description="events in the larger tree")] = field(name="To")
    from_root: Annotated[Hash, Meta(description="the root of the smaller tree")]
    to_root: Annotated[Hash, Meta(description="the root of the larger tree")]
    proof: list[Hash]
