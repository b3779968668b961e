"""The section "Other languages" of docs/SUBSCRIBE.md, and a log to read."""

from pathlib import Path

from jobledger import JetStreamLog, Ledger, State, StateType
from tests.conftest import make_spec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "SUBSCRIBE.md").read_text()
SECTION = PAGE.partition("\n## Other languages\n")[2].partition("\n## ")[0]
WAIT_SECONDS = 60.0
_JOBS = 12
_STATES = (StateType.QUEUED, StateType.RUNNING, StateType.COMPLETED)


async def write_jobs(log: JetStreamLog, prefix: str) -> None:
    """Append the interleaved events of jobs, each from its creation to its end."""
    ledger = Ledger(log)
    receipts = [await ledger.create(make_spec(f"{prefix}-{number}")) for number in range(_JOBS)]
    for state in _STATES:
        for receipt in receipts:
            await ledger.set_state(receipt.job_id, State(state))
