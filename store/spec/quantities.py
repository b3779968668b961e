"""The grammar of resource texts: `500m` of CPU, `1.5 GB` of memory or disk, `2` GPUs.

CPU is a Kubernetes quantity, memory and disk are "humanized" bytes (as the go-humanize library reads them),
GPU is an unsigned decimal: the three grammars of Bacalhau. White space is ignored everywhere, since
normalisation removes it. Every function returns None for an empty text, which means "not said", and raises
ValueError with a reason that names the accepted forms.
"""

import math
import re
from typing import Final

UINT64_MAX: Final = 2**64 - 1  # Bacalhau keeps bytes and GPUs in this
TEXT_MAX_CHARACTERS: Final = 64  # no quantity needs more; keeps a megabyte of digits from being parsed

# [0-9], not \d: \d also means the digits of other scripts.
_CPU = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(e[+-]?[0-9]+|[numkgtp]|[kmgtpe]i)?", re.IGNORECASE)
_CPU_UNITS: Final = {
    unit: 10.0**power
    for unit, power in {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "g": 9, "t": 12, "p": 15}.items()
} | {f"{letter}i": 1024.0**power for power, letter in enumerate("kmgtpe", start=1)}
_BYTES = re.compile(r"([0-9][0-9,]*(?:\.[0-9]*)?|\.[0-9]+)([kmgtpe]?i?b?)", re.IGNORECASE)
_BYTE_POWERS: Final = {letter: power for power, letter in enumerate(["", *"kmgtpe"])}
_GPU = re.compile(r"[0-9]+")


def parse_cpu(text: str) -> float | None:
    """Cores.

    The units `M` and `E` (a million, 10^18) are refused: specs are stored in lower case, where `M` would mean
    milli.

    Raises:
        ValueError: not a quantity, negative, or too large to be a number.
    """
    text = _compact(text)
    if not text:
        return None
    if text.endswith(("M", "E")):
        raise ValueError(
            f"the unit {text[-1]} is not accepted for CPU; write 500m for half a core, or 2 for two"
        )
    match = _CPU.fullmatch(text)
    if match is None:
        raise ValueError("not a CPU quantity; write 500m, 0.5 or 2")
    number, unit = match[1], (match[2] or "").lower()
    # `1ei` is a unit, `1e3` an exponent: only an exponent ends in a digit.
    cores = float(number + unit) if unit[-1:].isdigit() else float(number) * _CPU_UNITS[unit]
    if not math.isfinite(cores):
        raise ValueError("too large for a CPU quantity; write a smaller one")
    if cores < 0:
        raise ValueError("a CPU quantity must not be negative; write 0 or more")
    return cores


def parse_bytes(text: str) -> int | None:
    """Bytes of memory or disk: `kB` and `k` are 1000, `KiB` and `Ki` are 1024; any fraction is cut off.

    Raises:
        ValueError: not a size, or more than 64 bits hold.
    """
    text = _compact(text)
    if not text:
        return None
    match = _BYTES.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or unit in ("i", "ib"):
        raise ValueError("not a size in bytes; write 512mb, 1Gi, 1.5 GB or a plain number")
    factor = (1024 if "i" in unit else 1000) ** _BYTE_POWERS[unit.rstrip("ib")]
    number = match[1].replace(",", "")
    size = int(number) * factor if number.isdecimal() else int(float(number) * factor)
    if size > UINT64_MAX:
        raise ValueError("too large: sizes end below 16 EiB; write a smaller one")
    return size


def parse_gpu(text: str) -> int | None:
    """How many GPUs.

    Raises:
        ValueError: not a whole number from 0, or more than 64 bits hold.
    """
    text = _compact(text)
    if not text:
        return None
    if not _GPU.fullmatch(text):
        raise ValueError("not a number of GPUs; write a whole number such as 1")
    count = int(text)
    if count > UINT64_MAX:
        raise ValueError("too many GPUs; write a smaller number")
    return count


def _compact(text: str) -> str:
    compact = "".join(text.split())
    if len(compact) > TEXT_MAX_CHARACTERS:
        raise ValueError(f"{len(compact)} characters; the limit is {TEXT_MAX_CHARACTERS}; shorten it")
    return compact
