"""Drives a service with the Python client that OpenAPI Generator made; prints what it read, as JSON.

Runs in the environment of openapi-generator.txt, with the generated package on the path.
"""

# mypy: ignore-errors
import importlib
import json
import os
import pkgutil
import sys

import jobledger_client as made

for module in pkgutil.walk_packages(made.__path__, "jobledger_client."):
    importlib.import_module(module.name)

SPEC = {
    "Name": "generated",
    "Type": "batch",
    "Count": 1,
    "Tasks": [{"Name": "main", "Engine": {"Type": "docker", "Params": {"Image": "busybox:1.37.0"}}}],
}
seen = {}
with made.ApiClient(made.Configuration(host=os.environ["JOBLEDGER_TEST_URL"])) as client:
    reads, writes = made.ReadsApi(client), made.WritesApi(client)
    written = writes.put_job(made.SubmitRequest.from_dict({"Job": SPEC}))
    seen["put"] = [written.version, written.revision]
    found = reads.get_job(written.job_id, include="history,executions", wait_for=str(written.sequence))
    seen["get"] = [found.job.name, found.job.state.state_type]
    seen["list"] = [job.name for job in reads.list_jobs().items]
    running = made.StateRequest(StateType="Running", Message="on node-1")
    state = writes.set_job_state("generated", running)
    seen["state"] = state.revision
    history = reads.job_history("generated", wait_for=str(state.sequence))
    seen["history"] = [history.items[0].event.topic, history.items[-1].event.message]
    seen["versions"] = [facts.version for facts in reads.job_versions("generated").versions]
    again = writes.rerun_job("generated", made.RerunRequest())
    seen["rerun"] = again.job_version
    seen["stop"] = writes.stop_job("generated", wait_for=str(again.sequence)).revision
    try:
        reads.get_job("missing")
    except made.exceptions.NotFoundException as refused:
        problem = refused.data
        seen["missing"] = [problem.status, problem.code, json.loads(refused.body)["Status"]]
json.dump(seen, sys.stdout)
