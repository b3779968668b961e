"""The arguments of commands at their limits: refused by name before anything is written, or kept."""

from typing import Any

import pytest

from jobledger import Ledger, MemoryLog, State, StateType, named_job_id
from jobledger.store.log import EventLog
from jobledger.store.model.errors import InvalidInput, JobNotFound
from jobledger.store.model.limits import (
    ACTOR_MAX_CHARACTERS,
    DETAIL_MAX_CHARACTERS,
    DETAILS_MAX_COUNT,
    JOB_ID_MAX_CHARACTERS,
    MESSAGE_MAX_CHARACTERS,
    NAMESPACE_MAX_BYTES,
    REASON_MAX_CHARACTERS,
    STATE_MAX_BYTES,
)
from tests.conftest import make_spec
from tests.support.ledgers import event_id, full_history

ID = named_job_id("default", "etl")
RUNNING = State(StateType.RUNNING)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HALF = "\ud83d"
STRANGE = "a.b*c> d%\x00\n é 😀"


@pytest.fixture
async def ledger() -> Ledger:
    """A ledger with one job."""
    ledger = Ledger(MemoryLog())
    await ledger.create(make_spec("etl"))
    return ledger


@pytest.mark.parametrize(
    ("about", "names"),
    [
        ({"actor": "x" * (ACTOR_MAX_CHARACTERS + 1)}, "actor has 257 characters, the maximum is 256"),
        ({"actor": HALF}, "actor .* half of a surrogate pair"),
        ({"actor": None}, "actor must be a string, got None"),
        ({"actor": b"alice"}, "actor must be a string, got b'alice'"),
        ({"reason": "x" * (REASON_MAX_CHARACTERS + 1)}, "reason has 4097 characters"),
        ({"reason": 5}, "reason must be a string, got 5"),
        ({"traceparent": TRACE.upper()}, "traceparent .* is not a W3C trace context"),
        ({"traceparent": TRACE + "\n"}, "traceparent"),
        ({"traceparent": None}, "traceparent None"),
        ({"event_id": ""}, "event_id '' is not a UUIDv7"),
        ({"event_id": event_id(1).upper()}, "event_id .* in lower case"),
        ({"event_id": event_id(1) + "\n"}, "event_id"),
        ({"event_id": "0190a5b2-7c3d-4e4f-8a5b-6c7d8e9fa0b1"}, "event_id .* is not a UUIDv7"),
        ({"event_id": 5}, "event_id 5 is not"),
        ({"expected_revision": -1}, "expected_revision must be an integer from 0, got -1"),
        ({"expected_revision": "1"}, "expected_revision must be an integer from 0, got '1'"),
        ({"expected_revision": True}, "expected_revision must be an integer from 0, got True"),
        ({"expected_revision": 1.0}, "expected_revision must be an integer from 0, got 1.0"),
    ],
)
async def test_the_metadata_of_a_command_is_checked(ledger: Ledger, about: Any, names: str) -> None:
    """Every command refuses a wrong actor, reason, trace, id or revision, and writes nothing."""
    for command in (
        ledger.create(make_spec("new"), **about),
        ledger.apply(make_spec("new"), **about),
        ledger.update(ID, make_spec(priority=1), **about),
        ledger.set_state(ID, RUNNING, **about),
        ledger.stop(ID, **about),
    ):
        with pytest.raises(InvalidInput, match=names):
            await command
    assert (await ledger._log.info()).last_sequence == 1


