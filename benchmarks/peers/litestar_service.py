"""The HTTP service of `peers http`: Litestar on asyncpg, with the tables and statements of `postgresql`.

Granian serves it; the address of the database is in the environment. It has no validation of specs, no
permissions and no limits.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from benchmarks.peers.jobs import StateEntry
from benchmarks.peers.peer import library
from benchmarks.peers.postgresql import CREATE_AT_ONCE, GET, PAGE, STATE_AT_ONCE, connections
from benchmarks.workload import ACTOR
from jobledger.store.model.subjects import named_job_id

DSN_VARIABLE: Final = "JOBLEDGER_BENCH_DSN"
JOBS_PATH: Final = "/jobs"


class SpecHead(msgspec.Struct, rename="pascal"):
    """The fields of a spec that are columns."""

    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}


class NewJob(msgspec.Struct, rename="pascal"):
    """A job to create."""

    job: msgspec.Raw
    reason: str = ""


class NewState(msgspec.Struct, rename="pascal"):
    """The new state of a job."""

    state_type: str
    message: str = ""


class Created(msgspec.Struct, rename="pascal"):
    """The response to a write."""

    job_id: str
    revision: int


class JobView(msgspec.Struct, rename="pascal"):
    """A job."""

    id: str
    namespace: str
    name: str
    state: str
    revision: int
    create_time: str
    modify_time: str
    labels: msgspec.Raw
    job: msgspec.Raw


class JobList(msgspec.Struct, rename="pascal"):
    """A page of jobs."""

    jobs: list[JobView]


def create_app() -> Any:
    """Return the application; Granian calls this."""
    litestar = library("litestar", "litestar")
    exceptions = library("litestar.exceptions", "litestar")
    state = {}

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with connections(os.environ[DSN_VARIABLE]) as pool:
            state["pool"] = pool
            yield

    async def create(body: bytes) -> Created:
        data = msgspec.json.decode(body, type=NewJob)  # Litestar itself does not keep a part as it was sent
        head = msgspec.json.decode(data.job, type=SpecHead)
        job_id = named_job_id(head.namespace, head.name)
        labels = msgspec.json.encode(head.labels).decode()
        spec = bytes(data.job).decode()
        await state["pool"].fetchval(
            CREATE_AT_ONCE, job_id, head.namespace, head.name, labels, spec, ACTOR, data.reason
        )
        return Created(job_id, 1)

    async def set_state(job_id: str, data: NewState) -> Created:
        entry = msgspec.json.encode(StateEntry(data.state_type, data.message)).decode()
        revision = await state["pool"].fetchval(STATE_AT_ONCE, job_id, data.state_type, ACTOR, entry)
        if revision is None:
            raise exceptions.HTTPException(status_code=409, detail="the job is terminal, or does not exist")
        return Created(job_id, revision)

    async def get(job_id: str) -> JobView:
        row = await state["pool"].fetchrow(GET, job_id)
        if row is None:
            raise exceptions.NotFoundException
        return _view(row)

    async def page(namespace: str) -> JobList:
        return JobList([_view(row) for row in await state["pool"].fetch(PAGE, namespace)])

    routes = [
        litestar.put(JOBS_PATH)(create),
        litestar.put(f"{JOBS_PATH}/{{job_id:str}}/state")(set_state),
        litestar.get(f"{JOBS_PATH}/{{job_id:str}}")(get),
        litestar.get(JOBS_PATH)(page),
    ]
    return litestar.Litestar(routes, lifespan=[lifespan], openapi_config=None, logging_config=None)


def _view(row: Any) -> JobView:
    return JobView(
        row["id"],
        row["namespace"],
        row["name"],
        row["state"],
        row["revision"],
        row["created_at"].isoformat(),
        row["modified_at"].isoformat(),
        msgspec.Raw(row["labels"].encode()),
        msgspec.Raw(row["spec"].encode()),
    )
