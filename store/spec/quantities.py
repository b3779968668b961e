"""The grammar of resources: `500m` of CPU, `1.5 GB` of memory or disk, `2` GPUs.

As in Bacalhau, CPU is a Kubernetes quantity, memory and disk are "humanized" bytes (of the go-humanize
library), and GPU is an unsigned decimal. White space is ignored, because normalization removes it. Every
function returns None for an empty text ("not specified") and raises ValueError with the accepted forms.
"""

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from jobledger.store.model.limits import UINT_MAX

TEXT_MAX_CHARACTERS: Final = 64  # no quantity needs more; prevents parsing a megabyte of digits

_ERRORS_MAX_CACHED: Final = 4_096  # texts of at most TEXT_MAX_CHARACTERS

# [0-9], because \d also matches digits of other scripts.
_CPU = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(e[+-]?[0-9]+|[numkgtp]|[kmgtpe]i)?", re.IGNORECASE)
_CPU_UNITS: Final = {
    unit: 10.0**power
    for unit, power in {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "g": 9, "t": 12, "p": 15}.items()
} | {f"{letter}i": 1024.0**power for power, letter in enumerate("kmgtpe", start=1)}
_BYTES = re.compile(r"([0-9][0-9,]*(?:\.[0-9]*)?|\.[0-9]+)([kmgtpe]?i?b?)", re.IGNORECASE)
_BYTE_POWERS: Final = {letter: power for power, letter in enumerate(["", *"kmgtpe"])}
_GPU = re.compile(r"[0-9]+")


def parse_cpu(text: str) -> float | None:
    """Return a number of cores.

    The units `M` and `E` (10^6, 10^18) are refused: specs are stored in lower case, where `m` is milli.

    Raises:
        ValueError: if it is not a quantity, negative, or too large for a float.
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
    # `1ei` has a unit, `1e3` an exponent: only an exponent ends with a digit.
    cores = float(number + unit) if unit[-1:].isdigit() else float(number) * _CPU_UNITS[unit]
    if not math.isfinite(cores):
        raise ValueError("too large for a CPU quantity; write a smaller one")
    if cores < 0:
        raise ValueError("a CPU quantity must not be negative; write 0 or more")
    return cores


def parse_bytes(text: str) -> int | None:
    """Return bytes of memory or disk: `kB` and `k` are 1000, `KiB` and `Ki` are 1024; fractions are cut off.

    Raises:
        ValueError: if it is not a size, or exceeds 64 bits.
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
    if size > UINT_MAX:
        raise ValueError("too large: the maximum is below 16 EiB; write a smaller size")
    return size


def parse_gpu(text: str) -> int | None:
    """Return a number of GPUs.

    Raises:
        ValueError: if it is not a whole number from 0, or exceeds 64 bits.
    """
    text = _compact(text)
    if not text:
        return None
    if not _GPU.fullmatch(text):
        raise ValueError("not a number of GPUs; write a whole number such as 1")
    count = int(text)
    if count > UINT_MAX:
        raise ValueError("too many GPUs; write a smaller number")
    return count


def quantity_error(parse: Callable[[str], float | None], text: str) -> str:
    """Return the error of one of these functions for a text; empty if there is none.

    Few of the quantities of many specs differ, so the results are cached.
    """
    if len(text) > TEXT_MAX_CHARACTERS or type(text) is not str:  # mostly space; or with a hash of its own
        return _error_of(parse, text)
    return _cached_error_of(parse, text)


def _error_of(parse: Callable[[str], float | None], text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return ""


_cached_error_of = lru_cache(_ERRORS_MAX_CACHED)(_error_of)


def _compact(text: str) -> str:
    compact = "".join(text.split())
    if len(compact) > TEXT_MAX_CHARACTERS:
        raise ValueError(f"{len(compact)} characters; the limit is {TEXT_MAX_CHARACTERS}; shorten it")
    return compact
