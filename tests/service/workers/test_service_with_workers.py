"""`jobledger serve --workers 2`: one service, whichever worker answers and whichever process dies."""

import asyncio
import json
import os
import re
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from jobledger.service.errors import NotReady
from jobledger.service.server.http_server import free_port
from jobledger.service.settings import Settings
from jobledger.service.wiring import open_service
from jobledger.service.workers import pool as pool_module
from jobledger.service.workers.pool import WorkerPool
from tests.support.api import PREFIX, job_body, ok
from tests.support.nats_servers import make_certificates
from tests.support.service_process import (
    TIMEOUT_SECONDS,
    RunningService,
    jobledger,
    running_service,
    server_pid,
    wait_line,
)
from tests.support.workers import client_of_worker, wait_gone, wait_until_replaced, worker_pids

WORKERS = 2
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with two workers, for tests that end none of its processes."""
    with running_service(tmp_path_factory.mktemp("workers"), "--workers", str(WORKERS)) as running:
        wait_until_replaced(running, 0, WORKERS)
        yield running


@contextmanager
def clients(service: RunningService) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A client of each worker."""
    one, two = worker_pids(service)
    with client_of_worker(service, one) as first, client_of_worker(service, two) as second:
        yield first, second


def metric(text: str, name: str) -> float:
    """The sum of a metric over its labels."""
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, name
    return sum(map(float, found))


def test_a_client_reads_its_write_on_any_worker(service: RunningService) -> None:
    """Immediately, without `wait_for`: by id, in a list, and each of many states."""
    with clients(service) as (first, second):
        for number in range(100):
            writer, reader = (first, second) if number % 2 else (second, first)
            created = ok(writer.put("/jobs", json=job_body(f"mine-{number}")))
            assert ok(reader.get(f"/jobs/mine-{number}"))["Job"]["ID"] == created["JobID"]
            state = {"StateType": "Queued"}
            ok(writer.put(f"/jobs/{created['JobID']}/state", json=state))
            listed = ok(reader.get("/jobs?limit=1000"))["Items"]
            assert next(job for job in listed if job["Name"] == f"mine-{number}")["Revision"] == 2


def test_one_event_is_written_for_one_key_on_two_workers(service: RunningService) -> None:
    """Both answers name the same event."""
    with clients(service) as both, ThreadPoolExecutor(2) as threads:
        for number in range(30):
            headers = {"Idempotency-Key": str(uuid.uuid4())}

            def put(client: httpx.Client, name: str = f"once-{number}") -> httpx.Response:
                return client.put("/jobs", json=job_body(name), headers=headers)  # noqa: B023 - awaited here

            one, two = threads.map(put, both)
            assert ok(one)["Sequence"] == ok(two)["Sequence"]
            assert len(ok(both[0].get(f"/jobs/once-{number}/history"))["Items"]) == 1


def test_revisions_have_no_gap_with_writers_on_two_workers(service: RunningService) -> None:
    """Both change one job concurrently: each acknowledged change is one revision."""
    with clients(service) as both, ThreadPoolExecutor(2) as threads:
        job = ok(both[0].put("/jobs", json=job_body("contended")))["JobID"]

        def change(client: httpx.Client) -> list[int]:
            who = "a" if client is both[0] else "b"
            return [
                ok(client.put("/jobs", json=job_body("contended", Labels={who: str(each)})))["Revision"]
                for each in range(40)
            ]

        revisions = sorted(each for found in threads.map(change, both) for each in found)
        assert revisions == list(range(2, 82))
        assert ok(both[1].get(f"/jobs/{job}"))["Job"]["Revision"] == 81


def test_any_worker_answers_the_metrics_of_all(service: RunningService) -> None:
    """Counters are added, and what only the owner has is there once."""
    with clients(service) as (first, second):
        before = metric(first.get(f"{service.url}/metrics").text, "jobledger_writes_total")
        for number, client in enumerate((first, second, second)):
            ok(client.put("/jobs", json=job_body(f"counted-{number}")))
        texts = [client.get(f"{service.url}/metrics").text for client in (first, second)]
    for text in texts:
        assert metric(text, "jobledger_writes_total") == before + 3
        assert metric(text, "jobledger_workers_running") == WORKERS
        assert metric(text, "jobledger_ready") == 1
        assert metric(text, "jobledger_log_connected") == 1
        assert text.count("# TYPE jobledger_view_sequence gauge") == 1
        assert text.count("\nprocess_cpu_seconds_total ") == 1


