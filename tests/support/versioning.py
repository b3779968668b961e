"""What the tests of versions over HTTP share: a job with several, and answers that must be as expected."""

from typing import Any

import httpx

from tests.support.api import job_body


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


async def submitted(client: httpx.AsyncClient, name: str, *priorities: int) -> str:
    """A job with a version of each priority; its path."""
    for number, priority in enumerate(priorities or (1, 2, 3), start=1):
        body = {**job_body(name, Priority=priority, Labels={"v": str(number)}), "Reason": f"try {number}"}
        told = ok(await client.put("/jobs", json=body))
    return f"/jobs/{told['JobID']}"


async def tag(client: httpx.AsyncClient, path: str, name: str, version: int | str, **more: Any) -> Any:
    return ok(await client.put(f"{path}/tags/{name}", json={"JobVersion": version, **more}))
