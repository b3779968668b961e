"""The proof that the browser verifies: its page, and its verdict next to that of `jobledger audit check`."""

import asyncio
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.service.access.principal import Role
from jobledger.service.audit.bundle_check import check_bundle
from jobledger.service.audit.model.bundle import Bundle, read_bundle, write_bundle
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from tests.clients.nodejs import NODE
from tests.support.api import job_body, ok
from tests.support.browser import Browser
from tests.support.proofs import OTHER_SIGNER, REPORT, SIGNER, prove, two_jobs
from tests.support.service_process import running_service
from tests.support.web_pages import checked_page, running_ui, sign_in

SCRIPTS = files("jobledger.service.web") / "static"

# Checks the bundles of a file; prints one verdict per line: proven, wrong, or invalid.
_CHECK_ALL = """
import { readFileSync } from "node:fs";
const [folder, keys, bundles] = process.argv.slice(2);
const { checkBundle, Invalid } = await import(`${folder}/bundle_check.js`);
const { readKeys } = await import(`${folder}/seal.js`);
const trusted = await readKeys(keys);
for (const line of readFileSync(bundles, "utf8").split("\\n").filter(Boolean)) {
  try {
    console.log((await checkBundle(Buffer.from(line, "base64"), trusted)).ok ? "proven" : "wrong");
  } catch (error) {
    console.log(error instanceof Invalid ? "invalid" : String(error));
  }
}
"""


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


async def put(client: httpx.AsyncClient, name: str) -> str:
    return str(ok(await client.put(paths.JOBS, json=job_body(name)))["JobID"])


async def test_the_page_gets_the_bundle_of_the_api(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The same bytes, with the number of newer events; the keys of the service are in the page."""
    service, client = ui
    job_id = await put(client, "etl")
    ok(await client.post(paths.AUDIT_SEALS))
    page = checked_page(await client.get(paths.expand(paths.UI_JOB_PROOF, id=job_id)))
    proof = page.all("section", lambda each: each["id"] == "proof")[0]
    keys = ok(await client.get(paths.AUDIT_KEYS))
    assert proof["data-keys"] == "\n".join(each["Key"] for each in keys["Items"])
    answer = await client.get(proof["data-bundle"])
    api = await client.get(paths.AUDIT_PROOF, params={"job": job_id})
    assert answer.content == api.content
    assert answer.headers["Jobledger-Uncovered"] == "0"
    assert check_bundle(read_bundle(answer.content), service.sealer.trusted(), job=job_id).ok


async def test_without_scripts_nothing_is_shown_as_checked(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Each step is "not checked", and the commands that check the same are there."""
    _, client = ui
    job_id = await put(client, "etl")
    answer = await client.get(paths.expand(paths.UI_JOB_PROOF, id=job_id))
    page = checked_page(answer)
    steps = page.all("tr", lambda each: each["id"].startswith("step-"))
    assert len(steps) == 11
    assert all("not checked" in each.text for each in steps)
    assert f"jobledger audit prove {job_id}" in answer.text
    checked_page(await client.get(paths.UI_PROOF))


async def test_a_bundle_is_refused_as_by_the_api(tmp_path: Path) -> None:
    """Without a seal, and for a job of a namespace that the reader may not see."""
    async with running_ui(tmp_path, seal_every_events=0, seal_every_seconds=0) as (service, client):
        job_id = await put(client, "etl")
        bundle = paths.expand(paths.UI_JOB_BUNDLE, id=job_id)
        checked_page(await client.get(bundle), 409)
        await sign_in(service, client, "eve", Role.READER, ["other"])
        checked_page(await client.get(bundle), 404)
        checked_page(await client.get(paths.expand(paths.UI_JOB_PROOF, id=job_id)), 404)


async def verdicts(documents: list[bytes], folder: Path) -> list[str]:
    """The verdicts of the scripts of the page, run outside of a browser."""
    from base64 import b64encode

    folder.mkdir(exist_ok=True)
    for name in ("bundle_check.js", "seal.js", "strict_json.js"):
        (folder / name).write_bytes((SCRIPTS / name).read_bytes())
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "check.mjs").write_text(_CHECK_ALL)
    (folder / "bundles").write_text("\n".join(b64encode(each).decode() for each in documents))
    command = [str(NODE), str(folder / "check.mjs"), str(folder), str(SIGNER.key), str(folder / "bundles")]
    node = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    output, _ = await node.communicate()
    assert node.returncode == 0
    return output.decode().splitlines()


def verdict(document: bytes) -> str:
    """The verdict of `jobledger audit check`."""
    try:
        return "proven" if check_bundle(read_bundle(document), (SIGNER.key,)).ok else "wrong"
    except InvalidInput:
        return "invalid"


