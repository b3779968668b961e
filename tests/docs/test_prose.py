"""The pages, docstrings and messages use plain technical English, without words that have no place in it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("store", "projections", "service", "jobledger")

FORBIDDEN = re.compile(
    r"\b(?:"
    r"anew|whoever|thereof|wherein|lest|to and fro|none the less|led back|in the small|of ours"
    r"|hears? of|heard of|(?<!there )is none|said so|has no say|gone on|begun|stood"
    r"|told|tells|telling|mend|mends|mended|mending|sets? aside|setbacks?|lanes?|equipment|strangers?|doors?"
    # "Behind" means lagging: a position is after, or beyond, another one.
    r"|behind the (?:end|last|first|cursor|point|position|sequence|event)"
    r")\b"
)


def texts() -> Iterator[tuple[str, str]]:
    """Yield every page, and every string of the product: docstrings, help and messages."""
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *_product("md")):
        yield str(page.relative_to(ROOT)), page.read_text()
    for source in _product("py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{source.relative_to(ROOT)}:{node.lineno}", node.value


def _product(suffix: str) -> Iterator[Path]:
    for folder in FOLDERS:  # `rglob` does not follow the links of `jobledger/`
        yield from (ROOT / folder).rglob(f"*.{suffix}")


def test_no_text_has_a_forbidden_word() -> None:
    """A match names the place and the word; write what the thing is or does instead."""
    found = [
        f"{place}: {match[0]!r}"
        for place, text in texts()
        for match in FORBIDDEN.finditer(" ".join(text.split()))
    ]
    assert found == []


def test_a_forbidden_word_is_found() -> None:
    """Words are found inside of sentences, in lower case, and not as parts of other words."""
    assert FORBIDDEN.search("start 9 is behind the end of the log")
    assert FORBIDDEN.search("who reads it is told where to go on")
    assert FORBIDDEN.search("'x' is none; write a number")
    assert not FORBIDDEN.search("the view is 3 events behind; there is none older, and value is None")
