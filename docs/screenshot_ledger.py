"""The ledger in the screenshots of the web UI: real job specs, in several namespaces and all states.

The service is a real one in its own process, and everything is written over its API, each event with the
token of its actor. The log takes its times from the server's clock, so the past is as long as the writing.
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from jobledger import JetStreamLog, SubscribedEvent, subscribe
from jobledger.service.access.principal import Role
from jobledger.service.access.tokens import TokenFile
from jobledger.service.wire import paths
from jobledger.store.local_service import NATS_FOLDER, find_connection
from tests.support.service_process import RunningService, running_service

SPECS = Path(__file__).parents[1] / "tests" / "specs"
PACE_SECONDS = 0.05  # between the jobs of a wave: the histogram of the slider shows waves, not one bar
PAUSE_SECONDS = 4.0
RETRIES = 1
TEMPLATES = (
    ("bacalhau-testdata-docker-s3.yaml", "s3-export", "analytics"),
    ("bacalhau-testdata-docker.yaml", "docker-batch", "default"),
    ("integration-20-s3managed-publisher.yaml", "publish-results", "analytics"),
    ("bacalhau-testdata-wasm.yaml", "wasm-filter", "edge"),
    ("integration-log_emitter.yaml", "log-emitter", "edge"),
    ("bacalhau-testdata-docker-output.yaml", "nightly-etl", "finance"),
)
WAVES = (7, 16, 4, 24, 10)
REGIONS = ("eu-west-1", "us-east-2", "ap-south-1")
INVOICES = ("bacalhau-testdata-docker-s3.yaml", "invoice-export", "finance")
INVOICE_LABELS = {"team": "billing", "env": "prod", "tier": "batch"}
LONG_NAME = (
    "backfill-of-the-customer-events-of-2024-for-the-warehouse-in-eu-west-1-after-the-schema-change-of-march"
)


class Ledger(NamedTuple):
    """A service with a past.

    Attributes:
        service: its process.
        token: an admin's token.
        job: the id of the job with several versions.
        seals: the sizes of the seals, oldest first.
    """

    service: RunningService
    token: str
    job: str
    seals: list[int]


@asynccontextmanager
async def running_ledger(folder: Path) -> AsyncIterator[Ledger]:
    """Run the service with its ledger until the block ends."""
    tokens = TokenFile(folder / "tokens.json")
    actors = {
        name: tokens.create(name, role)[1]
        for name, role in (
            ("alice", Role.ADMIN),
            ("bob", Role.WRITER),
            ("ci-prod", Role.WRITER),
            ("scheduler", Role.WRITER),
            ("node-7", Role.WRITER),
        )
    }
    flags = ("--tokens-file", str(folder / "tokens.json"), "--webhook-allow", "127.0.0.0/8")
    with running_service(folder, *flags) as service, failing_target() as target:
        clients = {
            name: httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {token}"})
            for name, token in actors.items()
        }
        try:
            job = await write_past(clients, target, folder / "data")
            seals = sorted(each["Size"] for each in sent(clients["alice"].get(paths.AUDIT_SEALS))["Items"])
            yield Ledger(service, actors["alice"], job, seals)
        finally:
            for client in clients.values():
                client.close()


async def write_past(clients: dict[str, httpx.Client], target: str, data_dir: Path) -> str:
    """Write everything; returns the id of the job with several versions."""
    admin = clients["alice"]
    webhook = {"Name": "ops-alerts", "URL": f"{target}/hooks/jobs", "Types": ["state"], "States": ["Failed"]}
    sent(admin.post(paths.WEBHOOKS, json=webhook))
    webhook = {"Name": "data-catalog", "URL": f"{target}/catalog", "Namespace": "analytics"}
    sent(admin.post(paths.WEBHOOKS, json=webhook))
    numbers = itertools.count()
    job = await first_versions(clients)
    for size in WAVES:
        for number in itertools.islice(numbers, size):
            await asyncio.to_thread(write_job, clients, number)
            await asyncio.sleep(PACE_SECONDS)
        sent(admin.post(paths.AUDIT_SEALS))
        await asyncio.sleep(PAUSE_SECONDS)
    await last_version(clients, job)
    sent(
        submit(clients["ci-prod"], "bacalhau-testdata-docker.yaml", LONG_NAME, "analytics", team="warehouse")
    )
    await park(data_dir)
    sent(admin.post(paths.AUDIT_SEALS))
    return job


async def first_versions(clients: dict[str, httpx.Client]) -> str:
    """A job that several people change: a failure, a second version that succeeds, a tag; returns its id."""
    job = str(sent(submit(clients["alice"], *INVOICES, "first version", **INVOICE_LABELS))["JobID"])
    await run(clients, job)
    state(clients["node-7"], job, "Failed", "exit code 137: out of memory", Code="137", Node="node-7")
    await asyncio.sleep(PAUSE_SECONDS / 2)
    reason = "more memory after the failure"
    sent(submit(clients["bob"], *INVOICES, reason, more_memory, **INVOICE_LABELS))
    await run(clients, job)
    state(clients["node-7"], job, "Completed", "1,204 invoices")
    tag = paths.expand(paths.JOB_TAG, id=job, tag="golden")
    sent(clients["alice"].put(tag, json={"JobVersion": 2, "Reason": "the run that finance accepted"}))
    return job


async def last_version(clients: dict[str, httpx.Client], job: str) -> None:
    """The third version of that job, which runs."""
    reason = "image bump, new region"
    sent(submit(clients["ci-prod"], *INVOICES, reason, another_region, **INVOICE_LABELS))
    await run(clients, job)


async def run(clients: dict[str, httpx.Client], job: str) -> None:
    """Let a job wait, and then run for a while."""
    await asyncio.sleep(PAUSE_SECONDS / 8)
    state(clients["scheduler"], job, "Queued", "waiting for a slot")
    await asyncio.sleep(PAUSE_SECONDS / 4)
    state(clients["node-7"], job, "Running", "on node-7")
    await asyncio.sleep(PAUSE_SECONDS)


def more_memory(spec: dict[str, Any]) -> None:
    """The change of the second version."""
    spec["Priority"] = 10
    spec["Tasks"][0]["Resources"] = {"CPU": "2", "Memory": "4Gi"}


def another_region(spec: dict[str, Any]) -> None:
    """The change of the third version."""
    more_memory(spec)
    spec["Count"] = 3
    spec["Tasks"][0]["Engine"]["Params"]["Image"] = "busybox:1.37.1"
    spec["Tasks"][0]["InputSources"][0]["Source"]["Params"]["Region"] = "eu-central-1"


def write_job(clients: dict[str, httpx.Client], number: int) -> None:
    """One of the many jobs, with a past of its own."""
    file, name, namespace = TEMPLATES[number % len(TEMPLATES)]
    labels = {"env": ("prod", "staging", "dev")[number % 3], "region": REGIONS[number % 4 % 3]}
    client = clients[("ci-prod", "bob")[number % 5 == 0]]
    job = str(sent(submit(client, file, f"{name}-{number:03}", namespace, "nightly run", **labels))["JobID"])
    for state_type, message in _PASTS[number % len(_PASTS)]:
        actor = "scheduler" if state_type == "Queued" else "bob" if state_type == "Stopped" else "node-7"
        state(clients[actor], job, state_type, message)


_RUNNING = (("Queued", "waiting for a slot"), ("Running", "on node-7"))
_PASTS = (
    (*_RUNNING, ("Completed", "all tasks finished")),
    _RUNNING,
    (*_RUNNING, ("Failed", "exit code 1: no such bucket")),
    (),
    (*_RUNNING, ("Completed", "all tasks finished")),
    (("Queued", "waiting for a slot"),),
    (*_RUNNING, ("Stopped", "replaced by a newer run")),
    (*_RUNNING, ("Completed", "all tasks finished")),
    _RUNNING,
)


def submit(  # noqa: PLR0917 - in the order of the API
    client: httpx.Client,
    file: str,
    name: str,
    namespace: str,
    reason: str = "",
    change: Callable[[dict[str, Any]], None] | None = None,
    **labels: str,
) -> httpx.Response:
    """Submit a real spec under another name."""
    spec = yaml.safe_load((SPECS / file).read_text())
    spec = {key[:1].upper() + key[1:]: value for key, value in spec.items()}
    spec |= {"Name": name, "Namespace": namespace, "Labels": labels}
    if change:
        change(spec)
    return client.put(paths.JOBS, json={"Job": spec, "Reason": reason})


def state(client: httpx.Client, job: str, state_type: str, message: str, **details: str) -> None:
    """Report a state."""
    body = {"StateType": state_type, "Message": message, **({"Details": details} if details else {})}
    sent(client.put(paths.expand(paths.JOB_STATE, id=job), json=body))


def sent(answer: httpx.Response) -> Any:
    """The body of a successful answer."""
    if answer.is_error:
        raise RuntimeError(answer.text)
    return answer.json()


async def park(data_dir: Path) -> None:
    """A subscription that handled most events; the failures of two jobs are parked, one is retried."""
    failed = itertools.count()

    async def handle(event: SubscribedEvent) -> None:
        if event.state is not None and event.state.state_type == "Failed":
            raise TimeoutError(f"billing API answered 504 for {event.name}")
        if event.name == LONG_NAME and next(failed) == 0:
            raise ConnectionError("billing API refused the connection")

    log = await JetStreamLog.connect(find_connection(data_dir / NATS_FOLDER))
    try:
        async with subscribe(log, "billing", types=["created", "state"], retries=RETRIES) as events:
            with_limit = asyncio.wait_for(events.run(handle), timeout=PAUSE_SECONDS * 2)
            await asyncio.gather(with_limit, return_exceptions=True)
        async with subscribe(log, "search-index", labels="env=prod", elastic=True) as events:
            async for event in events:
                if event.sequence > 80:  # it lags
                    break
    finally:
        await log.close()


@contextmanager
def failing_target() -> Iterator[str]:
    """A target of webhooks: the catalog takes everything, the other one is not available."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(204 if self.path == "/catalog" else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
