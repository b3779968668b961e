"""The style that no linter checks: small files, small functions; and that this test would notice."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE_MAX_LINES = 350
FUNCTION_MAX_LINES = 60
SOURCES = sorted(
    path for folder in ("jobledger", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")
)


def findings(name: str, text: str) -> list[str]:
    """What is too long in a source text."""
    found = []
    lines = len(text.splitlines())
    if lines > FILE_MAX_LINES:
        found.append(f"{name} has {lines} lines, over {FILE_MAX_LINES}: split it")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            size = (node.end_lineno or 0) - node.lineno + 1
            if size > FUNCTION_MAX_LINES:
                found.append(f"{name}:{node.name} has {size} lines, over {FUNCTION_MAX_LINES}: split it")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    """What does not fit on a few screens is split."""
    assert findings(path.name, path.read_text()) == []


def test_what_is_too_long_is_found() -> None:
    """The check itself works, at its edges."""
    body = "    x = 1\n"
    assert findings("f", "def f():\n" + body * (FUNCTION_MAX_LINES - 1)) == []
    assert len(findings("f", "def f():\n" + body * FUNCTION_MAX_LINES)) == 1
    assert len(findings("f", "x = 1\n" * (FILE_MAX_LINES + 1))) == 1
