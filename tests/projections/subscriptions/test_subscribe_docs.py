"""The library part of docs/SUBSCRIBE.md is complete and correct."""

import re
import subprocess
import sys
from pathlib import Path

from jobledger import SubscribedEvent, Subscription, SubscriptionState, SubscriptionStatus, subscribe
from jobledger.projections import limits
from jobledger.store.model.limits import HOLD_CHECK_SECONDS, PIN_MARGIN_SECONDS, PIN_SECONDS

PAGE = (Path(__file__).parents[3] / "docs" / "SUBSCRIBE.md").read_text()
LIBRARY = PAGE.partition("\n## Operators")[0]


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    """The Python blocks about the library, in order, are one program that succeeds."""
    program = tmp_path / "subscribing.py"
    program.write_text("\n".join(re.findall(r"```python\n(.*?)```", LIBRARY, re.DOTALL)))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2 nightly Completed scheduler",
        "attempt 2 at event 1 succeeded",
        "retrying: 1",
    ]


def test_every_argument_and_field_is_documented() -> None:
    """Each argument of `subscribe`, each field of an event and of the status, each state is on the page."""
    arguments = [name for name in subscribe.__annotations__ if name not in ("return", "log", "name")]
    fields = [name for name in SubscribedEvent.__struct_fields__ if name not in ("delivery", "subscription")]
    properties = [name for name, what in vars(SubscribedEvent).items() if isinstance(what, property)]
    methods = [name for name in ("run", "wait_state", "status") if hasattr(Subscription, name)]
    for name in (
        *arguments,
        *fields,
        *properties,
        *SubscriptionStatus.__struct_fields__,
        *methods,
        "ack",
        "fail",
    ):
        assert re.search(rf"\b{name}\b", LIBRARY), name
    for state in SubscriptionState:
        assert f"`{state}`" in LIBRARY


def test_the_numbers_are_those_of_the_code() -> None:
    """Bounds that the page names are the named limits."""
    for phrase in (
        f"every {limits.ACKNOWLEDGE_EVENTS} events or {limits.ACKNOWLEDGE_SECONDS:g} s",
        f"About {limits.SUBSCRIPTION_BUFFER_EVENTS:,} events or {limits.SUBSCRIPTION_BUFFER_BYTES >> 20} MB",
        f"within about {PIN_SECONDS:g} s",
        f"for {PIN_SECONDS - PIN_MARGIN_SECONDS:g} s or more",
        f"for up to {HOLD_CHECK_SECONDS:g} s",
        f"At most {limits.RETRY_QUEUE_MAX_JOBS:,} jobs",
        f"at most {limits.RETRY_LAST_SECONDS / 60:g} minutes apart",
        f"before its job is parked; {limits.RETRIES_DEFAULT} |",
    ):
        assert phrase in " ".join(LIBRARY.split()), phrase
