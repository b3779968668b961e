"""Comparing a view, row by row, with another that was just folded from the log: which row differs first.

Both are read in the order of their keys, a bounded number of rows at once, so it takes little memory however
large they are.
"""

import hashlib
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec

from jobledger.projections.database import Reader, Row
from jobledger.projections.limits import DIGEST_CHUNK_ROWS, DIGEST_CHUNK_SPECS
from jobledger.projections.merkle.tree import TILE_WIDTH, split_hashes
from jobledger.projections.rows import JOB_COLUMNS
from jobledger.store.spec.values import SHOWN_MAX_CHARACTERS, shown


class Table(NamedTuple):
    """What is read of a table: the key gives the order, and the place to go on from."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    chunk_rows: int

    def key_of(self, row: Row) -> Row:
        """The key of a row."""
        return tuple(row[self.columns.index(column)] for column in self.key)


TABLES: Final = (
    Table("jobs", JOB_COLUMNS, ("created_sequence",), DIGEST_CHUNK_ROWS),
    Table(
        "specs",
        ("sequence", "created_sequence", "version", "time", "spec"),
        ("sequence",),
        DIGEST_CHUNK_SPECS,
    ),
    Table(
        "labels",
        ("key", "value", "created_sequence"),
        ("key", "value", "created_sequence"),
        DIGEST_CHUNK_ROWS,
    ),
    Table(
        "lost_jobs",
        ("namespace", "id", "sequence", "passed", "quarantine"),
        ("id", "namespace"),
        DIGEST_CHUNK_ROWS,
    ),
    Table("anomalies", ("sequence", "job_id", "reason"), ("sequence",), DIGEST_CHUNK_ROWS),
)

# MessagePack says each value's type and length, so different rows never give the same bytes.
_encoder = msgspec.msgpack.Encoder()


async def digest_of(reader: Reader) -> str:
    """The digest of what a reader sees, as hexadecimal SHA-256. It reads all rows, a bounded number at once.

    Args:
        reader: a connection that nobody else uses meanwhile: the digest holds one snapshot open on it.
    """
    digest = hashlib.sha256()
    await reader.rows("BEGIN")
    try:
        [checkpoint] = await reader.rows("SELECT sequence, anomalies FROM checkpoint")
        digest.update(_encoder.encode(checkpoint))
        for table in TABLES:
            digest.update(_encoder.encode(table.name))
            last: Row | None = None
            while rows := await next_rows(reader, table, last):
                digest.update(b"".join(map(_encoder.encode, rows)))
                last = table.key_of(rows[-1])
    finally:
        await reader.rows("ROLLBACK")
    return digest.hexdigest()


async def next_rows(reader: Reader, table: Table, after: Row | None) -> list[Row]:
    """The next rows behind a key, in its order; the first ones for None.

    Args:
        reader: where to read.
        table: one of `TABLES`.
        after: the key of the last row that was read.
    """
    key = ", ".join(table.key)
    where = f" WHERE ({key}) > ({', '.join('?' * len(table.key))})" if after is not None else ""
    sql = (
        f"SELECT {', '.join(table.columns)} FROM {table.name}{where} ORDER BY {key} LIMIT {table.chunk_rows}"
    )
    return await reader.rows(sql, after or ())


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first row of a table that is not as the log says.

    Attributes:
        table: of the view.
        key: the row's, with the names of its columns.
        job_id: the job that the row belongs to; empty if it is of no job that either view knows.
        column: the first that differs; empty: the whole row is missing, or is one too many.
        found: what the view has there, short enough for a message; `nothing` for a row that is missing.
        wanted: what the log says.
    """

    table: str
    key: dict[str, Any]
    job_id: str
    column: str
    found: str
    wanted: str

    def __str__(self) -> str:
        """All of it on one line."""
        where = ", ".join(f"{name} {shown(value)}" for name, value in self.key.items())
        job = f" of job {self.job_id}" if self.job_id else ""
        what = f"column {self.column}" if self.column else "the row"
        return f"table {self.table}, row {where}{job}: {what} is {self.found}, and the log says {self.wanted}"


_NOTHING: Final = "nothing"
_A_ROW: Final = "a row"
_CONTEXT_CHARACTERS: Final = 20  # of what is equal, before the place where a long value differs
_TILES: Final = Table(
    "tree_tiles", ("level", "position", "hashes"), ("level", "position"), DIGEST_CHUNK_SPECS
)
_TAIL: Final = "SELECT hashes FROM tree_tail ORDER BY start"


async def compare_views(view: Reader, fresh: Reader) -> list[Difference]:
    """The first difference of each table; none if all rows are equal.

    Args:
        view: what is checked; a snapshot of it at the same sequence as the other.
        fresh: what the log says, folded just now.
    """
    differences: list[Difference] = []
    [ours], [theirs] = [await each.rows("SELECT anomalies FROM checkpoint") for each in (view, fresh)]
    if ours != theirs:
        differences.append(
            Difference(
                table="checkpoint",
                key={"only_row": 1},
                job_id="",
                column="anomalies",
                found=shown(ours[0]),
                wanted=shown(theirs[0]),
            )
        )
    for table in TABLES:
        found = await _first_difference(view, fresh, table)
        if found is not None:
            differences.append(found)
    return differences


