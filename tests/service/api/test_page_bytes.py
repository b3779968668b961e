"""Every response made of rows is bounded in bytes, and its token reaches everything."""

from pathlib import Path
from typing import Any

import pytest

from jobledger import Ledger, MemoryLog, State, StateType, named_job_id
from jobledger.projections.limits import PAGE_MAX_BYTES
from jobledger.service.limits import HISTORY_PAGE_BYTES
from jobledger.store.model.errors import RevisionMismatch
from jobledger.store.model.events import Record
from jobledger.store.model.limits import MISSED_MAX_BYTES
from tests.conftest import make_spec
from tests.support.api import job_body, running_api

FAT_DETAILS = {f"key{index}": "d" * 16_000 for index in range(45)}  # 720 KB
FAT = {"StateType": "Running", "Details": FAT_DETAILS}
ID = named_job_id("default", "etl")


@pytest.mark.parametrize("query", [{}, {"at": "now"}, {"order_by": "modified_at", "reverse": "true"}])
async def test_a_list_of_fat_states_is_bounded_and_followed_to_the_end(
    tmp_path: Path, query: dict[str, str]
) -> None:
    """Details of states count as specs do; every job is on one page, and only on one."""
    count = PAGE_MAX_BYTES // 720_000 + 3
    found: list[str] = []
    async with running_api(tmp_path / "a") as (_, client):
        for index in range(count):
            await client.put("/jobs", json=job_body(f"fat-{index}"))
            assert (await client.put(f"/jobs/fat-{index}/state", json=FAT)).status_code == 200
        token, pages = "", 0
        while token or not pages:
            answer = await client.get("/jobs", params={**query, "limit": 1_000, "next_token": token})
            assert len(answer.content) < PAGE_MAX_BYTES + 1_048_576
            found += [job["Name"] for job in answer.json()["Items"]]
            token, pages = answer.json()["NextToken"], pages + 1
    assert pages == 2
    assert sorted(found) == sorted(f"fat-{index}" for index in range(count))


@pytest.mark.parametrize("path", ["/jobs/etl/history", "/jobs/etl"])
async def test_a_history_of_fat_states_is_bounded_and_followed_to_the_end(tmp_path: Path, path: str) -> None:
    """Also with `include=history`."""
    found: list[Any] = []
    async with running_api(tmp_path / "a") as (_, client):
        await client.put("/jobs", json=job_body())
        for index in range(12):
            details = FAT_DETAILS | {"n": str(index)}
            await client.put("/jobs/etl/state", json={**FAT, "Details": details})
        token, pages = "", 0
        while (token or not pages) and len(found) < 13:
            answer = await client.get(
                path, params={"include": "history", "limit": 1_000, "next_token": token}
            )
            assert len(answer.content) < HISTORY_PAGE_BYTES + 3 * 1_048_576
            page = answer.json().get("History") or answer.json()
            found += [item["Revision"] for item in page["Items"]]
            token, pages = page["NextToken"], pages + 1
    assert found == list(range(1, 14))
    assert pages > 2


async def test_changes_between_two_points_are_bounded(tmp_path: Path) -> None:
    """The events of one job and those of all jobs; what is not shown is counted."""
    async with running_api(tmp_path / "a") as (_, client):
        for name in ("a", "b", "c", "d", "e", "f"):
            await client.put("/jobs", json=job_body(name))
            for index in range(4):
                details = FAT_DETAILS | {"n": str(index)}
                await client.put(f"/jobs/{name}/state", json={**FAT, "Details": details})
        found: list[tuple[str, int]] = []
        token = ""
        while token or not found:
            query = {"from": "0", "next_token": token} if not token else {"next_token": token}
            answer = await client.get("http://127.0.0.1/api/v1/diff", params=query)
            assert len(answer.content) < PAGE_MAX_BYTES
            found += [
                (each["Name"], len(each["Events"]) + each["MoreEvents"]) for each in answer.json()["Items"]
            ]
            token = answer.json()["NextToken"]
    assert found == [(name, 5) for name in "abcdef"]


async def test_the_missed_events_of_a_conflict_are_bounded_in_bytes() -> None:
    """The newest are kept, at least one."""
    ledger = Ledger(MemoryLog())
    await ledger.create(make_spec("etl"))
    for index in range(4):
        await ledger.set_state(ID, State(StateType.RUNNING, "", FAT_DETAILS | {"n": str(index)}))
    with pytest.raises(RevisionMismatch) as conflict:
        await ledger.set_state(ID, State(StateType.FAILED), expected_revision=1)
    assert [item.revision for item in conflict.value.missed] == [5]
    assert 720_000 < MISSED_MAX_BYTES < 2 * 720_000


class CountingLog(MemoryLog):
    """Counts the records that are read."""

    records_read = 0

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Any:
        page = await super().read(subject, after=after, up_to=up_to)
        self.records_read += len(page)
        return page


async def _page(ledger: Ledger, after: int, limit: int) -> list[Any]:
    items: list[Any] = []
    async for item in ledger.history(ID, after=after):
        items.append(item)
        if len(items) > limit:
            break
    return items[:limit]


async def test_a_later_page_of_a_history_costs_one_page() -> None:
    """Following a long history does not read it from its start each time; the items are the same."""
    log = CountingLog()
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    for index in range(2_000):
        await ledger.set_state(ID, State(StateType.RUNNING, str(index)))
    whole = [item async for item in Ledger(log).history(ID)]
    found: list[Any] = []
    while page := await _page(ledger, found[-1].sequence if found else 0, 100):
        log.records_read, before = 0, log.records_read
        found += page
        assert before <= 1_200 or len(found) <= 100
    assert found == whole
    again = await _page(ledger, found[899].sequence, 100)  # a page that was read before
    assert again == whole[900:1_000]


async def test_a_position_in_another_log_is_not_resumed() -> None:
    """If the record at the position is another one, the history is folded from its start."""
    log = CountingLog()
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    for index in range(5):
        await ledger.set_state(ID, State(StateType.RUNNING, str(index)))
    first = await _page(ledger, 0, 3)
    record = log._records[first[-1].sequence - 1]
    log._records[first[-1].sequence - 1] = Record(
        record.sequence, record.time + 1, record.subject, record.payload
    )
    assert [item.revision for item in await _page(ledger, first[-1].sequence, 3)] == [4, 5, 6]
