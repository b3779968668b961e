"""The headers of a NATS message, parsed when somebody looks. Pure."""

from collections.abc import Iterator, Mapping


class Headers(Mapping[str, str]):
    """Headers that are parsed when somebody looks: of a million delivered events nobody ever does.

    Args:
        raw: the header block as it came: `NATS/1.0[ status[ description]]`, then `Key: value` lines.
    """

    __slots__ = ("_parsed", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._parsed: dict[str, str] | None = None

    def __getitem__(self, key: str) -> str:
        return self._items()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items())

    def __len__(self) -> int:
        return len(self._items())

    def __bool__(self) -> bool:
        return True

    def _items(self) -> dict[str, str]:
        if self._parsed is None:
            first, *lines = bytes(self._raw).decode(errors="replace").split("\r\n")
            pairs = (line.partition(":") for line in lines)
            self._parsed = {key: value.strip() for key, colon, value in pairs if colon}
            _, _, inline = first.partition(" ")
            status, _, description = inline.partition(" ")
            if status:  # set last: a header of this name must not pass for the server's own word
                self._parsed |= {"Status": status, "Description": description}
            else:
                self._parsed.pop("Status", None)
        return self._parsed
