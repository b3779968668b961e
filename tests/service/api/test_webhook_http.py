"""Webhooks over HTTP, from the request to the receiver: real service, real server, real subscription."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from jobledger import EmbeddedServer
from jobledger.service.access.principal import Role
from jobledger.service.wiring import Service
from tests.support.api import client_of, job_body, running_api
from tests.support.http_servers import Receiver, answer, receiving
from tests.support.logs import eventually
from tests.support.webhooks import LOCAL, SECRET

pytestmark = pytest.mark.slow  # services and receivers: seconds each

WEBHOOKS = "http://127.0.0.1/api/v1/webhooks"
METRICS = "http://127.0.0.1/metrics"
SUBSCRIPTIONS = "http://127.0.0.1/api/v1/subscriptions"
WITHIN_SECONDS = 60.0


async def add(client: httpx.AsyncClient, receiver: Receiver, **fields: Any) -> dict[str, Any]:
    """Add a webhook to a receiver; the answer."""
    body = {"URL": receiver.url("/hook?token=hush"), "Name": "hook", **fields}
    response = await client.post(WEBHOOKS, json=body)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


async def submit(client: httpx.AsyncClient, name: str, **fields: Any) -> Mapping[str, Any]:
    """Create a job; the receipt."""
    receipt: Mapping[str, Any] = (await client.put("/jobs", json=job_body(name, **fields))).json()
    return receipt


async def set_state(client: httpx.AsyncClient, name: str, state: str) -> None:
    """Say what became of a job."""
    assert (await client.put(f"/jobs/{name}/state", json={"StateType": state})).status_code == 200


async def test_events_reach_the_receiver_signed_in_order_and_filtered(tmp_path: Path) -> None:
    """From the position where it starts, with the same content as the live feed."""
    async with receiving() as receiver, running_api(tmp_path, webhook_allow=LOCAL) as (_, client):
        first = await submit(client, "one", Labels={"team": "a"})
        result = await add(client, receiver, After="0", Types=["created", "state"], Labels=["team=a"])
        await submit(client, "two")
        await submit(client, "one", Labels={"team": "a", "more": "b"})  # updated: filtered out
        await set_state(client, "one", "Running")
        got = await receiver.wait_for(2)
        events = [Verifier(result["Secret"]).verify(each.body, each.headers) for each in got]
        assert [event["type"] for event in events] == ["jobledger.job.created.v1", "jobledger.job.state.v1"]
        assert [(event["subject"], event["revision"]) for event in events] == [
            (first["JobID"], 1),
            (first["JobID"], 3),
        ]
        assert (int(events[0]["sequence"]), events[0]["id"]) == (first["Sequence"], first["EvaluationID"])
        assert got[0].headers["webhook-id"] == events[0]["id"]
        assert got[0].path == "/hook?token=hush"


async def test_without_a_position_it_starts_with_the_next_event(tmp_path: Path) -> None:
    """The position is fixed when the webhook is added."""
    async with receiving() as receiver, running_api(tmp_path, webhook_allow=LOCAL) as (_, client):
        await submit(client, "before")
        await add(client, receiver, Secret=SECRET)
        after = await submit(client, "after")
        (got,) = await receiver.wait_for(1)
        assert got.event["subject"] == after["JobID"]


async def test_a_job_whose_event_is_rejected_waits_and_all_others_continue(tmp_path: Path) -> None:
    """It is listed as parked; an operator retries it, in order, once the receiver works again."""
    async with receiving() as receiver, running_api(tmp_path, webhook_allow=LOCAL) as (_, client):
        bad = (await submit(client, "bad"))["JobID"]
        receiver.answering = lambda got: answer(422 if got.event["subject"] == bad else 204)
        await add(client, receiver, After="0")
        await receiver.wait_until(lambda got: any(each.event["subject"] == bad for each in got))
        await set_state(client, "bad", "Running")
        good = (await submit(client, "good"))["JobID"]
        await receiver.wait_until(lambda got: any(each.event["subject"] == good for each in got))
        (parked,) = (await client.get(f"{SUBSCRIPTIONS}/webhook-hook/parked")).json()["Items"]
        assert (parked["JobID"], parked["Sequence"], parked["State"]) == (bad, 1, "retrying")
        assert parked["Name"] == "bad"
        assert parked["Error"].endswith("it answered 422")
        assert {int(each.event["sequence"]) for each in receiver.got if each.event["subject"] == bad} == {1}
        receiver.say(answer(204))
        retried = await client.post(f"{SUBSCRIPTIONS}/webhook-hook/retry", json={"JobID": "bad"})
        assert retried.json() == {"Jobs": 1}
        await receiver.wait_until(lambda got: any(int(each.event["sequence"]) == 2 for each in got))

        async def is_done() -> bool:
            left: int = (await client.get(f"{SUBSCRIPTIONS}/webhook-hook/parked")).json()["Total"]
            return left == 0

        await eventually(is_done, within_seconds=WITHIN_SECONDS)
        handled = [int(each.event["sequence"]) for each in receiver.got if each.event["subject"] == bad]
        assert handled[-2:] == [1, 2]


async def test_secrets_are_shown_once_and_nowhere_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in lists, responses, metrics, logs or errors; nor the path of a URL, except to admins."""
    async with receiving() as receiver, running_api(tmp_path, webhook_allow=LOCAL) as (service, client):
        receiver.say(answer(500))
        brought = await add(client, receiver, Secret=SECRET, After="0")
        assert "Secret" not in brought
        made = (await client.put(f"{WEBHOOKS}/hook/secret", json={"OverlapSeconds": 60})).json()["Secret"]
        await submit(client, "one")
        await receiver.wait_for(1)
        texts = [caplog.text, repr(service.webhooks.deliverer.deliveries["hook"].webhook)]
        reads = (WEBHOOKS, f"{WEBHOOKS}/hook", SUBSCRIPTIONS, f"{SUBSCRIPTIONS}/webhook-hook/parked", METRICS)
        texts += [(await client.get(path)).text for path in reads]
        texts.append((await client.put(f"{WEBHOOKS}/hook/state", json={"State": "paused"})).text)
        texts.append((await client.post(WEBHOOKS, json={"URL": "https://a/", "Secret": f"{SECRET}x"})).text)
        for hidden in (SECRET, made, SECRET.removeprefix("whsec_"), made.removeprefix("whsec_")):
            assert not [text for text in texts if hidden in text]
        assert "hush" not in caplog.text
        shown = (await client.get(f"{WEBHOOKS}/hook")).json()["Webhook"]["Secrets"]
        assert [each["Secret"] for each in shown] == ["whsec_********"] * 2
        assert [each["Expires"] is None for each in shown] == [True, False]


