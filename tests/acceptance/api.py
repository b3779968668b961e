"""The API as the acceptance tests call it: a request, the status that is expected, and the JSON that came."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx

from tests.acceptance.jobs import wire_spec
from tests.support.conformance import undocumented

ROOT = "/api/v1/orchestrator/jobs"
Json = dict[str, Any]


class Api:
    """The routes under `/api/v1/orchestrator/jobs`.

    Every call takes `status`: what is expected, and compared. `last` is the whole response of the last call.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.last: httpx.Response

    async def call(
        self,
        method: str,
        path: str,
        *,
        status: int = 200,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Json:
        """One request; what came with it, as JSON (an empty answer is an empty object)."""
        self.last = await self.client.request(
            method, path, params=_known(query), json=body, headers=dict(headers or {})
        )
        assert self.last.status_code == status, f"{method} {path}: {self.last.status_code} {self.last.text}"
        assert undocumented(self.last) == []
        if status >= 400:
            assert self.last.headers["content-type"] == "application/problem+json"
        answer: Json = self.last.json() if self.last.content else {}
        return answer

    # --- writes -----------------------------------------------------------------------------------------

    async def submit(self, name: str = "", *, status: int = 200, force: bool = False, **spec: Any) -> Json:
        """Create a job, or give it a new spec."""
        body = {"Job": wire_spec(name, **spec), "Force": force}
        return await self.call("PUT", ROOT, status=status, body=body)

    async def set_state(
        self, ref: str, state: str, message: str = "", *, revision: int | None = None, **more: Any
    ) -> Json:
        """Report a state, if wanted only at a revision."""
        headers = {} if revision is None else {"If-Match": f'"{revision}"'}
        body = {"StateType": state, "Message": message}
        return await self.call("PUT", f"{ROOT}/{ref}/state", body=body, headers=headers, **more)

    async def stop(self, ref: str, **more: Any) -> Json:
        """Stop a job."""
        return await self.call("DELETE", f"{ROOT}/{ref}", **more)

    async def rerun(self, ref: str, version: int = 0, reason: str = "", **more: Any) -> Json:
        """Run a version again."""
        body = {"JobVersion": version, "Reason": reason}
        return await self.call("PUT", f"{ROOT}/{ref}/rerun", body=body, **more)

    async def ambiguous(self) -> str:
        """The beginning of several jobs' ids, from jobs that are made for it."""
        # One more than there are hexadecimal digits, so that two ids begin with the same one.
        ids = [(await self.submit(f"of-many-{number}"))["JobID"] for number in range(17)]
        beginnings = Counter(each[:3] for each in ids)
        return str(beginnings.most_common(1)[0][0])

    # --- reads ------------------------------------------------------------------------------------------

    async def get(self, ref: str, **query: Any) -> Json:
        """The job."""
        job: Json = (await self.call("GET", f"{ROOT}/{ref}", **query)).get("Job", {})
        return job

    async def refused(self, ref: str, status: int, **query: Any) -> Json:
        """The problem that reading a job gives."""
        return await self.call("GET", f"{ROOT}/{ref}", status=status, **query)

    async def page(self, **query: Any) -> Json:
        """One page of jobs."""
        return await self.call("GET", ROOT, **query)

    async def names(self, **query: Any) -> list[str]:
        """The names of the jobs on one page."""
        return [job["Name"] for job in (await self.page(**query))["Items"]]

    async def history(self, ref: str, **query: Any) -> Json:
        """One page of a job's history."""
        return await self.call("GET", f"{ROOT}/{ref}/history", **query)

    async def versions(self, ref: str, **query: Any) -> list[Json]:
        """The job's versions."""
        items: list[Json] = (await self.call("GET", f"{ROOT}/{ref}/versions", **query)).get("Items", [])
        return items


def _known(query: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter that is None is not sent; `type_` is `type`."""
    return {name.rstrip("_"): value for name, value in query.items() if value is not None}
