"""What the tables of subscriptions and of webhooks say in the same words."""

from collections.abc import Mapping
from typing import Any, Final

from jobledger.service.cli.shared import event_word
from jobledger.service.cli.times import age, exact_of

_NANOSECONDS: Final = 1_000_000_000


def lag(found: Mapping[str, Any]) -> str:
    """The age of a subscription's oldest event that is not handled yet, as other ages: `12s`, `5m`."""
    seconds = found.get("LagSeconds")
    return age(0, int(seconds * _NANOSECONDS)) if isinstance(seconds, int | float) else "-"


def events(said: Mapping[str, Any]) -> str:
    """Which events a filter is for: `state into Failed in prod with env=prod`; `all` of them."""
    types = [event_word(str(each)) for each in said.get("Types") or ()]
    labels = said.get("Labels") or ""
    parts = [
        ", ".join(types) or "all",
        _words("into", " or ".join(map(str, said.get("States") or ()))),
        _words("in", said.get("Namespace")),
        _words("of", said.get("Job")),
        _words("with", labels if isinstance(labels, str) else ",".join(map(str, labels))),
    ]
    return " ".join(part for part in parts if part)


def created(found: Mapping[str, Any]) -> str:
    """When it was made, to the second, in the reader's time zone."""
    return exact_of(found.get("Created"))


def _words(preposition: str, text: object) -> str:
    return f"{preposition} {text}" if text else ""
