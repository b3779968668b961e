"""The keys that somebody who checks trusts: vkeys on the command line, or in files of their own."""

from collections.abc import Iterable
from pathlib import Path

from jobledger.service.audit.note import VerifierKey
from jobledger.service.limits import AUDIT_CHECK_KEY_FILE_MAX_BYTES, AUDIT_CHECK_KEYS_MAX
from jobledger.store.model.errors import InvalidInput


def read_keys(given: Iterable[str]) -> tuple[VerifierKey, ...]:
    """Keys, each of them a vkey, or the path of a file with one on each line.

    Lines that are empty or begin with `#` are passed over, so that a file can say whose keys they are.

    Raises:
        InvalidInput: if one is neither, a file can't be read or has no key, or there are too many.
    """
    keys: dict[VerifierKey, None] = {}
    for each in given:
        path = Path(each)
        # A vkey may hold slashes, and no file of ours a plus: what is there counts as a file.
        for text in _lines(path) if "+" not in each or path.exists() else [each]:
            keys[VerifierKey.parse(text)] = None
    if len(keys) > AUDIT_CHECK_KEYS_MAX:
        raise InvalidInput(f"{len(keys)} keys were given, and at most {AUDIT_CHECK_KEYS_MAX} are taken")
    return tuple(keys)


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(AUDIT_CHECK_KEY_FILE_MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise InvalidInput(
            f"the key {str(path)!r:.200} is neither a vkey nor a file that can be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError:
        raise InvalidInput(f"the file of keys {path} is no text") from None
    if len(content) > AUDIT_CHECK_KEY_FILE_MAX_BYTES:
        raise InvalidInput(f"the file of keys {path} has more than {AUDIT_CHECK_KEY_FILE_MAX_BYTES} bytes")
    found = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not found:
        raise InvalidInput(f"the file of keys {path} has none")
    return found
