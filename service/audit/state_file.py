"""The state of a long-running audit in a private file, replaced as a whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from jobledger.service.errors import InvalidSettings
from jobledger.store.model.errors import InvalidInput
from jobledger.store.private_files import read_trusted, replace_file

StateT = TypeVar("StateT")


class StateFile(Generic[StateT]):
    """A Struct kept as JSON in a file with mode 0600.

    Args:
        path: of the file.
        kind: type of the Struct.
        title: of the file in messages.
        remedy: what to do with a damaged file.
        check: raises InvalidInput for a state that is not valid.
    """

    def __init__(
        self, path: Path, kind: type[StateT], *, title: str, remedy: str, check: Callable[[StateT], object]
    ) -> None:
        self.path = path
        self._kind = kind
        self._title = title
        self._remedy = remedy
        self._check = check

    def load(self) -> StateT | None:
        """Return the state; None if there is no file.

        Raises:
            InvalidSettings: the file can't be read, others can write it, or it is damaged.
        """
        try:
            state = msgspec.json.decode(read_trusted(self.path), type=self._kind)
            self._check(state)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("can't be read", error) from error
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidInput) as error:
            raise InvalidSettings(
                f"the {self._title} {self.path} is damaged ({error}): {self._remedy}"
            ) from None
        except ValueError as error:
            raise InvalidSettings(f"the {self._title} {self.path} {error}") from None
        return state

    def save(self, state: StateT) -> None:
        """Replace the file.

        Raises:
            InvalidSettings: it can't be written.
        """
        try:
            replace_file(self.path, lambda: msgspec.json.encode(state))
        except OSError as error:
            raise self._failed("can't be written", error) from error

    def _failed(self, what: str, error: OSError) -> InvalidSettings:
        return InvalidSettings(
            f"the {self._title} {self.path} {what}: {error.strerror or type(error).__name__}"
        )
