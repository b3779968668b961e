"""Listing: the cases of Bacalhau's `TestSearchJobs` and `TestInProgressJobs`, over HTTP."""

from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.api import Api
from tests.acceptance.jobs import NAMES, make_fixture

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("fixture_jobs")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fixture_jobs(api: Api) -> dict[str, str]:
    return await make_fixture(api)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        # TestSearchJobs, "by client ID and included tags": ANY of two label keys there, ALL here
        ({"namespace": "client1", "labels": "fast,!slow"}, ["110"]),
        # "by client ID and labels"
        ({"namespace": "client1", "labels": "gpu=true,fast=true"}, ["110"]),
        # "basic selectors"
        ({"labels": "max>1"}, ["130", "140", "150", "160"]),
        # "everything sorted by created_at"
        ({"order_by": "created_at"}, NAMES),
        # "everything sorted by created_at reversed"
        ({"order_by": "created_at", "reverse": "True"}, NAMES[::-1]),
        # "everything": no namespace, an empty one and `*` are all of them
        ({}, NAMES),
        ({"namespace": ""}, NAMES),
        ({"namespace": "*"}, NAMES),
        # "include tag gpu", "all but exclude tag fast", "include/exclude same tag": tags are label keys
        ({"labels": "gpu"}, ["110"]),
        ({"labels": "!fast"}, NAMES[1:]),
        ({"labels": "gpu,!fast"}, []),
        # TestInProgressJobs: everything that has not ended
        ({"state": "Pending,Queued,Running"}, NAMES[2:]),
        # TestInProgressJobs by type
        ({"state": "Running", "type": "batch"}, ["130", "140", "160", "170"]),
        ({"state": "Running", "type": "daemon"}, ["150"]),
        # the state and type filters that users asked for; repeated and with commas
        ({"state": ["stopped", "completed"]}, ["110", "120"]),
        ({"type": ["batch,daemon"]}, NAMES),
        # what the Python client sends
        ({"limit": "10", "next_token": "", "reverse": "False", "order_by": "created_at"}, NAMES),
    ],
    ids=str,
)
async def test_search_jobs(api: Api, query: dict[str, Any], names: list[str]) -> None:
    """TestSearchJobs, TestInProgressJobs: which jobs a list has, and in which order."""
    assert await api.names(**query) == names


async def test_paging_goes_on_after_the_page_before(api: Api) -> None:
    """TestSearchJobs, limits and offsets. Differs: no offsets; a token names the last job seen."""
    page = await api.page(labels="max>1", limit=2)
    assert [job["Name"] for job in page["Items"]] == ["130", "140"]
    rest = await api.page(labels="max>1", limit=2, next_token=page["NextToken"])
    assert [job["Name"] for job in rest["Items"]] == ["150", "160"]
    first = await api.page(limit=1)
    others = await api.page(next_token=first["NextToken"])
    assert [job["Name"] for job in others["Items"]] == NAMES[1:]
    assert others["NextToken"] == ""


async def test_the_token_carries_the_order(api: Api) -> None:
    """models/paging_token_test: a token stands for order and direction; nobody has to repeat them."""
    page = await api.page(reverse=True, limit=3)
    rest = await api.page(limit=3, next_token=page["NextToken"])
    assert [job["Name"] for job in (*page["Items"], *rest["Items"])] == NAMES[:0:-1]


async def test_a_wrong_token_is_refused(api: Api) -> None:
    """models/paging_token_test, invalid token: 400."""
    problem = await api.page(next_token="none of ours", status=400)
    assert problem["Code"] == "BadRequest"


async def test_limit_0_is_the_most(api: Api) -> None:
    """JobQuery, limit 0. Differs: not all jobs, but the longest page that there is."""
    assert await api.names(limit=0) == NAMES


@pytest.mark.parametrize("query", [{"order_by": "id"}, {"limit": -1}, {"labels": "a in"}, {"state": "Lost"}])
async def test_a_wrong_query_is_a_400(api: Api, query: dict[str, Any]) -> None:
    """JobQuery. Differs: `order_by=id` and the like are the client's mistake, not a 500."""
    await api.page(status=400, **query)


async def test_modified_order(api: Api) -> None:
    """JobQuery, SortBy `modified_at`: the job that changed last is the last one."""
    assert (await api.names(order_by="modified_at"))[-1] == "170"
    assert (await api.names(order_by="modify_time", reverse=1))[0] == "170"


async def test_time_ranges(api: Api) -> None:
    """Asked for by users: from is inclusive, to is exclusive."""
    jobs = (await api.page())["Items"]
    third = jobs[2]["CreateTime"]
    assert await api.names(created_from=third) == NAMES[2:]
    assert await api.names(created_to=third) == NAMES[:2]
    assert await api.names(modified_from=jobs[6]["ModifyTime"]) == ["170"]
    await api.page(created_from="soon", status=400)