def test_what_only_the_owner_can_do_is_passed_on(service: RunningService) -> None:
    """From each worker: healing, sealing, webhooks, and the jobs as of an earlier point."""
    with clients(service) as both:
        first = ok(both[0].put("/jobs", json=job_body("earlier")))["Sequence"]
        ok(both[0].put("/jobs", json=job_body("later")))
        for client in both:
            root = f"{service.url}/api/v1"
            assert ok(client.post(f"{root}/view/heal"))["Jobs"] == 0
            assert ok(client.post(f"{root}/audit/seals"))["Size"] >= first
            names = {job["Name"] for job in ok(client.get(f"/jobs?at={first}&limit=1000"))["Items"]}
            assert "earlier" in names
            assert "later" not in names
            answer = client.post(f"{root}/webhooks", json={"Name": "w", "URL": "http://127.0.0.1:9/none"})
            assert answer.status_code == httpx.codes.BAD_REQUEST, answer.text  # refused by the owner
            assert client.get(f"{root}/webhooks/none").status_code == httpx.codes.NOT_FOUND


def test_readiness_is_that_of_the_owner(service: RunningService) -> None:
    """Each worker shows the checks of the owner, and one of the owner itself."""
    with clients(service) as both:
        for client in both:
            text = client.get(f"{service.url}/readyz?verbose").text
            assert "[+]owner ok" in text
            assert "[+]projector ok" in text


def test_a_second_service_is_refused_the_port(service: RunningService) -> None:
    """Although the workers share it with SO_REUSEPORT."""
    port = int(service.url.rpartition(":")[2])
    with pytest.raises(NotReady, match="in use"):
        free_port("127.0.0.1", port)


async def test_a_feed_resumes_on_another_worker(service: RunningService) -> None:
    """With the last event id of one worker, the other one continues without a gap or a repetition."""
    one, two = worker_pids(service)
    with client_of_worker(service, one) as first, client_of_worker(service, two) as second:
        start = ok(first.put("/jobs", json=job_body("fed")))["Cursor"]

        def change(client: httpx.Client, number: int) -> int:
            body = job_body("fed", Labels={"n": str(number)})
            return int(ok(client.put("/jobs", json=body))["Sequence"])

        expected, seen, last = [], [], start
        for turn in range(6):
            reading, writing = (first, second) if turn % 2 else (second, first)
            with reading.stream(
                "GET", f"{service.url}/api/v1/events?job=fed", headers={"Last-Event-ID": last}
            ) as response:
                lines = response.iter_lines()
                expected += [await asyncio.to_thread(change, writing, 10 * turn + each) for each in range(5)]
                for line in lines:
                    if line.startswith("id: "):
                        last = line.removeprefix("id: ")
                    if line.startswith("data: "):
                        seen.append(int(json.loads(line.removeprefix("data: "))["sequence"]))
                    if seen and seen[-1] == expected[-1]:
                        break
        assert seen == expected


def test_a_token_that_is_revoked_ends_on_every_worker(tmp_path: Path) -> None:
    """Each worker reads the file of tokens by itself."""
    data = tmp_path / "data"
    created = jobledger(
        tmp_path, "token", "create", "--name", "ci", "--role", "admin", env={"JOBLEDGER_DATA_DIR": str(data)}
    )
    assert created.returncode == 0, created.stderr
    secret = re.findall(r"jl[_a-z]*[A-Za-z0-9_-]{20,}", created.stdout + created.stderr)[0]
    headers = {"Authorization": f"Bearer {secret}"}
    with running_service(tmp_path, "--workers", "2") as service:
        wait_until_replaced(service, 0, WORKERS)
        with clients(service) as both:
            for client in both:
                assert client.get("/jobs", headers=headers).status_code == httpx.codes.OK
            revoked = jobledger(tmp_path, "token", "revoke", "ci", env={"JOBLEDGER_DATA_DIR": str(data)})
            assert revoked.returncode == 0, revoked.stderr
            for client in both:
                assert client.get("/jobs", headers=headers).status_code == httpx.codes.UNAUTHORIZED


