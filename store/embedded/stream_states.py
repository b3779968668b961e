"""The state of the streams: as the started nats-server reports it, and as it was recorded before the start.

`known.json` has, for each stream, the last sequence that was seen acknowledged and the holes that an operator
has accepted. `damage.json` is the report of the last start that was refused.
"""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from jobledger.store.embedded.proof import Damage, Known, Range, State, StreamFiles, ranges_of
from jobledger.store.jetstream.api import API, STREAM_NOT_FOUND, ApiError
from jobledger.store.jetstream.connection import Connection
from jobledger.store.model.errors import EmbeddedServerError
from jobledger.store.model.limits import HOLES_MAX_LISTED
from jobledger.store.private_files import open_private

KNOWN_FILE: Final = "known.json"
DAMAGE_FILE: Final = "damage.json"
ACCOUNT: Final = "$G"  # nats-server's name for the account of a server without accounts

_log = logging.getLogger("jobledger.store")


class _State(msgspec.Struct, frozen=True):
    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0
    num_deleted: int = 0
    deleted: list[int] | None = None


class _Config(msgspec.Struct, frozen=True):
    name: str = ""


class _Info(msgspec.Struct, frozen=True):
    created: str = ""
    config: _Config = _Config()
    state: _State = _State()
    error: ApiError | None = None


class _List(msgspec.Struct, frozen=True):
    streams: list[_Info] | None = None
    total: int = 0
    error: ApiError | None = None


_info_decoder = msgspec.json.Decoder(_Info)
_list_decoder = msgspec.json.Decoder(_List)


async def state_of(connection: Connection, stream: StreamFiles, timeout_seconds: float) -> State | None:
    """Returns the state of a stream; None if it does not exist.

    Raises:
        LogUnavailable: there is no answer in time.
        EmbeddedServerError: the answer is an error.
    """
    info = await _info(connection, stream.name, b"{}", timeout_seconds)
    if info is None:
        return None
    holes: tuple[Range, ...] | None = ()
    if info.state.num_deleted > HOLES_MAX_LISTED:
        holes = None
    elif info.state.num_deleted and stream.keeps_all:
        detailed = await _info(connection, stream.name, b'{"deleted_details":true}', timeout_seconds)
        holes = ranges_of(detailed.state.deleted or ()) if detailed else ()
    found = info.state
    return State(info.created, found.first_seq, found.last_seq, found.messages, holes)


class Extent(NamedTuple):
    """A stream as a probe sees it.

    Attributes:
        created: when the stream was created.
        last: its last sequence.
        messages: number of messages.
    """

    created: str
    last: int
    messages: int


async def list_streams(connection: Connection, timeout_seconds: float) -> dict[str, Extent]:
    """Returns every stream, by its folder. A probe of the server: every request must be answered.

    Raises:
        LogUnavailable: there is no answer in time, or JetStream is off.
    """
    found: dict[str, Extent] = {}
    total = 1
    while len(found) < total:
        request = msgspec.json.encode({"offset": len(found)})
        answer = await connection.request(f"{API}.STREAM.LIST", request, timeout_seconds=timeout_seconds)
        page = _list_decoder.decode(answer.payload)
        if page.error is not None:
            raise page.error.as_exception("the list of streams")
        if not page.streams:
            break
        for info in page.streams:
            found[f"{ACCOUNT}/streams/{info.config.name}"] = Extent(
                info.created, info.state.last_seq, info.state.messages
            )
        total = page.total
    return found


async def _info(connection: Connection, name: str, request: bytes, timeout_seconds: float) -> _Info | None:
    answer = await connection.request(f"{API}.STREAM.INFO.{name}", request, timeout_seconds=timeout_seconds)
    info = _info_decoder.decode(answer.payload)
    if info.error is None:
        return info
    if info.error.err_code == STREAM_NOT_FOUND:
        return None
    raise EmbeddedServerError(f"nats-server cannot describe the stream {name}: {info.error.description}")


def read_known(folder: Path) -> dict[str, Known]:
    """Returns what is known of each stream, by its folder; empty if the file is missing or damaged.

    Raises:
        OSError: it cannot be read. A start without it would prove less.
    """
    path = folder / KNOWN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Known])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        _log.error("%s is damaged, so a loss at the end of a stream may not be noticed: %s", path, error)
        return {}


def write_known(folder: Path, known: dict[str, Known]) -> None:
    """Replaces what is known.

    Raises:
        OSError: it cannot be written.
    """
    _write(folder / KNOWN_FILE, msgspec.json.encode(known))


def read_damage(folder: Path) -> tuple[Damage, ...]:
    """Returns the report of the last refused start; empty without one, or after it was resolved."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((folder / DAMAGE_FILE).read_bytes(), type=tuple[Damage, ...])
    return ()


def write_damage(folder: Path, damage: tuple[Damage, ...]) -> None:
    """Replaces the report; an empty one removes it.

    Raises:
        OSError: it cannot be written.
    """
    if damage:
        _write(folder / DAMAGE_FILE, msgspec.json.format(msgspec.json.encode(damage), indent=1))
    else:
        (folder / DAMAGE_FILE).unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    with open_private(new, "wb") as file:
        file.write(content)
    new.replace(path)