async def test_a_target_that_is_not_public_is_refused(tmp_path: Path) -> None:
    """Unless the setting names it."""
    async with receiving() as receiver, running_api(tmp_path) as (_, client):
        for url in (receiver.url(), "https://localhost/", "https://[::1]/", "https://169.254.169.254/"):
            response = await client.post(WEBHOOKS, json={"URL": url})
            assert (response.status_code, response.json()["Code"]) == (400, "BadRequest")
            assert "webhook_allow" in response.json()["Message"]
        assert (await client.get(WEBHOOKS)).json() == {"Items": []}


async def test_a_test_event_is_sent_at_once_and_its_result_reported(tmp_path: Path) -> None:
    """Signed like the others; also while the webhook is paused."""
    async with receiving() as receiver, running_api(tmp_path, webhook_allow=LOCAL) as (_, client):
        await add(client, receiver, Secret=SECRET)
        result = (await client.post(f"{WEBHOOKS}/hook/test")).json()
        assert (result["Delivered"], result["Status"], result["Problem"]) == (True, 204, "")
        event = Verifier(SECRET).verify(receiver.got[0].body, receiver.got[0].headers)
        assert (event["type"], event["id"]) == ("jobledger.webhook.test.v1", result["EventID"])
        await client.put(f"{WEBHOOKS}/hook/state", json={"State": "paused"})
        receiver.say(answer(404))
        result = (await client.post(f"{WEBHOOKS}/hook/test")).json()
        assert (result["Delivered"], result["Status"], result["Problem"]) == (False, 404, "it answered 404")
        receiver.say(b"what?\r\n\r\n")
        result = (await client.post(f"{WEBHOOKS}/hook/test")).json()
        assert (result["Delivered"], result["Status"]) == (False, None)


async def test_deleting_a_webhook_deletes_its_position(tmp_path: Path) -> None:
    """The subscription goes with the webhook."""
    async with receiving() as receiver, running_api(tmp_path, webhook_allow=LOCAL) as (_, client):
        await add(client, receiver, After="0")
        await submit(client, "one")
        await receiver.wait_for(1)
        refused = await client.delete(f"{SUBSCRIPTIONS}/webhook-hook")
        assert (refused.status_code, refused.json()["Code"]) == (409, "WebhookExists")
        assert "`jobledger webhook delete hook`" in refused.json()["Message"]
        assert (await client.delete(f"{WEBHOOKS}/hook")).status_code == 200
        assert (await client.get(f"{WEBHOOKS}/hook")).json()["Code"] == "WebhookNotFound"

        async def is_gone() -> bool:
            found: dict[str, Any] = (await client.get(SUBSCRIPTIONS)).json()
            return found == {"Items": []}

        await eventually(is_gone, within_seconds=WITHIN_SECONDS)
        await add(client, receiver, After="0")
        got = await receiver.wait_for(2)
        assert got[0].body == got[1].body


