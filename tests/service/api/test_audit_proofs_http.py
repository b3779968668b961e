"""Proofs over HTTP: who may get one, what it contains, and that a third party can verify it."""

from base64 import b64decode
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.projections.merkle.proofs import verify_consistency
from jobledger.service.access.principal import Role
from jobledger.service.audit.bundle_check import check_bundle
from jobledger.service.audit.model.bundle import read_bundle
from jobledger.service.audit.model.checkpoint import make_seal, read_seal
from jobledger.service.audit.model.note import VerifierKey
from jobledger.service.wiring import Service
from jobledger.store.model.job import StateType
from jobledger.store.model.subjects import job_subject, named_job_id
from tests.support.api import client_of, job_body, running_api
from tests.support.logs import publish_raw
from tests.support.proofs import SIGNER
from tests.support.second_verifier import verify

AUDIT = "http://127.0.0.1/api/v1/audit"
PROOF, CONSISTENCY, SEALS = f"{AUDIT}/proof", f"{AUDIT}/consistency", f"{AUDIT}/seals"
QUIET: dict[str, Any] = {"seal_every_events": 0, "seal_every_seconds": 0.0}


def keys_of(service: Service) -> tuple[VerifierKey, ...]:
    """The public keys of a service, as an auditor was given them."""
    return tuple(signer.key for signer in service.sealer.keys.signers())


async def make_job(client: httpx.AsyncClient, name: str = "etl", **fields: Any) -> str:
    """A job, and its id."""
    answer = await client.put("/jobs", json=job_body(name, **fields))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["JobID"])


async def test_a_proof_is_a_bundle_that_a_third_party_can_verify(tmp_path: Path) -> None:
    """The response is the document, and both verifiers accept it."""
    async with running_api(tmp_path / "data", **QUIET) as (service, client):
        job_id = await make_job(client)
        await make_job(client, "other")
        await client.put("/jobs/etl/state", json={"StateType": "Running"})
        await client.post(SEALS)
        answer = await client.get(PROOF, params={"job": "etl"})
        assert answer.headers["content-type"] == "application/json"
        assert f'filename="{job_id}.proof.json"' in answer.headers["content-disposition"]
        assert answer.headers["jobledger-uncovered"] == "0"
        verdict = check_bundle(read_bundle(answer.content), keys_of(service), job=job_id)
        assert verdict.ok, verdict
        assert verdict.status is not None
        assert verdict.status.state.state_type is StateType.RUNNING
        assert (verdict.events, verdict.size, verdict.unlinked) == (2, 3, 0)
        assert verify(answer.content, str(keys_of(service)[0]))["revision"] == 2


async def test_events_after_the_seal_are_counted_and_not_proven(tmp_path: Path) -> None:
    """The bundle ends where its seal does; the header has the number of later events."""
    async with running_api(tmp_path / "data", **QUIET) as (service, client):
        await make_job(client)
        await client.post(SEALS)
        for state in ("Queued", "Running"):
            await client.put("/jobs/etl/state", json={"StateType": state})
        answer = await client.get(PROOF, params={"job": "etl"})
        assert answer.headers["jobledger-uncovered"] == "2"
        verdict = check_bundle(read_bundle(answer.content), keys_of(service))
        assert (verdict.ok, verdict.events) == (True, 1)


async def test_events_that_no_seal_covers_cannot_be_proven_yet(tmp_path: Path) -> None:
    """409 before the first seal, and for a job after the last one; with the remedy."""
    async with running_api(tmp_path / "data", **QUIET) as (_, client):
        await make_job(client)
        for name in ("etl", "late"):
            answer = await client.get(PROOF, params={"job": name})
            assert (answer.status_code, answer.json()["Code"]) == (409, "NotSealed")
            assert "/api/v1/audit/seals" in answer.json()["Hint"]
            await client.post(SEALS)
            await make_job(client, "late")


async def test_a_proof_is_given_to_those_who_may_read_the_job(tmp_path: Path) -> None:
    """A job of another namespace is not found, as in all reads; any token may compare sizes."""
    async with running_api(tmp_path / "data", **QUIET) as (service, _):

        def client(name: str, role: Role, *namespaces: str) -> httpx.AsyncClient:
            token = service.tokens.create(name=name, role=role, namespaces=namespaces or None)[1]
            return client_of(service, {"Authorization": f"Bearer {token}"})

        root = client("root", Role.ADMIN)
        secret = await make_job(root, "secret", Namespace="theirs")
        await make_job(root, "mine", Namespace="mine")
        await root.post(SEALS)
        reader = client("reader", Role.READER, "mine")
        assert (await reader.get(PROOF, params={"job": "mine", "namespace": "mine"})).status_code == 200
        for job, namespace in ((secret, ""), ("secret", "theirs"), ("never", "mine")):
            answer = await reader.get(PROOF, params={"job": job, "namespace": namespace})
            assert (answer.status_code, answer.json()["Code"]) == (404, "NotFound")
        assert (await reader.get(CONSISTENCY, params={"from": 1, "to": 2})).status_code == 200
        anonymous = client_of(service)
        for url in (PROOF, CONSISTENCY):
            assert (await anonymous.get(url, params={"job": "mine"})).status_code == 401


