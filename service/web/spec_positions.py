"""The line of a field in the text of a spec: where a problem is. Pure.

YAML and JSON (which YAML includes, nearly) are composed into nodes that know their lines. Other texts are
searched for the names of the path, one after the other.
"""

import re
from typing import Any, Final

import yaml

_STEP: Final = re.compile(r'\.?([^.\[\]]+)|\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\]')
_IN_MESSAGE: Final = re.compile(r"\bline (\d{1,7})\b")
_AT_END: Final = "(at end of document)"  # tomllib's words
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def line_of_message(message: str, text: str) -> int:
    """The line of a text that a parser's message names; 0 if it names none."""
    last = max(1, len(text.splitlines()))
    if _AT_END in message:
        return last
    found = _IN_MESSAGE.search(message)
    return min(int(found[1]), last) if found else 0


def lines_of_paths(text: str, paths: list[str], *, is_toml: bool) -> list[int]:
    """The line of each path such as `Tasks[0].Engine.Type`, or of the field around it; 0: unknown.

    Args:
        text: a spec that could be parsed.
        paths: as in problems.
        is_toml: TOML has no nodes with lines.
    """
    root = None if is_toml else _compose(text)
    if root is None:
        lines = text.splitlines()
        return [_search(lines, _steps(path)) for path in paths]
    return [_walk(root, _steps(path)) for path in paths]


def _steps(path: str) -> list[str | int]:
    return [int(index) if index else name or quoted for name, index, quoted in _STEP.findall(path)]


def _compose(text: str) -> Any:
    try:
        return yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError:
        return None


def _walk(root: Any, steps: list[str | int]) -> int:
    node, line = root, root.start_mark.line + 1 if steps else 0
    for step in steps:
        found = _inside(node, step)
        if found is None:
            return int(line)
        key, node = found
        line = key.start_mark.line + 1
    return int(line)


def _inside(node: Any, step: str | int) -> tuple[Any, Any] | None:
    if isinstance(node, yaml.SequenceNode):
        is_index = isinstance(step, int) and step < len(node.value)
        return (node.value[step], node.value[step]) if is_index else None
    if isinstance(node, yaml.MappingNode):
        wanted = str(step).lower()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value.lower() == wanted:
                return key, value
    return None


def _search(lines: list[str], steps: list[str | int]) -> int:
    at = found = 0
    for step in steps:
        if isinstance(step, int):
            continue
        name = re.compile(rf"(?<![\w-]){re.escape(step)}(?![\w-])", re.IGNORECASE)
        at = next((index for index in range(at, len(lines)) if name.search(lines[index])), -1)
        if at < 0:
            break
        found = at + 1
    return found