async def bundles() -> list[Bundle]:
    """Good ones, and ones that are wrong as a whole."""
    log = await two_jobs()
    good = prove(log)
    return [
        *(prove(log, job, size=size) for size in range(2, len(log) + 1) for job in (good.job, REPORT)),
        prove(log, signers=(OTHER_SIGNER,)),
        prove(log, signers=(OTHER_SIGNER, SIGNER)),
        prove(log, job=REPORT),
        prove(log, namespace="prod"),
        prove(log, origin="jobledger/other"),
        prove(log, records=(good.records[0], *good.records[2:])),
        prove(log, records=good.records[1:]),
        prove(log, records=good.records[::-1]),
        prove(log, records=(good.records[0], *good.records)),
    ]


def odd_documents(document: bytes) -> list[bytes]:
    """A bundle with values and spellings that a lenient reader would accept."""
    found = [
        document.replace(b'"version":1', each)
        for each in (b'"version":1.0', b'"version":1e0', b'"version":01', b'"version":true', b'"version":"1"',
                     b'"version":1,"version":1', b'"version":-1', b'"version":NaN', b'"version":1,"more":0')
    ]  # fmt: skip
    wire = json.loads(document)
    for part in [wire, wire["records"][0]]:
        for key in list(part):
            kept = part[key]
            odd: list[Any] = [
                None,
                "",
                "AA==",
                "AA",
                "AB==",
                2**63,
                2**63 - 1,
                -1,
                [],
                {},
                "x" * 16_385,
                "\ud800",
            ]
            for value in odd:
                part[key] = value
                found.append(json.dumps(wire).encode())
            part[key] = kept
    deep = b"[" * 100_000
    return [
        *found,
        b" ",
        b"\xef\xbb\xbf" + document,
        document + b"x",
        document + b" \n",
        deep,
        document.decode().encode("utf-16"),
    ]


@pytest.mark.slow
async def test_the_browser_agrees_with_the_command(tmp_path: Path) -> None:
    """On good bundles, on wrong ones, on odd documents, and after any one byte was changed."""
    made = [write_bundle(each) for each in await bundles()]
    good = made[-10]
    changed = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
    documents = [*made, *odd_documents(good), *changed]
    found = await verdicts(documents, tmp_path / "scripts")
    expected = [verdict(each) for each in documents]
    differing = [
        (each[:200], one, other)
        for each, one, other in zip(documents, found, expected, strict=True)
        if one != other
    ]
    assert differing == []
    assert {"proven", "wrong", "invalid"} == set(expected)


VERDICT = "document.getElementById('proof-verdict')"
STEPS = """Object.fromEntries([...document.querySelectorAll('.steps tbody tr')].map(
  row => [row.id.slice(5), [row.dataset.result, row.querySelector('.by').innerText]]))"""
PIN = """key => {
  document.getElementById('proof-keys').value = key;
  document.getElementById('proof-pin').click();
}"""
DROP = """async (text) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([text], 'proof.json'));
  document.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


@pytest.mark.slow
async def test_the_browser_shows_each_step(tmp_path: Path) -> None:
    """With the service's key, a foreign one and a pinned one; and of a dropped file, without the service."""
    with running_service(tmp_path) as service:
        async with httpx.AsyncClient(base_url=service.url) as client:
            job_id = await put(client, "etl")
            ok(await client.post(paths.AUDIT_SEALS))
            document = (await client.get(paths.AUDIT_PROOF, params={"job": job_id})).text
            key = ok(await client.get(paths.AUDIT_KEYS))["Items"][0]["Key"]
        async with Browser(tmp_path) as browser:
            await browser.open(service.url + paths.expand(paths.UI_JOB_PROOF, id=job_id))
            await browser.until(f"{VERDICT}.innerText.includes('not independent')")
            found = await browser.run(STEPS)
            done = {name for name, result in found.items() if result == ["ok", "verified in this browser"]}
            assert done == {"format", "seal", "origin", "job", "order", "leaf", "inclusion", "links"}
            assert found["newer"] == ["ok", "stated by the server"]
            assert found["state"] == found["earlier"] == ["none", "not checked"]
            await browser.run(f"({PIN})({json.dumps(str(SIGNER.key))})")
            await browser.until(f"{VERDICT}.className === 'notice bad'")
            await browser.run(f"({PIN})({json.dumps(key)})")
            await browser.until(f"{VERDICT}.innerText.includes('Proven with a key that you trust')")
            await browser.run("window.fetch = () => { throw new Error('offline'); }")
            at = document.index('"payload":"') + 50
            wrong = document[:at] + chr(ord(document[at]) ^ 1) + document[at + 1 :]
            await browser.run(f"({DROP})({json.dumps(wrong)})")
            await browser.until(f"{VERDICT}.innerText.startsWith('Not proven')")
            await browser.run(f"({DROP})({json.dumps(document)})")
            await browser.until(f"{VERDICT}.innerText.includes('Proven with a key that you trust')")
            assert (await browser.run(STEPS))["newer"] == ["none", "not checked"]
            assert browser.complaints == []
