"""Writes events as a Parquet file: the envelope in typed columns, the data as JSON.

Row groups are bounded in rows and bytes; one is in memory at a time.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from jobledger.service.errors import InvalidSettings
from jobledger.service.export.output_file import OutputFile
from jobledger.service.limits import PARQUET_GROUP_BYTES, PARQUET_GROUP_ROWS
from jobledger.store.model.limits import INT_MAX

COMPRESSION: Final = "zstd"

_TIME: Final = "streamtime"
_WORDS: Final = ("type", "namespace", "state")  # few distinct values
_NUMBERS: Final = ("sequence", "revision", "version", "previous")
COLUMNS: Final = (
    "sequence",
    _TIME,
    "type",
    "namespace",
    "job_id",
    "revision",
    "version",
    "state",
    "message",
    "name",
    "actor",
    "reason",
    "event_id",
    "time",
    "source",
    "traceparent",
    "previous",
    "data",
)
"""The columns in order; docs/CLI.md describes them."""


class _State(msgspec.Struct, rename="pascal", gc=False):
    state_type: str | None = None
    message: str | None = None


class _Spec(msgspec.Struct, rename="pascal", gc=False):
    name: str | None = None


class _Data(msgspec.Struct, rename="pascal", gc=False):
    """The parts of the data that have columns."""

    state: _State | None = None
    spec: _Spec | None = None


class _Event(msgspec.Struct, gc=False):
    """The parts of a document that have columns."""

    sequence: int | str  # a number in documents of earlier releases
    revision: int
    version: int
    streamtime: str
    type: str
    id: str
    subject: str
    namespace: str
    data: msgspec.Raw
    name: str | None = None
    time: str | None = None
    source: str | None = None
    actor: str | None = None
    reason: str | None = None
    traceparent: str | None = None
    previous: str = ""


_decoder = msgspec.json.Decoder(_Event)
_data_decoder = msgspec.json.Decoder(_Data)
_NO_STATE, _NO_SPEC = _State(), _Spec()


class Parquet:
    """Writes one Parquet file.

    Args:
        output: not a terminal.

    Raises:
        InvalidSettings: pyarrow is not installed.
    """

    def __init__(self, output: OutputFile) -> None:
        try:
            import pyarrow as pa  # type: ignore[import-untyped]  # an extra, and slow to import
            from pyarrow import parquet
        except ImportError:
            raise InvalidSettings(
                "Parquet needs the package pyarrow: `pip install 'jobledger[parquet]'`"
            ) from None
        self._pa: Any = pa
        self._schema = _schema(pa)
        self._file = pa.PythonFile(_File(output), mode="w")
        self._writer = parquet.ParquetWriter(self._file, self._schema, compression=COMPRESSION)
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def write(self, documents: Sequence[bytes]) -> None:
        """See `EventFormat.write`."""
        for document in documents:
            self._rows.append(_row(document))
            self._bytes += len(document)
            if len(self._rows) >= PARQUET_GROUP_ROWS or self._bytes >= PARQUET_GROUP_BYTES:
                self._end_group()

    def finish(self) -> None:
        """See `EventFormat.finish`."""
        if self._rows:
            self._end_group()
        self._writer.close()

    def _end_group(self) -> None:
        pa, rows = self._pa, self._rows
        self._rows, self._bytes = [], 0
        columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
        arrays = []
        for field in self._schema:
            values = columns.pop(field.name)  # frees each column once it is an array
            plain = pa.array(values, pa.string() if field.name not in _NUMBERS else pa.int64())
            arrays.append(plain if plain.type == field.type else plain.cast(field.type))
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._writer.write_batch(batch, row_group_size=PARQUET_GROUP_ROWS)


def _row(document: bytes) -> tuple[Any, ...]:
    event = _decoder.decode(document)
    data = _data_decoder.decode(event.data)
    state = data.state or _NO_STATE
    return (
        int(event.sequence),
        event.streamtime,
        event.type,
        event.namespace,
        event.subject,
        event.revision,
        event.version,
        state.state_type,
        state.message,
        event.name or (data.spec or _NO_SPEC).name,
        event.actor,
        event.reason,
        event.id,
        event.time,
        event.source,
        event.traceparent,
        int(event.previous) if event.previous.isdecimal() and int(event.previous) <= INT_MAX else None,
        bytes(event.data).decode(),
    )


def _schema(pa: Any) -> Any:
    kinds = {
        **dict.fromkeys(_NUMBERS, pa.int64()),
        **dict.fromkeys(_WORDS, pa.dictionary(pa.int32(), pa.string())),
        _TIME: pa.timestamp("ns", tz="UTC"),
    }
    always = {"sequence", "revision", "version", _TIME, "type", "namespace", "job_id", "event_id", "data"}
    return pa.schema([pa.field(name, kinds.get(name, pa.string()), name not in always) for name in COLUMNS])


class _File:
    """The file interface that pyarrow expects of an output."""

    closed = False

    def __init__(self, output: OutputFile) -> None:
        self._output = output
        self._failed = False

    def write(self, content: Any) -> int:
        """Write all bytes; ignored after a failure, because a discarded writer still writes its footer."""
        if not self._failed:
            self._failed = True
            self._output.write(content)
            self._failed = False
        return len(content)

    def tell(self) -> int:
        return self._output.position

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """The opener closes the output."""
        self.closed = True
