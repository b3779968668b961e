"""History: the behaviours of Bacalhau's `boltdb/store_test.go`, over HTTP.

`SeqNum` there counts job and execution items of a job together; here there are job items only, so it is the
revision. Clocks there are the test's own; here the stream's, so `since` is asked at the edges that are known.
"""

import math
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.api import Api
from tests.acceptance.jobs import make_fixture, namespace_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ids(api: Api) -> dict[str, str]:
    return await make_fixture(api)


async def follow(api: Api, ref: str, limit: int, **query: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Page until there is no token, or a page brings nothing; all items, and the tokens in order."""
    items, tokens = [], [""]
    while True:
        page = await api.history(ref, limit=limit, next_token=tokens[-1], **query)
        items += page["Items"]
        tokens.append(page["NextToken"])
        if not page["NextToken"] or not page["Items"]:
            return items, tokens


async def test_unfiltered_job_history(api: Api, ids: dict[str, str]) -> None:
    """TestUnfilteredJobHistory: all items; a short id finds them; an ambiguous one is refused (409)."""
    items = (await api.history(ids["110"], all_job_versions=True))["Items"]
    assert [item["Event"]["Message"] for item in items] == ["Job submitted", "Running", "Stopped"]
    short = (await api.history(ids["110"][:12], all_job_versions=True))["Items"]
    assert short == items
    problem = await api.history(await api.ambiguous(), status=409)
    assert problem["Code"] == "MultipleJobsFound"


async def test_job_history_ordering(api: Api, ids: dict[str, str]) -> None:
    """TestJobHistoryOrdering: sequence numbers are 1, 2, 3, …, and times never go back."""
    items = (await api.history(ids["110"]))["Items"]
    assert [item["SeqNum"] for item in items] == [1, 2, 3]
    times = [item["Time"] for item in items]
    assert times == sorted(times)


async def test_job_history_offset_of_a_live_job(api: Api, ids: dict[str, str]) -> None:
    """TestJobHistoryOffset, job 130: one item a page; at the end the token stays as it is."""
    first = await api.history(ids["130"], limit=1)
    second = await api.history(ids["130"], limit=1, next_token=first["NextToken"])
    end = await api.history(ids["130"], limit=1, next_token=second["NextToken"])
    again = await api.history(ids["130"], limit=1, next_token=end["NextToken"])
    seen = [[item["SeqNum"] for item in page["Items"]] for page in (first, second, end, again)]
    assert seen == [[1], [2], [], []]
    assert second["NextToken"] == end["NextToken"] == again["NextToken"] != ""


async def test_job_history_offset_of_an_ended_job(api: Api, ids: dict[str, str]) -> None:
    """TestJobHistoryOffset, job 110: when the job has ended and all was read, the token is empty."""
    items, tokens = await follow(api, ids["110"], 1)
    assert [item["SeqNum"] for item in items] == [1, 2, 3]
    assert [bool(token) for token in tokens[1:]] == [True, True, False]


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_job_history_pagination(api: Api, limit: int) -> None:
    """TestJobHistoryPagination: any page size gives all items once, in the order of time."""
    name = f"paged-{limit}"
    await api.submit(name)
    for round_number in range(5):
        await api.set_state(name, "Running", f"round {round_number}")
    items, tokens = await follow(api, name, limit)
    assert [item["SeqNum"] for item in items] == [1, 2, 3, 4, 5, 6]
    assert tokens[-1]  # alive: a follower asks again
    queries = len(tokens) - 1
    assert queries == math.ceil(6 / limit) + 1  # and one that brought nothing
    assert tokens[-1] == tokens[-2]
    await api.set_state(name, "Completed")
    page = await api.history(name, next_token=tokens[-1])
    assert [item["Event"]["Message"] for item in page["Items"]] == ["Completed"]
    assert page["NextToken"] == ""


async def test_time_filtered_job_history(api: Api, ids: dict[str, str]) -> None:
    """TestTimeFilteredJobHistory: `since` is Unix seconds, inclusive, on the time of recording."""
    items = (await api.history(ids["110"]))["Items"]
    first = math.floor(datetime.fromisoformat(items[0]["Time"]).timestamp())
    last = math.floor(datetime.fromisoformat(items[-1]["Time"]).timestamp())
    assert (await api.history(ids["110"], since=first))["Items"] == items
    assert items[-1] in (await api.history(ids["110"], since=last))["Items"]
    assert (await api.history(ids["110"], since=last + 1))["Items"] == []
    await api.history(ids["110"], since="yesterday", status=400)


async def test_level_filtered_job_history(api: Api, ids: dict[str, str]) -> None:
    """TestLevelFilteredJobHistory: 3 items of the job; none of executions, which are not kept here."""
    assert len((await api.history(ids["110"], event_type="job"))["Items"]) == 3
    assert len((await api.history(ids["110"], event_type="all"))["Items"]) == 3
    assert (await api.history(ids["110"], event_type="execution"))["Items"] == []
    await api.history(ids["110"], event_type="colour", status=400)


@pytest.mark.usefixtures("ids")
async def test_history_is_of_the_latest_version_unless_asked(api: Api) -> None:
    """JobHistoryQuery, versions: the latest version's items by default; one version's, or all, if asked."""
    where = namespace_of("170")
    latest = (await api.history("170", namespace=where))["Items"]
    assert [(item["JobVersion"], item["Event"]["Message"]) for item in latest] == [
        (2, "Job updated"),
        (2, "Running"),
    ]
    first = (await api.history("170", namespace=where, job_version=1))["Items"]
    assert [item["Event"]["Message"] for item in first] == ["Job submitted", "Running", "Stopped"]
    every = (await api.history("170", namespace=where, all_job_versions=True))["Items"]
    assert every == first + latest
    both = await api.history("170", namespace=where, all_job_versions=True, job_version=1)
    assert both["Items"] == first  # the version wins


async def test_history_of_an_unknown_job(api: Api) -> None:
    """GetJobHistory. Differs: an unknown full id is 404 like any other, not an empty history."""
    await api.history("j-00000000-0000-4000-8000-000000000000", status=404)
