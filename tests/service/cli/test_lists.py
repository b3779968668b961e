"""`--watch` shows a list again only when the shown data changed."""

from types import SimpleNamespace
from typing import Any

import pytest

from jobledger.service.cli import lists


def test_response_that_differs_only_in_its_position_is_not_shown_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every event of the log moves the position; only the rows count."""
    monkeypatch.setattr(lists, "WATCH_SECONDS", 0)
    answers = iter([(["a"], 1), (["a"], 2), (["a", "b"], 3), (["a", "b"], 4)])
    shown: list[tuple[list[str], int]] = []

    def read() -> tuple[list[str], int]:
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None

    client: Any = SimpleNamespace(with_retries=lambda read: read())
    monkeypatch.setattr(lists, "end_on_sigterm", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        lists.watch(client, read, shown.append, for_people=False, facts=lambda found: found[0])
    assert shown == [(["a"], 1), (["a", "b"], 3)]
