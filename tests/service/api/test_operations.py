"""The operations are a contract: their methods, paths and ids, and who may use each."""

from pathlib import Path
from typing import Any

import pytest

from jobledger.service.access.principal import Role
from jobledger.service.api.app import OPERATIONS
from jobledger.service.api.operation import Operation, Permission
from tests.support.api import client_of, job_body, running_api

CONTRACT = """\
PUT /api/v1/orchestrator/jobs putJob WRITE
POST /api/v1/orchestrator/jobs postJob WRITE
PUT /api/v1/orchestrator/jobs/diff diffJob READ
PUT /api/v1/orchestrator/jobs/{id} updateJob WRITE
PUT /api/v1/orchestrator/jobs/{id}/state setJobState WRITE
DELETE /api/v1/orchestrator/jobs/{id} stopJob WRITE
PUT /api/v1/orchestrator/jobs/{id}/rerun rerunJob WRITE
PUT /api/v1/orchestrator/jobs/{id}/revert revertJob WRITE
POST /api/v1/orchestrator/jobs/{id}/accept-unreadable acceptUnreadable ADMIN
PUT /api/v1/orchestrator/jobs/{id}/tags/{tag} tagJob WRITE
DELETE /api/v1/orchestrator/jobs/{id}/tags/{tag} untagJob WRITE
GET /api/v1/orchestrator/jobs listJobs READ
GET /api/v1/counts countJobs READ
GET /api/v1/orchestrator/jobs/{id} getJob READ
GET /api/v1/orchestrator/jobs/{id}/history jobHistory READ
GET /api/v1/orchestrator/jobs/{id}/executions jobExecutions READ
GET /api/v1/orchestrator/jobs/{id}/results jobResults READ
GET /api/v1/orchestrator/jobs/{id}/logs jobLogs READ
GET /api/v1/orchestrator/jobs/{id}/wait waitForJob READ
GET /api/v1/orchestrator/jobs/{id}/versions jobVersions READ
GET /api/v1/orchestrator/jobs/{id}/tags jobTags READ
GET /api/v1/orchestrator/jobs/{id}/diff diffVersions READ
GET /api/v1/orchestrator/jobs/{id}/blame blameJob READ
GET /api/v1/diff diffPoints READ
GET /api/v1/histogram histogram OBSERVE
GET /api/v1/counts/created countCreatedJobs READ
GET /api/v1/events events READ
GET /api/v1/events/page listEvents READ
GET /api/v1/subscriptions listSubscriptions OBSERVE
POST /api/v1/subscriptions createSubscription ADMIN
GET /api/v1/subscriptions/{name} getSubscription OBSERVE
GET /api/v1/subscriptions/{name}/parked listParkedJobs OBSERVE
POST /api/v1/subscriptions/{name}/retry retryParkedJobs ADMIN
POST /api/v1/subscriptions/{name}/skip skipParkedEvent ADMIN
PUT /api/v1/subscriptions/{name}/position resetSubscription ADMIN
DELETE /api/v1/subscriptions/{name} deleteSubscription ADMIN
GET /api/v1/webhooks listWebhooks OBSERVE
POST /api/v1/webhooks addWebhook ADMIN
GET /api/v1/webhooks/{name} getWebhook OBSERVE
DELETE /api/v1/webhooks/{name} deleteWebhook ADMIN
PUT /api/v1/webhooks/{name}/state setWebhookState ADMIN
PUT /api/v1/webhooks/{name}/secret rotateWebhookSecret ADMIN
POST /api/v1/webhooks/{name}/test testWebhook ADMIN
GET /api/v1/webhooks/{name}/deliveries listDeliveries OBSERVE
POST /api/v1/webhooks/{name}/deliveries redeliver ADMIN
GET /api/v1/audit/keys auditKeys READ
GET /api/v1/audit/seals listSeals READ
POST /api/v1/audit/seals sealNow ADMIN
GET /api/v1/audit/proof proof READ
GET /api/v1/audit/consistency consistency READ
GET /api/v1/view/quarantine listQuarantined OBSERVE
GET /api/v1/view/damage listDamage OBSERVE
POST /api/v1/view/heal healView ADMIN
GET /api/v1/auth loginMethods PUBLIC
POST /api/v1/auth/clientkey logIn PUBLIC
GET /api/v1/agent/authconfig loginConfiguration PUBLIC
GET /api/v1/agent/alive agentAlive PUBLIC
GET /api/v1/agent/version agentVersion PUBLIC
GET /version version PUBLIC
GET /livez livez PUBLIC
GET /readyz readyz PUBLIC
GET /metrics metrics OBSERVE
GET / index PUBLIC
GET /openapi.json openapi PUBLIC
GET /asyncapi.json asyncapi PUBLIC
GET /docs docs PUBLIC
"""
ROUTED = [operation for operation in OPERATIONS if operation.is_routed and operation.id != "events"]


def test_methods_paths_ids_and_permissions_are_a_contract() -> None:
    """Clients are generated from them; an operation that is added, renamed or opened is seen here."""
    declared = [f"{each.method} {each.path} {each.id} {each.permission.name}" for each in OPERATIONS]
    assert declared == CONTRACT.splitlines()


def request_of(operation: Operation) -> dict[str, Any]:
    values = {parameter.name: "etl" for parameter in operation.parameters if parameter.place == "path"}
    return {
        "method": operation.method,
        "url": f"http://127.0.0.1{operation.path.format(**values)}",
        "json": operation.example,
    }


async def test_each_operation_is_refused_to_those_who_may_not_use_it(tmp_path: Path) -> None:
    """Without a token 401; to a reader of one namespace 403, unless the operation only reads jobs."""
    async with running_api(tmp_path / "data") as (service, client):
        await client.put("/jobs", json=job_body("etl"))
        _, token = service.tokens.create("reader", Role.READER, ("default",))
        reader = {"authorization": f"Bearer {token}"}
        async with client_of(service) as anyone, client_of(service, reader) as limited:
            for operation in ROUTED:
                is_public = operation.permission is Permission.PUBLIC
                answer = await anyone.request(**request_of(operation))
                # Logging in needs no token, and answers that one is required.
                assert (answer.status_code == 401) == (not is_public or operation.id == "logIn"), operation.id
                answer = await limited.request(**request_of(operation))
                is_allowed = operation.permission in {Permission.PUBLIC, Permission.READ}
                assert (answer.status_code != 403) == is_allowed, (operation.id, answer.text)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.id)
def test_every_operation_is_described(operation: Operation) -> None:
    """It has a summary without a period, and an example if it has a body."""
    assert operation.summary
    assert not operation.summary.endswith(".")
    assert (operation.example is not None) == (operation.body is not None)
