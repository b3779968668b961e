"""The digest of a view: one hash over all its rows, by which two views at the same sequence can be compared.

It covers every row of the jobs, lost jobs, specs, labels and anomalies, in the order of their keys, and the
checkpoint's sequence and count of anomalies. It leaves out what may differ between equal replicas: the log's
epoch, the damage that was met, the version of the projection, the migrations, and how SQLite laid out its
pages.
"""

import hashlib
from typing import Final, NamedTuple

import msgspec

from jobledger.projections.database import Reader, Row
from jobledger.projections.limits import DIGEST_CHUNK_ROWS, DIGEST_CHUNK_SPECS
from jobledger.projections.rows import JOB_COLUMNS


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