async def test_a_proof_of_consistency_holds_for_all_sizes(tmp_path: Path) -> None:
    """For every pair of seals, the later one extends the earlier one."""
    async with running_api(tmp_path / "data", **QUIET) as (_, client):
        seals = []
        for number in range(5):
            await make_job(client, f"job-{number}")
            seals.append(read_seal((await client.post(SEALS)).json()["Note"]))
        for at, old in enumerate(seals):
            for new in seals[at:]:
                wire = (await client.get(CONSISTENCY, params={"from": old.size, "to": new.size})).json()
                assert (wire["From"], wire["To"]) == (old.size, new.size)
                assert (b64decode(wire["FromRoot"]), b64decode(wire["ToRoot"])) == (old.root, new.root)
                proof = [b64decode(each) for each in wire["Proof"]]
                verify_consistency(old.size, old.root, new.size, new.root, proof)


@pytest.mark.parametrize(
    ("path", "query", "words"),
    [
        (PROOF, {}, "job is required"),
        (CONSISTENCY, {"from": "1"}, "to is required"),
        (CONSISTENCY, {"to": "1"}, "from is required"),
        (CONSISTENCY, {"from": "1", "to": "2"}, "at most the size of the tree, 1; got 1 and 2"),
        (CONSISTENCY, {"from": "1", "to": "0"}, "from and to must be in order"),
        (CONSISTENCY, {"from": "-1", "to": "1"}, "must be an integer from 0"),
        (CONSISTENCY, {"from": "x", "to": "1"}, "must be an integer from 0"),
    ],
)
async def test_invalid_parameters_are_reported(
    tmp_path: Path, path: str, query: dict[str, str], words: str
) -> None:
    """400, with the reason."""
    async with running_api(tmp_path / "data", **QUIET) as (_, client):
        await make_job(client)
        await client.get("/jobs/etl")
        answer = await client.get(path, params=query)
        assert answer.status_code == 400
        assert words in answer.json()["Message"]


async def test_a_seal_of_another_tree_is_not_used_for_proofs(tmp_path: Path) -> None:
    """A seal by an untrusted key, over another tree: 409, as without a seal."""
    async with running_api(tmp_path / "data", **QUIET) as (service, client):
        await make_job(client)
        forged = make_seal(service.sealer.origin, 1, bytes(32), (SIGNER,))
        await service.sealer.seals.append(forged.note.encode(), expect=0)
        answer = await client.get(PROOF, params={"job": "etl"})
        assert (answer.status_code, answer.json()["Code"]) == (409, "NotSealed")
        await service.sealer.seals.append(b"no seal", expect=1)
        answer = await client.get(PROOF, params={"job": "etl"})
        assert (answer.status_code, answer.json()["Code"]) == (409, "NotSealed")


async def test_a_record_on_the_subject_before_the_job_is_in_its_proof(tmp_path: Path) -> None:
    """A foreign record before the job was created: the first event names it as `previous`."""
    job_id = named_job_id("default", "etl")
    async with running_api(tmp_path / "data", **QUIET) as (service, client):
        await publish_raw(service.log, job_subject("default", job_id), b"{not an event")
        await make_job(client)
        await client.post(SEALS)
        answer = await client.get(PROOF, params={"job": "etl"})
        verdict = check_bundle(read_bundle(answer.content), keys_of(service), job=job_id)
        assert verdict.ok, verdict
        assert (verdict.events, verdict.unlinked) == (2, 1)


async def test_foreign_seals_after_the_own_one_are_not_used(tmp_path: Path) -> None:
    """Another root, a size beyond the log, another origin, not a seal, the same root by an unknown key."""
    async with running_api(tmp_path / "data", **QUIET) as (service, client):
        await make_job(client)
        own = read_seal((await client.post(SEALS)).json()["Note"])
        origin = service.sealer.origin
        strange = [
            make_seal(origin, 1, bytes(32), (SIGNER,)).note.encode(),
            make_seal(origin, 10**6, bytes(32), (SIGNER,)).note.encode(),
            make_seal("elsewhere", 1, own.root, (SIGNER,)).note.encode(),
            b"no seal",
            make_seal(origin, 1, own.root, (SIGNER,)).note.encode(),
        ]
        for sequence, note in enumerate(strange, start=1):
            await service.sealer.seals.append(note, expect=sequence)
            answer = await client.get(PROOF, params={"job": "etl"})
            assert check_bundle(read_bundle(answer.content), keys_of(service)).ok


async def test_a_seal_by_another_replica_proves_what_the_own_one_does_not_cover(tmp_path: Path) -> None:
    """A valid seal by a key of `audit_trusted_keys` counts like an own one."""
    trusting = {**QUIET, "audit_trusted_keys": (str(SIGNER.key),)}
    async with running_api(tmp_path / "data", **trusting) as (service, client):
        await make_job(client)
        await client.post(SEALS)
        await make_job(client, "late")
        await service.projector.wait_for(2)
        theirs = make_seal(service.sealer.origin, 2, await service.tree.root(2), (SIGNER,))
        await service.sealer.seals.append(theirs.note.encode(), expect=1)
        late = await client.get(PROOF, params={"job": "late"})
        assert check_bundle(read_bundle(late.content), (SIGNER.key,)).ok
        etl = await client.get(PROOF, params={"job": "etl"})
        assert check_bundle(read_bundle(etl.content), (*keys_of(service), SIGNER.key)).ok
