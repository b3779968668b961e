"""Resources have the meaning that they have in Bacalhau: Kubernetes CPU, humanized bytes, whole GPUs."""

from collections.abc import Callable

import pytest

from jobledger.store.spec.quantities import TEXT_MAX_CHARACTERS, parse_bytes, parse_cpu, parse_gpu


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("", None),
        (" \n", None),
        ("500m", 0.5),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("+2", 2.0),
        ("2", 2.0),
        ("1e3", 1000.0),
        ("1E3", 1000.0),
        ("2e-1", 0.2),
        ("1k", 1000.0),
        ("1Ki", 1024.0),
        ("1ki", 1024.0),
        ("1Ei", 2.0**60),
        ("250 m", 0.25),
        ("100u", 0.0001),
    ],
)
def test_cpu_is_a_kubernetes_quantity(text: str, cores: float | None) -> None:
    """CPU is parsed as in Kubernetes, ignoring white space."""
    assert parse_cpu(text) == (cores if cores is None else pytest.approx(cores))


@pytest.mark.parametrize(
    "text", ["m", "-1", "-1m", "1e999", "1x", "1.2.3", "nan", "inf", "1_0", "\u0661", "1e", "1ee3", "0x1"]
)
def test_an_invalid_cpu_is_refused(text: str) -> None:
    """Negative, infinite, foreign and malformed texts."""
    with pytest.raises(ValueError, match=r"CPU"):
        parse_cpu(text)


@pytest.mark.parametrize("text", ["500M", "1E"])
def test_cpu_units_that_lower_case_would_change_are_refused(text: str) -> None:
    """500M is never stored as 500m, which is 10^9 times less."""
    with pytest.raises(ValueError, match="not accepted for CPU"):
        parse_cpu(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", None),
        ("10", 10),
        ("1.5", 1),
        ("1b", 1),
        ("512mb", 512_000_000),
        ("512Mb", 512_000_000),
        ("1Gi", 2**30),
        ("1GiB", 2**30),
        ("4Gb", 4_000_000_000),
        ("1.5 GB", 1_500_000_000),
        ("1,000", 1_000),
        ("1k", 1_000),
        ("1KiB", 1_024),
        ("2t", 2 * 10**12),
        ("1pb", 10**15),
        ("15EiB", 15 * 2**60),
        ("18446744073709551615", 2**64 - 1),
    ],
)
def test_memory_is_humanized_bytes(text: str, size: int | None) -> None:
    """Sizes have powers of 1000, or of 1024 with an i, in any case."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["gb", "-1", "1ib", "1i", "1kk", "1.5.5", "1zb", "1e3", "\u0663"])
def test_an_invalid_size_is_refused(text: str) -> None:
    """Negative and malformed sizes, and unknown units."""
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["16EiB", "18446744073709551616", "9" * 60 + "."])
def test_sizes_have_at_most_64_bits(text: str) -> None:
    """A larger size is refused."""
    with pytest.raises(ValueError, match="too large"):
        parse_bytes(text)


def test_gpus_are_whole_numbers() -> None:
    """Unsigned decimals of at most 64 bits."""
    assert parse_gpu("") is None
    assert parse_gpu(" 2 ") == 2
    for text in ("-1", "1.0", "one", "1gpu", "\uff12"):
        with pytest.raises(ValueError, match="not a number of GPUs"):
            parse_gpu(text)
    with pytest.raises(ValueError, match="too many"):
        parse_gpu(str(2**64))


@pytest.mark.parametrize("parse", [parse_cpu, parse_bytes, parse_gpu])
def test_long_texts_are_refused_before_they_are_parsed(parse: Callable[[str], float | None]) -> None:
    """A quantity has at most TEXT_MAX_CHARACTERS."""
    assert parse("0" * TEXT_MAX_CHARACTERS) == 0
    with pytest.raises(ValueError, match=str(TEXT_MAX_CHARACTERS)):
        parse("0" * (TEXT_MAX_CHARACTERS + 1))
