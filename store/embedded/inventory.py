"""What the files of the streams hold before nats-server is started on them. Pure."""

import msgspec


class Block(msgspec.Struct, frozen=True):
    """A message block before the start.

    Attributes:
        number: of the block; its file is `<number>.blk`.
        size: in bytes.
        inode: of the file that the server works on.
        first: its first sequence; 0 if it has none.
    """

    number: int
    size: int
    inode: int
    first: int


class StreamFiles(msgspec.Struct, frozen=True):
    """A stream before the start.

    Attributes:
        folder: relative to the folder of nats-server: `<account>/streams/<name>`.
        name: of the stream.
        created: when the stream was created, as its `meta.inf` has it; empty if that cannot be read.
        keeps_all: whether the stream refuses deletion and has no limit that removes messages.
        begins: the sequence that the first message of the stream has got.
        blocks: in order.
        last: the highest sequence that the last blocks seem to hold.
        records: how many messages the blocks hold, of a stream whose messages are replaced and do not expire;
            -1 for other streams.
        expiring: at most how many of these expire, such as the marker of a removed record.
        meta_problem: what is wrong with `meta.inf` and `meta.sum`; empty if nothing is.
    """

    folder: str
    name: str
    created: str
    keeps_all: bool
    begins: int
    blocks: tuple[Block, ...]
    last: int
    records: int = -1
    expiring: int = 0
    meta_problem: str = ""

    @property
    def first(self) -> int:
        """The first sequence on disk; 0 without one."""
        return next((block.first for block in self.blocks if block.first), 0)


class Inventory(msgspec.Struct, frozen=True):
    """Everything that a generation holds.

    Attributes:
        streams: each stream.
        linked: whether sealed blocks are hard links.
        bytes: of all blocks.
        repaired: what was repaired before the start, for the log.
    """

    streams: tuple[StreamFiles, ...]
    linked: bool = False
    bytes: int = 0
    repaired: tuple[str, ...] = ()
