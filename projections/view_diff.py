"""Comparing views: a digest of all rows, and the first difference per table.

Rows are read in key order, a bounded number at a time, so memory use does not depend on the size of the view.
"""

import hashlib
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec

from jobledger.projections.database import Reader, Row
from jobledger.projections.limits import DIGEST_CHUNK_ROWS, DIGEST_CHUNK_SPECS
from jobledger.projections.merkle.tree import TILE_WIDTH, split_hashes
from jobledger.projections.rows import JOB_COLUMNS, LOST_COLUMNS
from jobledger.store.spec.values import SHOWN_MAX_CHARACTERS, shown


class Table(NamedTuple):
    """A table to compare; the key gives the order and the position of a chunk."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    chunk_rows: int

    def key_of(self, row: Row) -> Row:
        """The key of a row."""
        return tuple(row[self.columns.index(column)] for column in self.key)


# What may differ between equal replicas is left out: the log's epoch, the damage found, the version of the
# projection, the migrations, and the page layout.
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
        LOST_COLUMNS,
        ("id", "namespace"),
        DIGEST_CHUNK_ROWS,
    ),
    Table("anomalies", ("sequence", "job_id", "reason"), ("sequence",), DIGEST_CHUNK_ROWS),
)
_TILES: Final = Table(
    "tree_tiles", ("level", "position", "hashes"), ("level", "position"), DIGEST_CHUNK_SPECS
)
_TAIL: Final = "SELECT hashes FROM tree_tail ORDER BY start"

_NOTHING: Final = "nothing"
_A_ROW: Final = "a row"
_CONTEXT_CHARACTERS: Final = 20  # shown before the first difference of a long value

# MessagePack encodes the type and length of each value, so different rows never have the same bytes.
_encoder = msgspec.msgpack.Encoder()


async def digest_of(reader: Reader) -> str:
    """The SHA-256 digest, in hex, over all rows of `TABLES` and the checkpoint's sequence and anomaly count.

    No other task may use the reader meanwhile: the digest keeps one snapshot open on it.
    """
    digest = hashlib.sha256()
    await reader.rows("BEGIN")
    try:
        [checkpoint] = await reader.rows("SELECT sequence, anomalies FROM checkpoint")
        digest.update(_encoder.encode(checkpoint))
        for table in TABLES:
            digest.update(_encoder.encode(table.name))
            last: Row | None = None
            while rows := await _next_rows(reader, table, last):
                digest.update(b"".join(map(_encoder.encode, rows)))
                last = table.key_of(rows[-1])
    finally:
        await reader.rows("ROLLBACK")
    return digest.hexdigest()


async def _next_rows(reader: Reader, table: Table, after: Row | None) -> list[Row]:
    """The next rows in key order, after a key or from the start."""
    key = ", ".join(table.key)
    where = f" WHERE ({key}) > ({', '.join('?' * len(table.key))})" if after is not None else ""
    sql = (
        f"SELECT {', '.join(table.columns)} FROM {table.name}{where} ORDER BY {key} LIMIT {table.chunk_rows}"
    )
    return await reader.rows(sql, after or ())


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first row of a table in which a view differs from the log.

    Attributes:
        table: name of the table.
        key: values of the row's key, by column.
        job_id: the job of the row; empty if neither view has a job for it.
        column: the first column that differs; empty if the row is missing or extra.
        found: the value in the view, shortened; `nothing` for a missing row.
        expected: the value according to the log, shortened.
    """

    table: str
    key: dict[str, Any]
    job_id: str
    column: str
    found: str
    expected: str

    def __str__(self) -> str:
        where = ", ".join(f"{name} {shown(value)}" for name, value in self.key.items())
        job = f" of job {self.job_id}" if self.job_id else ""
        what = f"column {self.column}" if self.column else "the row"
        return f"table {self.table}, row {where}{job}: {what} is {self.found}, but should be {self.expected}"


async def compare_views(view: Reader, fresh: Reader) -> list[Difference]:
    """The first difference of each table; empty if all rows are equal.

    Args:
        view: the view to check, at the same sequence as `fresh`.
        fresh: a view folded from the log just now.
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
                expected=shown(theirs[0]),
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
        ours, theirs = await _next_rows(view, table, last), await _next_rows(fresh, table, last)
        if ours != theirs:
            pair = next(pair for pair in zip_longest(ours, theirs) if pair[0] != pair[1])
            return await _describe(view, fresh, table, *pair)
        if not ours:
            return None
        last = table.key_of(ours[-1])


async def _describe(
    view: Reader, fresh: Reader, table: Table, ours: Row | None, theirs: Row | None
) -> Difference:
    """The difference between the first two rows that are not equal."""
    column = ""
    if ours is None or (theirs is not None and table.key_of(theirs) < table.key_of(ours)):
        assert theirs is not None
        row, found, expected = theirs, _NOTHING, _A_ROW
    elif theirs is None or table.key_of(ours) < table.key_of(theirs):
        row, found, expected = ours, _A_ROW, _NOTHING
    else:
        at = next(at for at, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        row, column = theirs, table.columns[at]
        found, expected = _values(ours[at], theirs[at])
    return Difference(
        table=table.name,
        key=dict(zip(table.key, table.key_of(row), strict=True)),
        job_id=await _job_of(view, fresh, dict(zip(table.columns, row, strict=True))),
        column=column,
        found=found,
        expected=expected,
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
    """Both values for a message; long ones from shortly before the first difference."""
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
    """The first sequence whose record changed since the view folded it; 0 if none did, or without a tree.

    The leaves of a view's tree are the hashes of the records that it has folded.

    Args:
        view: the view to check.
        fresh: a view folded from the log just now.
    """
    last: Row | None = None
    while True:
        ours, theirs = await _next_rows(view, _TILES, last), await _next_rows(fresh, _TILES, last)
        for row, expected in zip(ours, theirs, strict=False):
            if row[0] > 0 or row[:2] != expected[:2]:
                break
            at = _first_difference_in(row[2], expected[2])
            if at is not None:
                return int(row[1]) * TILE_WIDTH + at + 1
        if not ours or not theirs or ours[-1][0] > 0:
            break
        last = _TILES.key_of(ours[-1])
    ends = [b"".join([row[0] for row in await each.rows(_TAIL)]) for each in (view, fresh)]
    [(size,)] = await fresh.rows("SELECT tree_size FROM checkpoint")
    at = _first_difference_in(*ends) if all(ends) else None
    return size - size % TILE_WIDTH + at + 1 if at is not None else 0


async def tree_is_equal(view: Reader, fresh: Reader) -> bool:
    """Whether two views at the same sequence have the same tree, or both have none."""
    sizes = [await each.rows("SELECT tree_size, tree_missing FROM checkpoint") for each in (view, fresh)]
    ends = [b"".join([row[0] for row in await each.rows(_TAIL)]) for each in (view, fresh)]
    return (
        sizes[0] == sizes[1] and ends[0] == ends[1] and await _first_difference(view, fresh, _TILES) is None
    )


def _first_difference_in(ours: bytes, theirs: bytes) -> int | None:
    pairs = zip(split_hashes(ours), split_hashes(theirs), strict=False)
    return next((at for at, pair in enumerate(pairs) if pair[0] != pair[1]), None)
