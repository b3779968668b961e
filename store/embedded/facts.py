"""What is known of the streams from before a start, in files next to nats-server's folder.

`known.json` has, for each stream, the last sequence that was seen acknowledged and the holes that an operator
has accepted. `damage.json` is the report of the last start that was refused.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from jobledger.store.embedded.proof import Damage, Known
from jobledger.store.private_files import open_private

KNOWN_FILE: Final = "known.json"
DAMAGE_FILE: Final = "damage.json"


def read_known(folder: Path) -> dict[str, Known]:
    """What is known of each stream, by its folder; nothing if the file is missing or unreadable."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((folder / KNOWN_FILE).read_bytes(), type=dict[str, Known])
    return {}


def write_known(folder: Path, known: dict[str, Known]) -> None:
    """Replace what is known.

    Raises:
        OSError: if it cannot be written.
    """
    _write(folder / KNOWN_FILE, msgspec.json.encode(known))


def read_damage(folder: Path) -> tuple[Damage, ...]:
    """The report of the last start that was refused; empty if none was, or if it was settled."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((folder / DAMAGE_FILE).read_bytes(), type=tuple[Damage, ...])
    return ()


def write_damage(folder: Path, damage: tuple[Damage, ...]) -> None:
    """Replace the report; an empty one removes it.

    Raises:
        OSError: if it cannot be written.
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
