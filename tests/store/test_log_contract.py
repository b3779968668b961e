"""Both adapters of `EventLog` pass the contract; JetStream also with other connections and raw writers."""

import asyncio

import pytest
from hypothesis import given, strategies as st
from nats.aio.client import Client

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.jetstream.connection import Headers
from jobledger.store.log import NO_JOB, Appended, EventLog, PendingEvent, WrongSequence
from jobledger.store.model.errors import LogRefused
from jobledger.store.model.subjects import job_subject, job_subject_anywhere
from tests.support.log_contract import LogContract
from tests.support.logs import append_all, draft, publish_raw, whole

pytestmark = pytest.mark.usefixtures("both_paths", "quick_proof")


class TestLogContract(LogContract):
    """Both adapters, through the fixture `log`."""


async def test_repeat_over_another_connection_gets_the_first_result(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """A restarted process that repeats an append gets the first result."""
    event = draft()
    assert await jetstream_log.append(event, expect=NO_JOB) == Appended(1)
    await jetstream_log.append(draft(), expect=1)
    other = await JetStreamLog.connect(server.url)
    assert await other.append(event, expect=NO_JOB) == Appended(1)
    assert await other.append(draft(), expect=NO_JOB) == WrongSequence(2)
    await other.close()


async def test_one_writer_of_many_connections_wins(server: EmbeddedServer) -> None:
    """One of the processes that create a job at once succeeds."""
    logs = [await JetStreamLog.connect(server.url) for _ in range(5)]
    events = [draft() for _ in range(20)]
    answers = await asyncio.gather(
        *(logs[number % 5].append(event, expect=NO_JOB) for number, event in enumerate(events))
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["Appended"] + ["WrongSequence"] * 19
    for log in logs:
        await log.close()


async def test_stored_header_is_never_taken_for_that_of_the_server(jetstream_log: JetStreamLog) -> None:
    """Headers of a writer can't change the status, sequence, subject or time that a reader sees."""
    subject = job_subject("default", "job")
    await publish_raw(
        jetstream_log,
        subject,
        b"content",
        Status="404",
        Nats_Sequence="99",
        Nats_Subject="jobs.other.00.job",
        Nats_Time_Stamp="yesterday",
        Nats_Pending_Messages="7",
    )
    (record,) = await jetstream_log.read(subject)
    assert (record.sequence, record.subject, record.payload) == (1, subject, b"content")
    assert [record] == await whole(jetstream_log) == [await jetstream_log.read_last(subject)]


async def test_subject_that_is_not_utf8_does_not_hang_a_reader(jetstream_log: JetStreamLog) -> None:
    """A message on a subject of arbitrary bytes is skipped."""
    client = jetstream_log._connection._client
    await client._send_command(b"PUB jobs.\xff\xfe.00.x 2\r\nhi\r\n")
    await jetstream_log.append(draft(), expect=NO_JOB)
    assert [record.payload for record in await whole(jetstream_log)] == [b"hi", b"{}"]


@pytest.mark.parametrize("subject", ["jobs.a b.00.x", "jobs.a\r\nPUB x 0\r\n.00.x", "", "jobs.é.00.x"])
async def test_subject_that_could_break_the_protocol_is_refused(
    jetstream_log: JetStreamLog, subject: str
) -> None:
    """Only that event is refused; others and the connection are unaffected."""
    event = draft()
    bad = type(event)(subject, event.event_id, b"{}")
    answers = await append_all(jetstream_log, [draft("a"), bad, draft("b")])
    assert isinstance(answers[1], LogRefused)
    assert [answers[0], answers[2]] == [Appended(1), Appended(2)]


_names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).filter(lambda name: name != "Status")
_values = st.from_regex(r"[!-~]([ -~é🦜]{0,20}[!-~])?", fullmatch=True)


@given(
    headers=st.dictionaries(_names, _values, max_size=6),
    status=st.sampled_from(["", "100 Idle Heartbeat", "404", "503", "409 Message Size Exceeds MaxBytes"]),
)
async def test_lazy_headers_equal_the_librarys(headers: dict[str, str], status: str) -> None:
    """Headers that are parsed on access equal those that the client library parses."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    raw = f"NATS/1.0{' ' if status else ''}{status}\r\n{lines}\r\n".encode()
    expected = await Client()._process_headers(raw)
    ours = dict(Headers(raw))
    described = " " in status
    if described:
        assert ours == expected
    else:  # without a description, the library uses the first header
        assert ours | {"Description": ""} == (expected or {}) | {"Description": ""}


async def test_a_filter_reads_all_its_subjects_in_the_order_of_the_stream(log: EventLog) -> None:
    """A page of a filter has the records of every matching subject in stream order, and no others."""
    for number, namespace in enumerate(("a", "b", "a", "c")):
        subject = job_subject(namespace, "wanted")
        last = await log.read_last(subject)
        item = PendingEvent(subject, f"event-{number}", b"x")
        assert isinstance(await log.append(item, expect=last.sequence if last else NO_JOB), Appended)
    await log.append(PendingEvent(job_subject("a", "other"), "event-9", b"x"), expect=NO_JOB)
    found = await log.read(job_subject_anywhere("wanted"), after=1, up_to=4)
    assert [(record.sequence, record.subject) for record in found] == [
        (2, job_subject("b", "wanted")),
        (3, job_subject("a", "wanted")),
        (4, job_subject("c", "wanted")),
    ]