async def test_an_unknown_keyword_is_an_error(ledger: Ledger) -> None:
    """A misspelled condition must not be ignored."""
    misspelt: Any = {"expected_revison": 7}
    with pytest.raises(TypeError, match="unknown keyword 'expected_revison'; commands accept actor,"):
        await ledger.stop(ID, **misspelt)


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ("Running", "state must be a State, .* got 'Running'"),
        (StateType.RUNNING, "state must be a State"),
        (State("Running"), "StateType 'Running' is not a state; use one of Pending, Queued"),  # type: ignore[arg-type]
        (State("Undefined"), "StateType 'Undefined' is not a state"),  # type: ignore[arg-type]
        (State(StateType.FAILED, "x" * (MESSAGE_MAX_CHARACTERS + 1)), "Message has 16385 characters"),
        (State(StateType.FAILED, HALF), "Message .* surrogate"),
        (State(StateType.FAILED, None), "Message must be a string, got None"),  # type: ignore[arg-type]
        (State(StateType.FAILED, "", None), "Details must be a mapping of strings, got None"),  # type: ignore[arg-type]
        (State(StateType.FAILED, "", {"a": 1}), "Details.a must be a string, got 1"),  # type: ignore[dict-item]
        (State(StateType.FAILED, "", {1: "a"}), "a key of Details must be a string, got 1"),  # type: ignore[dict-item]
        (State(StateType.FAILED, "", {"a": "x" * (DETAIL_MAX_CHARACTERS + 1)}), "Details.a has 16385"),
        (State(StateType.FAILED, "", {"x" * (DETAIL_MAX_CHARACTERS + 1): ""}), "a key of Details has 16385"),
        (State(StateType.FAILED, "", {str(n): "" for n in range(DETAILS_MAX_COUNT + 1)}), "Details has 257"),
        (
            State(StateType.FAILED, "", {str(n): "x" * DETAIL_MAX_CHARACTERS for n in range(48)}),
            "the state has 7",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_state_is_checked(ledger: Ledger, state: Any, names: str) -> None:
    """A value that is not a State, or is too large in any part or in total, is refused by name."""
    with pytest.raises(InvalidInput, match=names):
        await ledger.set_state(ID, state)
    assert (await ledger._log.info()).last_sequence == 1


async def test_the_largest_values_are_accepted(log: EventLog) -> None:
    """All texts at their limits go into the log together and come back unchanged."""
    ledger = Ledger(log)
    actor, reason = "é" * ACTOR_MAX_CHARACTERS, "\x00" * REASON_MAX_CHARACTERS
    details = {str(n): "x" * DETAIL_MAX_CHARACTERS for n in range(46)}
    message = "😀" * ((STATE_MAX_BYTES - 46 * (DETAIL_MAX_CHARACTERS + 10)) // 4 - 50)
    state = State(StateType.FAILED, message[:MESSAGE_MAX_CHARACTERS], details)
    await ledger.create(make_spec("etl"), actor=actor, reason=reason, traceparent=TRACE)
    await ledger.set_state(ID, state, actor=actor, reason=reason, traceparent=TRACE)
    assert (await ledger.load(ID)).status.state == state
    assert {(item.actor, item.reason) for item in await full_history(ledger, ID)} == {(actor, reason)}


@pytest.mark.parametrize(
    ("job_id", "namespace", "names"),
    [
        ("", None, "the job id is empty"),
        ("x" * (JOB_ID_MAX_CHARACTERS + 1), None, "job id has 129 characters"),
        (HALF, None, "job id .* surrogate"),
        (None, None, "job id must be a string, got None"),
        (ID, "", "namespace must have 1..255 bytes, got ''"),
        (ID, "x" * (NAMESPACE_MAX_BYTES + 1), "namespace has 256 characters"),
        (ID, "é" * 128, "namespace must have 1..255 bytes, got"),
        (ID, HALF, "namespace .* surrogate"),
        (ID, 5, "namespace must be a string, got 5"),
    ],
)
async def test_the_id_and_the_namespace_are_checked(
    ledger: Ledger, job_id: Any, namespace: Any, names: str
) -> None:
    """Every command and read refuses an id or namespace that no job can have."""
    for command in (
        ledger.update(job_id, make_spec("etl"), namespace=namespace),
        ledger.set_state(job_id, RUNNING, namespace=namespace),
        ledger.stop(job_id, namespace=namespace),
        ledger.load(job_id, namespace=namespace),
        anext(ledger.history(job_id, namespace=namespace)),
    ):
        with pytest.raises(InvalidInput, match=names):
            await command


@pytest.mark.parametrize(
    "job_id", ["*", ">", "j.*", "jobs.>", STRANGE, "😀" * JOB_ID_MAX_CHARACTERS, "..", "%2A"]
)
async def test_special_characters_in_an_id_match_no_other_job(log: EventLog, job_id: str) -> None:
    """Wildcards, dots and escapes in an id or namespace are text."""
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    for namespace in (None, "default", job_id[:40]):
        with pytest.raises(JobNotFound):
            await ledger.load(job_id, namespace=namespace)
        with pytest.raises(JobNotFound):
            await ledger.stop(job_id, namespace=namespace)
    with pytest.raises(JobNotFound):
        await ledger.load(ID, namespace="*")


async def test_special_characters_in_names_are_kept(log: EventLog) -> None:
    """Controls, quotes, dots, wildcards and emoji go through the log unchanged."""
    ledger = Ledger(log)
    receipt = await ledger.create(make_spec("a.b", namespace="n.s*> %é😀"), actor=STRANGE, reason=STRANGE)
    await ledger.set_state(receipt.job_id, State(StateType.FAILED, STRANGE, {STRANGE: STRANGE}))
    status = (await Ledger(log).load(receipt.job_id)).status
    assert (status.namespace, status.name) == ("n.s*> %é😀", "a.b")
    assert status.state == State(StateType.FAILED, STRANGE, {STRANGE: STRANGE})
    assert (await full_history(ledger, receipt.job_id))[0].actor == STRANGE
