"""The fixture of Bacalhau's store tests (`boltdb/store_test.go`, `SetupTest`), re-created over HTTP.

| job | type | labels | job states |
|---|---|---|---|
| 110 | batch | gpu=true, fast=true | Running, Stopped |
| 120 | batch | | Running, Stopped |
| 130 | batch | slow=true, max=10 | Running |
| 140 | batch | max=10 | Running |
| 150 | daemon | max=10 | Running |
| 160 | batch | max=10 | Running |
| 170 v1 | batch | | Running, Stopped |
| 170 v2 | | | Running |

There the numbers are ids; here a named job's id is made of its namespace and name, so they are names, in the
namespaces client1 … client7. The executions of that fixture are left out: a store of jobs has none. As there,
every state is reported with the revision that the reporter expects.
"""

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from tests.acceptance.api import Api


class FixtureJob(NamedTuple):
    """One row of the fixture: a name, what the spec says, and the states of each version."""

    name: str
    type: str
    labels: dict[str, str]
    states: tuple[tuple[str, ...], ...]


FIXTURE: Final = (
    FixtureJob("110", "batch", {"gpu": "true", "fast": "true"}, (("Running", "Stopped"),)),
    FixtureJob("120", "batch", {}, (("Running", "Stopped"),)),
    FixtureJob("130", "batch", {"slow": "true", "max": "10"}, (("Running",),)),
    FixtureJob("140", "batch", {"max": "10"}, (("Running",),)),
    FixtureJob("150", "daemon", {"max": "10"}, (("Running",),)),
    FixtureJob("160", "batch", {"max": "10"}, (("Running",),)),
    FixtureJob("170", "batch", {}, (("Running", "Stopped"), ("Running",))),
)
NAMES: Final = [job.name for job in FIXTURE]


def namespace_of(name: str) -> str:
    """`client1` for job 110, and so on."""
    return f"client{(int(name) - 100) // 10}"


def wire_spec(name: str = "", image: str = "busybox:1.37.0", **fields: Any) -> dict[str, Any]:
    """A small valid spec as it is sent; keys are given in the wire's spelling."""
    task = {"Name": "main", "Engine": {"Type": "docker", "Params": {"Image": image}}}
    spec: dict[str, Any] = {"Type": "batch", "Tasks": [task], **fields}
    return {"Name": name, **spec} if name else spec


async def make_fixture(api: "Api") -> dict[str, str]:
    """Put the seven jobs there; their ids by name."""
    ids = {}
    for job in FIXTURE:
        namespace = namespace_of(job.name)
        revision = 0
        for number, states in enumerate(job.states):
            priority: dict[str, Any] = {"Priority": number} if number else {}
            made = await api.submit(
                job.name, Type=job.type, Namespace=namespace, Labels=job.labels, **priority
            )
            revision += 1
            assert made["Revision"] == revision
            ids[job.name] = made["JobID"]
            for state in states:
                await api.set_state(job.name, state, revision=revision, namespace=namespace)
                revision += 1
    return ids