class Writers:
    """Threads that submit jobs until they are stopped, each on new connections when one fails."""

    def __init__(self, service: RunningService, count: int = 4) -> None:
        self.acknowledged: dict[str, int] = {}
        self.failed = 0
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(each,)) for each in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> dict[str, int]:
        """Stop; returns the sequence of each acknowledged job."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.acknowledged

    def wait_for(self, count: int) -> None:
        """Wait for this many more acknowledgements."""
        target = len(self.acknowledged) + count
        for _ in range(int(TIMEOUT_SECONDS / 0.01)):
            if len(self.acknowledged) >= target:
                return
            self._stop.wait(0.01)
        raise AssertionError(f"{len(self.acknowledged)} acknowledged, {self.failed} failed")

    def _write(self, thread: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            name = f"w{thread}-{number}"
            with httpx.Client(
                base_url=f"{self._service.url}{PREFIX}", trust_env=False, verify=False, timeout=10
            ) as client:
                try:
                    answer = client.put("/jobs", json=job_body(name))
                    if answer.status_code != httpx.codes.OK:
                        self.failed += 1
                        continue
                    self.acknowledged[name] = answer.json()["Sequence"]
                    # On another connection, and so often on another worker.
                    with httpx.Client(
                        base_url=str(client.base_url), trust_env=False, verify=False, timeout=10
                    ) as other:
                        read = other.get(f"/jobs/{name}")
                    # 503, or aborted at the end of the drain, but never unknown.
                    assert read.status_code != httpx.codes.NOT_FOUND, read.text
                except httpx.TransportError:
                    self.failed += 1


def stored(service: RunningService) -> dict[str, int]:
    """The jobs of the service, with the sequences of their creation."""
    found: dict[str, int] = {}
    with httpx.Client(base_url=f"{service.url}{PREFIX}", trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        token = ""
        while True:
            page = ok(client.get("/jobs", params={"limit": 1000, "next_token": token}))
            for job in page["Items"]:
                assert job["Name"] not in found
                found[job["Name"]] = job["CreateTime"]
            token = page.get("NextToken", "")
            if not token:
                return found


def test_killed_workers_are_replaced_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """`kill -9` of one worker after another, during writes and reads of what was written."""
    with running_service(tmp_path, "--workers", "2") as service:
        wait_until_replaced(service, 0, WORKERS)
        writers = Writers(service)
        try:
            for turn in range(3):
                writers.wait_for(30)
                victim = worker_pids(service)[turn % WORKERS]
                os.kill(victim, signal.SIGKILL)
                wait_until_replaced(service, victim, WORKERS)
            writers.wait_for(30)
        finally:
            acknowledged = writers.stop()
        assert acknowledged.keys() <= stored(service).keys()
        text = httpx.get(f"{service.url}/metrics").text
        assert metric(text, "jobledger_worker_restarts_total") == 3
        assert metric(text, "jobledger_workers_running") == WORKERS
        wait_line(service, "ended unexpectedly (killed by SIGKILL)")
        assert service.process.poll() is None


def test_the_death_of_the_owner_ends_its_workers(tmp_path: Path) -> None:
    """None is ready or keeps the port; the next service has every acknowledged write."""
    flags = ("--workers", "2", "--drain-timeout-seconds", "1")
    with running_service(tmp_path, *flags) as service:
        wait_until_replaced(service, 0, WORKERS)
        writers = Writers(service)
        try:
            writers.wait_for(100)
            pids = worker_pids(service)
            os.kill(service.process.pid, signal.SIGKILL)
            service.process.wait()
            wait_gone(pids)
        finally:
            acknowledged = writers.stop()
        port = int(service.url.rpartition(":")[2])
        assert free_port("127.0.0.1", port) == port
    with running_service(tmp_path, "--workers", "2") as again:
        assert acknowledged.keys() <= stored(again).keys()


def test_a_worker_that_hangs_is_not_waited_for_by_a_rebuild(tmp_path: Path) -> None:
    """The view is replaced: workers read the new file, and one that does not close the old one is killed."""
    with running_service(tmp_path, "--workers", "2") as service:
        wait_until_replaced(service, 0, WORKERS)
        with clients(service) as both:
            ok(both[0].put("/jobs", json=job_body("kept")))
            (service.data_dir / "view.sqlite").unlink()
            wait_line(service, "the view is rebuilt up to event 1")
            for client in both:
                assert ok(client.get("/jobs/kept"))["Job"]["Name"] == "kept"
        one, two = worker_pids(service)
        os.kill(one, signal.SIGSTOP)
        (service.data_dir / "view.sqlite").unlink()
        wait_line(service, "killing it")
        wait_until_replaced(service, one, WORKERS)
        for pid in worker_pids(service):
            with client_of_worker(service, pid) as client:
                assert ok(client.get("/jobs/kept"))["Job"]["Name"] == "kept"
        assert two in worker_pids(service)


def test_sigterm_drains_every_worker(tmp_path: Path) -> None:
    """A wait in flight on each is answered, feeds get their cursor, and the exit code is 0."""
    with running_service(tmp_path, "--workers", "2") as service:
        wait_until_replaced(service, 0, WORKERS)
        with clients(service) as both, ThreadPoolExecutor(4) as threads:
            ok(both[0].put("/jobs", json=job_body("waited")))
            waits = [
                threads.submit(client.get, "/jobs/waited/wait?state=Running&timeout=100") for client in both
            ]
            feed_started = threading.Event()

            def feed() -> str:
                with httpx.stream("GET", f"{service.url}/api/v1/events", timeout=30) as response:
                    text = ""
                    for part in response.iter_text():
                        text += part
                        feed_started.set()
                    return text

            feeding = threads.submit(feed)
            assert feed_started.wait(TIMEOUT_SECONDS)
            pids = worker_pids(service)
            service.process.terminate()
            assert service.process.wait(TIMEOUT_SECONDS) == 0, service.output
            assert "event: close" in feeding.result()
            for each in waits:
                assert each.result().status_code in {200, 503}
        wait_gone(pids)


def test_workers_follow_the_restart_of_the_embedded_server(tmp_path: Path) -> None:
    """Its server is killed: each worker appends again after the owner has restarted it."""
    with running_service(tmp_path, "--workers", "2") as service:
        wait_until_replaced(service, 0, WORKERS)
        with clients(service) as both:
            ok(both[0].put("/jobs", json=job_body("before")))
            os.kill(server_pid(service), signal.SIGKILL)
            for number, client in enumerate(both):
                answer = client.put("/jobs", json=job_body(f"after-{number}"))
                while answer.status_code != httpx.codes.OK:
                    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
                    answer = client.put("/jobs", json=job_body(f"after-{number}"))


def test_a_replaced_worker_stays_closed_without_the_token_file_over_tls(tmp_path: Path) -> None:
    """The file of tokens is gone when it starts; each worker answers over TLS with the same certificate."""
    make_certificates(tmp_path)
    data = {"JOBLEDGER_DATA_DIR": str(tmp_path / "data")}
    created = jobledger(tmp_path, "token", "create", "--name", "ci", "--role", "admin", env=data)
    secret = re.findall(r"jl[_a-z]*[A-Za-z0-9_-]{20,}", created.stdout + created.stderr)[0]
    headers = {"Authorization": f"Bearer {secret}"}
    files = ("--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server.key"))
    with running_service(tmp_path, "--workers", "2", *files) as service:
        assert service.url.startswith("https://")
        pids = wait_until_replaced(service, 0, WORKERS)
        for pid in pids:
            with client_of_worker(service, pid) as client:
                ok(client.put("/jobs", json=job_body(f"over-tls-{pid}"), headers=headers))
                assert client.get("/jobs").status_code == httpx.codes.UNAUTHORIZED
        (tokens,) = service.data_dir.glob("*tokens*.json")
        tokens.rename(tmp_path / "away")
        os.kill(pids[0], signal.SIGKILL)
        for pid in wait_until_replaced(service, pids[0], WORKERS):
            with client_of_worker(service, pid) as client:
                for given in ({}, headers):
                    assert client.get("/jobs", headers=given).is_error
                    assert client.put("/jobs", json=job_body("open"), headers=given).is_error
        (tmp_path / "away").rename(tokens)
        for pid in worker_pids(service):
            with client_of_worker(service, pid) as client:
                assert len(ok(client.get("/jobs", headers=headers))["Items"]) == WORKERS


async def test_a_stopped_worker_is_replaced_and_the_others_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clients' connections end when it is killed; new ones reach a worker that answers."""
    monkeypatch.setattr(pool_module, "WORKER_SILENCE_SECONDS", 4.0)
    async with open_service(Settings(data_dir=tmp_path, port=0, workers=2)) as service:
        pool = await WorkerPool.start(service, service.settings, "127.0.0.1")
        try:
            url = f"http://127.0.0.1:{pool.port}/livez"
            victim = pool.pids[0]
            os.kill(victim, signal.SIGSTOP)
            async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False, timeout=60) as client:
                while victim in pool.pids:
                    with suppress(httpx.TransportError):  # the kernel gave this connection to it
                        await client.get(url, headers={"Connection": "close"})
                    await asyncio.sleep(0)
                while pool.running < WORKERS:  # noqa: ASYNC110 - a count
                    await asyncio.sleep(0.01)
                assert (await client.get(url)).status_code == httpx.codes.OK
            assert pool.restarts >= 1
        finally:
            await pool.stop()
