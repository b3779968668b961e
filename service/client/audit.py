"""Proofs, asked of a service. Nothing that comes back is believed here: that is for who has a key."""

from typing import Final

import msgspec

from jobledger.service.client.client import Client
from jobledger.service.errors import RemoteError

_AUDIT: Final = "/api/v1/audit"
UNCOVERED_HEADER: Final = "jobledger-uncovered"


class Fetched(msgspec.Struct, frozen=True):
    """A bundle as the service made it.

    Attributes:
        text: the document.
        uncovered: how many of the job's events came after its seal.
    """

    text: bytes
    uncovered: int


class ConsistencyAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    """What a service says of two sizes of its tree: the root of each, and the proof."""

    from_root: bytes
    to_root: bytes
    proof: tuple[bytes, ...]


class Audits:
    """Asks by way of a client; raises what `Transport.ask` raises."""

    def __init__(self, client: Client) -> None:
        self._transport = client.transport

    def proof(self, job: str, *, namespace: str = "") -> Fetched:
        """The bundle of a job: by the newest seal."""
        text, headers = self._transport.fetch(f"{_AUDIT}/proof", query={"job": job, "namespace": namespace})
        count = headers.get(UNCOVERED_HEADER, "0")
        return Fetched(text, int(count) if count.isdecimal() else 0)

    def consistency(self, old_size: int, new_size: int) -> ConsistencyAnswer:
        """The proof that the tree of one size begins with that of another."""
        wire = self._transport.ask("GET", f"{_AUDIT}/consistency", query={"from": old_size, "to": new_size})
        try:
            return msgspec.convert(wire, ConsistencyAnswer)
        except msgspec.ValidationError as error:
            raise RemoteError(f"the answer is no proof of consistency: {error}") from None
