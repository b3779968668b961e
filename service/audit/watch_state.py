"""What a watcher keeps between two runs, in a file of its own: the past, as small as it can be told."""

from pathlib import Path
from typing import Final

import msgspec

from jobledger.projections.merkle.frontier import Frontier
from jobledger.service.access.secret_files import read_trusted, replace_file
from jobledger.service.audit.tree_tracker import Mark
from jobledger.service.errors import InvalidSettings
from jobledger.store.model.errors import InvalidInput

FORMAT: Final = "jobledger-watch"
VERSION: Final = 1


class WatchState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a watcher is.

    Attributes:
        origin: of the log.
        epoch: of its stream.
        anchor: the right edge of the tree at the last seal that fitted.
        size: how many events were read.
        root: of the tree over them.
        leaf: the hash of the newest of them; empty if there is none.
        marks: roots along the way.
        seals: how far the stream of seals was read.
        sealed_size: what the last seal that fitted covers.
        sealed_root: its root; empty if there was none.
        sealed_name: what to call it.
        sealed_time: when it was published, Unix nanoseconds.
        read_again: when all was last read from the beginning, Unix nanoseconds.
        format: always `FORMAT`.
        version: of the format.
    """

    origin: str
    epoch: str
    anchor: bytes = Frontier().to_bytes()
    size: int = 0
    root: bytes = b""
    leaf: bytes = b""
    marks: tuple[Mark, ...] = ()
    seals: int = 0
    sealed_size: int = 0
    sealed_root: bytes = b""
    sealed_name: str = ""
    sealed_time: int = 0
    read_again: int = 0
    format: str = FORMAT
    version: int = VERSION


def load_state(path: Path) -> WatchState | None:
    """The state in a file; None if there is no file: then nothing is remembered yet.

    Raises:
        InvalidSettings: if the file can't be read, is not ours alone, or holds something else.
    """
    try:
        state = msgspec.json.decode(read_trusted(path), type=WatchState)
        anchor = Frontier.from_bytes(state.anchor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidSettings(f"the watcher's state {path} can't be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidInput) as error:
        raise InvalidSettings(
            f"{path} is no watcher's state ({error}); name another file, or restore it: without it, what it"
            " remembers is lost"
        ) from None
    except ValueError as error:
        raise InvalidSettings(f"the watcher's state {path} {error}") from None
    if state.format != FORMAT or state.version != VERSION or anchor.size > state.size:
        raise InvalidSettings(f"{path} is no watcher's state of format {FORMAT} {VERSION}")
    return state


def save_state(path: Path, state: WatchState) -> None:
    """Replace the file as a whole, mode 600.

    Raises:
        InvalidSettings: if it can't be written.
    """
    try:
        replace_file(path, lambda: msgspec.json.encode(state))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidSettings(f"the watcher's state {path} can't be written: {reason}") from error