async def _first_difference(view: Reader, fresh: Reader, table: Table) -> Difference | None:
    last: Row | None = None
    while True:
        ours, theirs = await next_rows(view, table, last), await next_rows(fresh, table, last)
        if ours != theirs:
            # All rows before these are equal, so the first pair that is not tells.
            pair = next(pair for pair in zip_longest(ours, theirs) if pair[0] != pair[1])
            return await _told(view, fresh, table, *pair)
        if not ours:
            return None
        last = table.key_of(ours[-1])


async def _told(
    view: Reader, fresh: Reader, table: Table, ours: Row | None, theirs: Row | None
) -> Difference:
    """What is different between two rows that stand at the same place."""
    column = ""
    if ours is None or (theirs is not None and table.key_of(theirs) < table.key_of(ours)):
        assert theirs is not None
        row, found, wanted = theirs, _NOTHING, _A_ROW
    elif theirs is None or table.key_of(ours) < table.key_of(theirs):
        row, found, wanted = ours, _A_ROW, _NOTHING
    else:
        at = next(at for at, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        row, column = theirs, table.columns[at]
        found, wanted = _values(ours[at], theirs[at])
    return Difference(
        table=table.name,
        key=dict(zip(table.key, table.key_of(row), strict=True)),
        job_id=await _job_of(view, fresh, dict(zip(table.columns, row, strict=True))),
        column=column,
        found=found,
        wanted=wanted,
    )


async def _job_of(view: Reader, fresh: Reader, row: dict[str, Any]) -> str:
    for name in ("id", "job_id"):
        if name in row:
            return str(row[name])
    if "created_sequence" not in row:
        return ""
    for reader in (fresh, view):
        jobs = await reader.rows("SELECT id FROM jobs WHERE created_sequence = ?", (row["created_sequence"],))
        if jobs:
            return str(jobs[0][0])
    return ""


def _values(ours: Any, theirs: Any) -> tuple[str, str]:
    """Both values for a message; of long ones the part where they begin to differ."""
    texts = [
        each.decode("utf-8", "backslashreplace") if isinstance(each, bytes) else each
        for each in (ours, theirs)
    ]
    if all(isinstance(text, str) for text in texts) and max(map(len, texts)) > SHOWN_MAX_CHARACTERS:
        pairs = enumerate(zip(*texts, strict=False))
        same = next((at for at, pair in pairs if len({*pair}) > 1), min(map(len, texts)))
        start = max(0, same - _CONTEXT_CHARACTERS)
        texts = [f"{'…' if start else ''}{text[start:]}" for text in texts]
    return shown(texts[0]), shown(texts[1])


async def first_changed_event(view: Reader, fresh: Reader) -> int:
    """The first sequence whose record was another one when the view folded it; 0: none, or it keeps no tree.

    A view remembers the hash of each record that it has folded, in the leaves of its tree.

    Args:
        view: what is checked.
        fresh: what the log says now.
    """
    last: Row | None = None
    while True:
        ours, theirs = await next_rows(view, _TILES, last), await next_rows(fresh, _TILES, last)
        for row, wanted in zip(ours, theirs, strict=False):
            if row[0] > 0 or row[:2] != wanted[:2]:
                break
            at = _first_other(row[2], wanted[2])
            if at is not None:
                return int(row[1]) * TILE_WIDTH + at + 1
        if not ours or not theirs or ours[-1][0] > 0:
            break
        last = _TILES.key_of(ours[-1])
    ends = [b"".join([row[0] for row in await each.rows(_TAIL)]) for each in (view, fresh)]
    [(size,)] = await fresh.rows("SELECT tree_size FROM checkpoint")
    at = _first_other(*ends) if all(ends) else None
    return size - size % TILE_WIDTH + at + 1 if at is not None else 0


async def tree_is_equal(view: Reader, fresh: Reader) -> bool:
    """Whether two views at one sequence hold the same tree; one that keeps none holds none."""
    sizes = [await each.rows("SELECT tree_size, tree_missing FROM checkpoint") for each in (view, fresh)]
    ends = [b"".join([row[0] for row in await each.rows(_TAIL)]) for each in (view, fresh)]
    return (
        sizes[0] == sizes[1] and ends[0] == ends[1] and await _first_difference(view, fresh, _TILES) is None
    )


def _first_other(ours: bytes, theirs: bytes) -> int | None:
    pairs = zip(split_hashes(ours), split_hashes(theirs), strict=False)
    return next((at for at, pair in enumerate(pairs) if pair[0] != pair[1]), None)