async def token_client(service: Service, role: Role, namespaces: tuple[str, ...] | None) -> httpx.AsyncClient:
    """A client with a token of its own."""
    _, token = service.tokens.create(f"{role}-{namespaces}", role, namespaces)
    return client_of(service, {"Authorization": f"Bearer {token}"})


async def test_only_admins_change_anything(tmp_path: Path) -> None:
    """Readers of all namespaces see it without the path of its URL; others see nothing."""
    async with receiving() as receiver, running_api(tmp_path, webhook_allow=LOCAL) as (service, client):
        await add(client, receiver, Secret=SECRET)
        await submit(client, "one")
        await receiver.wait_for(1)  # then its subscription is there
        admin = await token_client(service, Role.ADMIN, None)
        writer = await token_client(service, Role.WRITER, None)
        reader = await token_client(service, Role.READER, ("default",))
        changes = (
            ("POST", WEBHOOKS),
            ("DELETE", f"{WEBHOOKS}/hook"),
            ("PUT", f"{WEBHOOKS}/hook/state"),
            ("PUT", f"{WEBHOOKS}/hook/secret"),
            ("POST", f"{WEBHOOKS}/hook/test"),
            ("POST", f"{SUBSCRIPTIONS}/webhook-hook/retry"),
            ("POST", f"{SUBSCRIPTIONS}/webhook-hook/skip"),
            ("PUT", f"{SUBSCRIPTIONS}/webhook-hook/position"),
            ("DELETE", f"{SUBSCRIPTIONS}/webhook-hook"),
        )
        reads = (WEBHOOKS, f"{WEBHOOKS}/hook", SUBSCRIPTIONS, f"{SUBSCRIPTIONS}/webhook-hook")
        async with admin, writer, reader:
            for method, path in changes:
                for who in (writer, reader):
                    assert (await who.request(method, path, json={})).status_code == 403, (method, path)
            for path in reads:
                assert (await reader.get(path)).status_code == 403
                assert (await writer.get(path)).status_code == 200
            assert "hush" not in (await writer.get(WEBHOOKS)).text
            assert "hush" in (await admin.get(WEBHOOKS)).text
            assert (await admin.put(f"{WEBHOOKS}/hook/state", json={"State": "paused"})).status_code == 200


async def test_invalid_fields_are_reported(tmp_path: Path) -> None:
    """By name, and nothing is written."""
    async with running_api(tmp_path, webhook_allow=LOCAL) as (_, client):
        good = {"URL": "http://127.0.0.1:9/"}
        for body, said in (
            ({}, "URL"),
            ({**good, "Types": ["deleted"]}, "deleted"),
            ({**good, "States": ["Lost"]}, "Lost"),
            ({**good, "Labels": ["a in"]}, "a in"),
            ({**good, "Labels": ["a=b"] * 21}, "Labels"),
            ({**good, "After": "999"}, "After"),
            ({**good, "After": "yesterday"}, "After"),
            ({**good, "Name": "a b"}, "Name"),
            ({**good, "Types": 5}, "Types"),
        ):
            response = await client.post(WEBHOOKS, json=body)
            assert response.status_code == 400, body
            assert said in response.json()["Message"]
        assert (await client.get(WEBHOOKS)).json() == {"Items": []}
        result = (await client.post(WEBHOOKS, json={**good, "Sekret": "x"})).json()
        assert "did you mean `Secret`?" in result["Warnings"][0]
        assert (await client.put(f"{WEBHOOKS}/127-0-0-1/state", json={"State": "gone"})).status_code == 400
        for path in (f"{WEBHOOKS}/none", f"{WEBHOOKS}/a.*", f"{WEBHOOKS}/%3E"):
            assert (await client.get(path)).json()["Code"] == "WebhookNotFound"


async def test_several_replicas_deliver_each_event_once(tmp_path: Path, server: EmbeddedServer) -> None:
    """One delivers; when it ends, another continues from its position. They share the keys."""
    how: dict[str, Any] = {
        "nats_url": server.url,
        "webhook_allow": LOCAL,
        "webhook_keys_file": tmp_path / "webhook-keys.json",
    }
    async with receiving() as receiver, running_api(tmp_path / "two", **how) as (_, two):
        async with running_api(tmp_path / "one", **how) as (_, one):
            await add(one, receiver, Secret=SECRET)
            for number in range(20):
                await submit(one if number % 2 else two, f"first-{number}")
            await receiver.wait_for(20)
        for number in range(20):
            await submit(two, f"second-{number}")
        await receiver.wait_until(lambda got: len({each.event["sequence"] for each in got}) == 40)
        sequences = [each.event["sequence"] for each in receiver.got]
        assert sequences == sorted(sequences)
        assert len(sequences) == 40
