"""The document names exactly the parameters that each route reads."""

from typing import Any

import pytest

from jobledger.service.api.app import OPERATIONS
from jobledger.service.api.operation import Operation
from jobledger.service.api.query import Query
from jobledger.service.api.request import Request
from tests.acceptance.api import Api

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Read by the middleware for every request.
BY_THE_MIDDLEWARE = {"X-Request-ID", "Jobledger-Actor"}
DEFAULTS = {"states": "state", "selector": "labels"}  # parameters that methods read by default
# Recognized, and not parameters: Bacalhau's client, and a browser that reads `/` or `/docs`.
CLIENTS = {"x-bacalhau-git-version", "accept", "hx-request"}
WITHOUT_A_VALUE = {"verbose"}  # `?verbose` is read off the query as it came
# A valid value for each parameter, so that handlers come to read all of them.
VALUES = {
    "id": "asked",
    "tag": "golden",
    "from": "1",
    "namespace": "default",
    "include": "history,executions",
    "labels": "a,b",
    "state": "Pending",
    "type": "batch",
    "timeout": "5s",
    "after": "0",
    "job": "asked",
    "wait_for": "1",
    "limit": "10",
    "since": "0",
    "event_type": "all",
    "If-None-Match": "*",
}
# Some are read only without others, so each route is asked twice, and alone for the last.
FIRST_WITHOUT = {"If-Match", "If-None-Match", "job_version", "next_token"}
SECOND_WITHOUT = {"If-None-Match", "Idempotency-Key"}
ALONE = {"If-None-Match"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of parameters and headers that handlers ask for, in lower case."""
    names: set[str] = set()

    def recording(method: Any) -> Any:
        default = DEFAULTS.get(method.__name__)

        def call(self: Any, name: Any = default, *more: Any, **options: Any) -> Any:
            names.add((name.decode() if isinstance(name, bytes) else name).lower())
            return method(self, name, *more, **options)

        return call

    for cls, methods in (
        (Query, ("text", "texts", "selector", "flag", "integer", "seconds", "time", "states")),
        (Request, ("header", "condition")),
    ):
        for method in methods:
            monkeypatch.setattr(cls, method, recording(getattr(cls, method)))
    return names


def request_of(operation: Operation, known: set[str]) -> dict[str, Any]:
    """A request with every parameter that is in `known`."""
    sent = [parameter for parameter in operation.parameters if parameter.name in known]
    values = {**VALUES, "Idempotency-Key": operation.id}
    query = {each.name: values.get(each.name, "") for each in sent if each.place == "query"}
    headers = {
        each.name: values[each.name] for each in sent if each.place == "header" and each.name in values
    }
    if operation.id == "events":
        query["type"] = "jobledger.job.created.v1"
        query["after"] = "not a cursor"  # ended by an error: a feed would go on
    if operation.id == "waitForJob":
        query["state"] = "Pending"
    return {"params": query, "headers": headers}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.id)
async def test_each_route_reads_what_the_document_says(
    api: Api, asked: set[str], operation: Operation
) -> None:
    """No parameter is read that is not told, and none is told that is not read."""
    await api.submit("asked")
    in_path = {parameter.name for parameter in operation.parameters if parameter.place == "path"}
    path = operation.path.format(**{name: VALUES.get(name, "asked") for name in in_path})
    told = (
        {parameter.name for parameter in operation.parameters} - BY_THE_MIDDLEWARE - WITHOUT_A_VALUE - in_path
    )
    asked.clear()
    for known in (told - FIRST_WITHOUT, told - SECOND_WITHOUT, told & ALONE):
        body = operation.example and {name: operation.example[name] for name in operation.example}
        if body:
            body = {
                name: value for name, value in body.items() if name.lower() != "reason"
            }  # the query's counts
        answer = await api.client.request(operation.method, path, json=body, **request_of(operation, known))
        assert answer.status_code < 500, answer.text
    assert asked - CLIENTS == {name.lower() for name in told}
