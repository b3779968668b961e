"""What users of Bacalhau's Python clients do, each step's outcome printed as one JSON document.

Runs in the environment of `bacalhau.txt`, with `BACALHAU_API_HOST`, `BACALHAU_API_PORT` and `BACALHAU_DIR`.
It imports nothing of ours: what it sees of the service is what a stranger's program sees.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from bacalhau_apiclient import ApiClient, Configuration  # type: ignore[import-not-found]
from bacalhau_apiclient.api.ops_api import OpsApi  # type: ignore[import-not-found]
from bacalhau_apiclient.api.orchestrator_api import OrchestratorApi  # type: ignore[import-not-found]
from bacalhau_apiclient.models.api_put_job_request import ApiPutJobRequest  # type: ignore[import-not-found]
from bacalhau_apiclient.models.job import Job  # type: ignore[import-not-found]
from bacalhau_apiclient.models.spec_config import SpecConfig  # type: ignore[import-not-found]
from bacalhau_apiclient.models.task import Task  # type: ignore[import-not-found]
from bacalhau_apiclient.rest import ApiException  # type: ignore[import-not-found]
from bacalhau_sdk.jobs import Jobs  # type: ignore[import-not-found]

outcomes: dict[str, Any] = {}


def job(name: str, image: str = "ubuntu:latest", **fields: Any) -> Any:
    """A request of the clients' own classes, as their documentation builds it."""
    params = {"Image": image, "Entrypoint": ["/bin/echo"], "Parameters": ["hi"]}
    task = Task(name="main", publisher=SpecConfig(), engine=SpecConfig(type="docker", params=params))
    request = Job(**{"name": name, "type": "batch", "count": 1, "tasks": [task], **fields})
    return ApiPutJobRequest(job=request)


def step(name: str, call: Callable[[], Any]) -> Any:
    """Note what a call answered, or how it was refused."""
    try:
        answer = call()
    except ApiException as refusal:
        body = json.loads(refusal.body)
        kind = refusal.headers.get("Content-Type", "")
        outcomes[name] = {"status": refusal.status, "body": body, "content_type": kind}
        return None
    outcomes[name] = answer.to_dict() if hasattr(answer, "to_dict") else answer
    return answer


def sdk() -> None:
    """The high-level client: `bacalhau_sdk.jobs.Jobs`."""
    jobs = Jobs()
    put = step("sdk.put", lambda: jobs.put(job("from-sdk", labels={"client": "sdk"})))
    step("sdk.put_again", lambda: jobs.put(job("from-sdk", labels={"client": "sdk"})))
    step("sdk.put_changed", lambda: jobs.put(job("from-sdk", image="ubuntu:24.04")))
    step("sdk.get", lambda: jobs.get(put.job_id))
    step("sdk.get_with_history", lambda: jobs.get(put.job_id, include="history,executions"))
    step("sdk.get_by_name", lambda: jobs.get("from-sdk"))
    step("sdk.get_by_short_id", lambda: jobs.get(put.job_id[:10]))
    step("sdk.history", lambda: jobs.history(put.job_id, event_type="all"))
    step("sdk.history_of_executions", lambda: jobs.history(put.job_id))  # the SDK's default
    step("sdk.executions", lambda: jobs.executions(put.job_id))
    step("sdk.results", lambda: jobs.results(put.job_id))
    for number in range(3):
        jobs.put(job(f"more-{number}"))
    page = step("sdk.list", lambda: jobs.list(limit=2))
    step("sdk.list_next", lambda: jobs.list(limit=2, next_token=page.next_token))
    step("sdk.list_reverse", lambda: jobs.list(reverse=True))
    step("sdk.stop", lambda: jobs.stop(put.job_id, reason="bye"))
    step("sdk.stop_again", lambda: jobs.stop(put.job_id, reason="bye again"))
    step("sdk.get_stopped", lambda: jobs.get(put.job_id, include="history"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # the SDK prints a refusal and returns None
        step("sdk.get_missing", lambda: jobs.get("missing"))
    outcomes["sdk.printed"] = printed.getvalue()


def apiclient() -> None:
    """The generated client: it raises what the SDK swallows."""
    settings = Configuration()
    settings.host = f"http://{os.environ['BACALHAU_API_HOST']}:{os.environ['BACALHAU_API_PORT']}"
    client = ApiClient(settings)
    api = OrchestratorApi(client)
    put = step("api.put", lambda: api.orchestratorput_job(job("from-api", labels={"client": "api"})))
    page = step("api.list", lambda: api.orchestratorlist_jobs(limit=100))
    outcomes["api.list_names"] = [found.name for found in page.items]
    step("api.get", lambda: api.orchestratorget_job(put.job_id, include="history", limit=10))
    step("api.history", lambda: api.orchestratorjob_history(put.job_id, since=0, event_type="job"))
    step("api.executions", lambda: api.orchestratorjob_executions(put.job_id, order_by="created_at"))
    step("api.results", lambda: api.orchestratorjob_results(put.job_id))
    step("api.alive", lambda: OpsApi(client).agentalive())
    step("api.version", lambda: OpsApi(client).agentversion())
    # the lists that the generated client knows no call for
    path = f"/api/v1/orchestrator/jobs/{put.job_id}/versions"
    step("api.versions", lambda: client.call_api(path, "GET", response_type="object")[0])
    errors(api, client, put.job_id)


def errors(api: Any, client: Any, job_id: str) -> None:
    """Every way to be refused that these clients can reach."""
    for call in ("get_job", "stop_job", "job_history", "job_results"):
        step(f"error.{call}", partial(getattr(api, f"orchestrator{call}"), "missing"))
    step("error.job_executions", lambda: api.orchestratorjob_executions("missing", order_by=""))
    step("error.invalid", lambda: api.orchestratorput_job(job("bad", type="cron", tasks=[])))
    step("error.no_job", lambda: api.orchestratorput_job(ApiPutJobRequest()))
    step("error.token", lambda: api.orchestratorlist_jobs(next_token="no token of ours"))
    step("error.order", lambda: api.orchestratorlist_jobs(order_by="colour"))
    route = f"/api/v1/orchestrator/jobs/{job_id}"
    body = {"StateType": "Completed", "Message": "done"}
    headers = {"Content-Type": "application/json"}
    state = lambda **more: client.call_api(  # noqa: E731
        f"{route}/state", "PUT", header_params={**headers, **more}, body=body, response_type="object"
    )[0]
    step("error.conflict", lambda: state(**{"If-Match": '"99"'}))  # type: ignore[no-untyped-call]
    step("complete", state)
    step("error.stop_completed", lambda: api.orchestratorstop_job(job_id, reason="too late"))


sdk()
apiclient()
json.dump(outcomes, sys.stdout, default=str)
