"""The contract of `EventLog`: every adapter passes these tests unchanged."""

import asyncio

import pytest

from jobledger.store.log import NO_JOB, Appended, EventLog, WrongSequence
from jobledger.store.model.errors import LogReplaced, LogTruncated, LogUnavailable
from jobledger.store.model.limits import READ_PAGE_EVENTS
from jobledger.store.model.subjects import job_subject, job_subject_anywhere, parse_subject
from tests.support.logs import append_all, decided, draft, force_batches, whole

NAMESPACES = [
    "default",
    "a.b",
    "*",
    ">",
    "with space",
    "100%",
    "%2E",
    "emoji 🦜",
    "tab\tnew\nline",
    "é",
    "$SYS",
]


class AppendContract:
    """The results of `append`."""

    async def test_first_append_gets_sequence_1(self, log: EventLog) -> None:
        """The first event of a log has the sequence 1, and the log ends there."""
        assert await log.append(draft(), expect=NO_JOB) == Appended(1)
        assert (await log.info()).last_sequence == 1

    async def test_following_append_names_the_sequence_it_read(self, log: EventLog) -> None:
        """An append that expects the job's last sequence is accepted, whatever other jobs did since."""
        await log.append(draft("one"), expect=NO_JOB)
        await log.append(draft("two"), expect=NO_JOB)
        assert await log.append(draft("one"), expect=1) == Appended(3)

    async def test_lost_carries_the_last_sequence_of_the_job(self, log: EventLog) -> None:
        """The loser of a race gets the sequence to read up to, and its event is not in the log."""
        await log.append(draft("one"), expect=NO_JOB)
        await log.append(draft("two"), expect=NO_JOB)
        await log.append(draft("one"), expect=1)
        assert await log.append(draft("one"), expect=1) == WrongSequence(3)
        assert await log.append(draft("one"), expect=NO_JOB) == WrongSequence(3)
        assert (await log.info()).last_sequence == 3

    async def test_expecting_what_is_not_there_yet_is_lost(self, log: EventLog) -> None:
        """An expectation beyond the job's last event is rejected like one before it."""
        assert await log.append(draft(), expect=7) == WrongSequence(0)
        assert (await log.info()).last_sequence == 0

    async def test_same_draft_again_gets_the_first_answer(self, log: EventLog) -> None:
        """Repeating an append after a lost response writes nothing and returns the first result."""
        event = draft()
        first = await log.append(event, expect=NO_JOB)
        assert await log.append(event, expect=NO_JOB) == first == Appended(1)
        assert (await log.info()).last_sequence == 1

    async def test_same_draft_again_gets_the_first_answer_after_others_followed(self, log: EventLog) -> None:
        """The first result stays the same after later events of other writers."""
        event = draft()
        await log.append(event, expect=NO_JOB)
        await log.append(draft(), expect=1)
        await log.append(draft("other"), expect=NO_JOB)
        await log.append(draft(), expect=2)
        assert await log.append(event, expect=NO_JOB) == Appended(1)
        assert (await log.info()).last_sequence == 4

    async def test_event_id_is_never_written_twice(self, log: EventLog) -> None:
        """An existing event is not written again, even by a writer that expects it as the last."""
        event = draft()
        await log.append(event, expect=NO_JOB)
        assert await log.append(event, expect=1) == Appended(1)
        assert (await log.info()).last_sequence == 1

    async def test_one_of_many_first_appends_wins(self, log: EventLog) -> None:
        """Of concurrent creators of a job exactly one wins; the others get its sequence."""
        answers = await append_all(log, [draft() for _ in range(30)])
        assert sorted(map(repr, answers)) == [repr(Appended(1))] + [repr(WrongSequence(1))] * 29
        assert (await log.info()).last_sequence == 1

    async def test_two_events_of_one_job_may_wait_at_once(self, log: EventLog) -> None:
        """Of two queued events of a job one is accepted and one rejected; other jobs are not affected."""
        force_batches(log)
        answers = await append_all(log, [draft("a"), draft("b"), draft("a"), draft("c"), draft("b")])
        assert [type(answer) for answer in answers] == [
            Appended,
            Appended,
            WrongSequence,
            Appended,
            WrongSequence,
        ]
        records = {record.sequence: record.subject for record in await whole(log)}
        for job, answer in zip("abc", [answers[0], answers[1], answers[3]], strict=True):
            assert isinstance(answer, Appended)
            assert records[answer.sequence] == job_subject("default", job)
        assert answers[2:5:2] == [
            WrongSequence(answer.sequence) for answer in answers[:2] if isinstance(answer, Appended)
        ]

    async def test_each_of_a_group_gets_its_own_answer(self, log: EventLog) -> None:
        """Each of many concurrent appends gets its own result, also when some conflict."""
        force_batches(log)
        taken = await append_all(log, [draft(f"job-{number}") for number in range(0, 60, 3)])
        assert all(isinstance(answer, Appended) for answer in taken)
        drafts = [draft(f"job-{number}", b"%d" % number) for number in range(60)]
        answers = await append_all(log, drafts)
        records = {record.sequence: record for record in await whole(log)}
        assert len(records) == 60
        for number, (event, answer) in enumerate(zip(drafts, answers, strict=True)):
            if number % 3 == 0:
                assert answer == WrongSequence(taken[number // 3].sequence)  # type: ignore[union-attr]
            else:
                assert isinstance(answer, Appended)
                assert records[answer.sequence].payload == event.payload

    @pytest.mark.parametrize("batches", [False, True])
    async def test_cancelled_before_sending_harms_no_other(self, log: EventLog, batches: bool) -> None:
        """A caller cancelled while its event is queued does not affect the results of others."""
        if batches:
            force_batches(log)
        tasks = [asyncio.create_task(log.append(draft(f"job-{n}"), expect=NO_JOB)) for n in range(40)]
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
        assert all(isinstance(answer, Appended) for answer in answers[1::2])
        assert isinstance(await log.append(draft("after"), expect=NO_JOB), Appended)

    @pytest.mark.parametrize("batches", [False, True])
    async def test_cancelled_under_way_harms_no_other(self, log: EventLog, batches: bool) -> None:
        """A caller cancelled while its event is in flight does not affect the results of others."""
        if batches:
            force_batches(log)
        tasks = [asyncio.create_task(log.append(draft(f"job-{n}"), expect=NO_JOB)) for n in range(40)]
        for _ in range(3):  # turns of the event loop: enough to send, too few for all results
            await asyncio.sleep(0)
        cancelled = [task for task in tasks[::2] if task.cancel()]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        others = [answer for task, answer in zip(tasks, answers, strict=True) if task not in cancelled]
        assert len(others) >= 20
        assert all(isinstance(answer, Appended) for answer in others)
        assert len({answer.sequence for answer in others if isinstance(answer, Appended)}) == len(others)


class ReadContract:
    """The results of the readers."""

    async def test_read_pages_to_the_end(self, log: EventLog) -> None:
        """A long history is returned in pages, oldest first; reading after the last one returns nothing."""
        total = READ_PAGE_EVENTS + 20
        for number in range(total):
            assert await log.append(draft(payload=b"%d" % number), expect=number) == Appended(number + 1)
        first = await log.read(job_subject("default", "job"))
        second = await log.read(job_subject("default", "job"), after=first[-1].sequence)
        assert len(first) == READ_PAGE_EVENTS
        assert [record.payload for record in (*first, *second)] == [b"%d" % number for number in range(total)]
        assert not await log.read(job_subject("default", "job"), after=total)

    async def test_read_keeps_to_its_bounds(self, log: EventLog) -> None:
        """`after` is exclusive, `up_to` inclusive; events of other jobs are never returned."""
        for expect in (0, 1, 3, 5):
            await log.append(draft(), expect=expect)
            await log.append(draft(f"other-{expect}"), expect=NO_JOB)
        subject = job_subject("default", "job")

        async def sequences(**bounds: int) -> list[int]:
            return [record.sequence for record in await log.read(subject, **bounds)]

        assert await sequences() == [1, 3, 5, 7]
        assert await sequences(after=1) == [3, 5, 7]
        assert await sequences(after=2, up_to=5) == [3, 5]
        assert await sequences(up_to=6) == [1, 3, 5]
        assert await sequences(after=5, up_to=5) == []
        assert await sequences(after=99) == []

    async def test_unknown_job_has_nothing(self, log: EventLog) -> None:
        """An unknown job has no records and no last record, in an empty log and in another."""
        for _ in range(2):
            assert list(await log.read(job_subject("default", "nobody"))) == []
            assert await log.read_last(job_subject("default", "nobody")) is None
            assert await log.read_last(job_subject_anywhere("nobody")) is None
            await log.append(draft(), expect=0)

    async def test_read_last_finds_a_job_in_whichever_namespace(self, log: EventLog) -> None:
        """The filter for a job in any namespace returns its last record, and never that of another job."""
        await log.append(draft("wanted", b"1", namespace="some.where"), expect=NO_JOB)
        await log.append(draft("other", namespace="some.where"), expect=NO_JOB)
        await log.append(draft("wanted", b"2", namespace="some.where"), expect=1)
        await log.append(draft("other"), expect=NO_JOB)
        found = await log.read_last(job_subject_anywhere("wanted"))
        assert found is not None
        assert (found.sequence, found.payload) == (3, b"2")
        assert parse_subject(found.subject) == ("some.where", "wanted")

    async def test_info_tells_the_bounds(self, log: EventLog) -> None:
        """A log starts at 1, ends at its last record, and keeps its epoch."""
        empty = await log.info()
        assert (empty.first_sequence, empty.last_sequence) == (1, 0)
        await log.append(draft("a"), expect=NO_JOB)
        await log.append(draft("b"), expect=NO_JOB)
        info = await log.info()
        assert (info.first_sequence, info.last_sequence) == (1, 2)
        assert info.epoch == empty.epoch

    async def test_record_is_the_same_whichever_way_it_is_read(self, log: EventLog) -> None:
        """A page, the last record and the reader agree on every field, including nanoseconds."""
        for number in range(20):
            await log.append(draft(f"job-{number}", b"\x00\xff bytes", namespace="näme.space"), expect=NO_JOB)
        for record in await whole(log):
            assert await log.read_last(record.subject) == record
            assert list(await log.read(record.subject)) == [record]
            assert record.payload == b"\x00\xff bytes"

    @pytest.mark.parametrize("namespace", NAMESPACES)
    async def test_any_namespace_is_one_of_its_own(self, log: EventLog, namespace: str) -> None:
        """A namespace of any characters is one token, and is returned unchanged."""
        other = draft("job", b"other", namespace="default2")
        event = draft("job", b"its", namespace=namespace)
        assert await log.append(other, expect=NO_JOB) == Appended(1)
        assert await log.append(event, expect=NO_JOB) == Appended(2)
        (record,) = await log.read(event.subject)
        assert parse_subject(record.subject) == (namespace, "job")
        assert await log.read_last(event.subject) == record
        assert (await whole(log))[-1] == record


class FollowContract:
    """The records of a log reader."""

    async def test_feed_begins_where_it_was_told(self, log: EventLog) -> None:
        """A reader delivers the records after its start, in order, and none before it."""
        await append_all(log, [draft(f"job-{number}") for number in range(10)])
        for after in (0, 4, 9):
            feed = await log.follow(after=after)
            records = [record.sequence for record in await feed.take(100)]
            while len(records) < 10 - after:
                records += [record.sequence for record in await feed.take(100)]
            assert records == list(range(after + 1, 11))
            await feed.close()

    async def test_feed_delivers_what_arrives(self, log: EventLog) -> None:
        """A reader at the end of the log waits, and delivers each event once it is appended."""
        await log.append(draft("before"), expect=NO_JOB)
        feed = await log.follow(after=1)
        waiting = asyncio.create_task(feed.take(10))
        await asyncio.sleep(0)
        assert not waiting.done()
        for number in range(5):
            await log.append(draft(f"job-{number}"), expect=NO_JOB)
            records = await waiting
            assert [record.sequence for record in records] == [number + 2]
            waiting = asyncio.create_task(feed.take(10))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await log.append(draft("after"), expect=NO_JOB)
        assert [record.sequence for record in await feed.take(10)] == [7]
        assert feed.connected
        await feed.close()

    async def test_take_keeps_to_its_most(self, log: EventLog) -> None:
        """A reader returns at most the requested number of records, and loses none between two calls."""
        await append_all(log, [draft(f"job-{number}") for number in range(25)])
        feed = await log.follow(after=0)
        seen: list[int] = []
        while len(seen) < 25:
            records = await feed.take(4)
            assert 1 <= len(records) <= 4
            seen += [record.sequence for record in records]
        assert seen == list(range(1, 26))
        await feed.close()

    async def test_two_feeds_read_for_themselves(self, log: EventLog) -> None:
        """Each reader has its own position, and does not affect others."""
        await append_all(log, [draft(f"job-{number}") for number in range(6)])
        one, two = await log.follow(after=0), await log.follow(after=3)
        assert (await one.take(1))[0].sequence == 1
        assert (await two.take(1))[0].sequence == 4
        assert (await one.take(1))[0].sequence == 2
        await one.close()
        await one.close()
        assert (await two.take(1))[0].sequence == 5
        await two.close()

    async def test_feed_beyond_the_end_is_refused(self, log: EventLog) -> None:
        """A log that ends before the start position has lost events: LogTruncated, not a silent wait."""
        await log.append(draft(), expect=NO_JOB)
        with pytest.raises(LogTruncated, match="ends at 1, and 2 was read"):
            await decided(lambda: log.follow(after=2))

    async def test_feed_of_another_epoch_is_refused(self, log: EventLog) -> None:
        """A different log is refused, even if the position exists in it."""
        await log.append(draft(), expect=NO_JOB)
        epoch = (await log.info()).epoch
        await (await log.follow(after=1, epoch=epoch)).close()
        with pytest.raises(LogReplaced, match="created again"):
            await log.follow(after=1, epoch="another")


class CloseContract:
    """The behavior of a closed log."""

    async def test_closed_log_says_so(self, log: EventLog) -> None:
        """Every call on a closed log is LogUnavailable at once, and closing again has no effect."""
        await log.append(draft(), expect=NO_JOB)
        feed = await log.follow(after=1)
        await log.close()
        for asked in (
            log.append(draft("b"), expect=NO_JOB),
            log.read(job_subject("default", "job")),
            log.read_last(job_subject("default", "job")),
            log.info(),
            log.follow(after=0),
            feed.take(1),
        ):
            with pytest.raises(LogUnavailable, match="closed"):
                async with asyncio.timeout(1):
                    await asked
        await feed.close()
        await log.close()

    async def test_feed_that_waits_is_told_of_the_close(self, log: EventLog) -> None:
        """A waiting reader is released when the log is closed."""
        feed = await log.follow(after=0)
        waiting = asyncio.create_task(feed.take(1))
        await asyncio.sleep(0)
        await log.close()
        async with asyncio.timeout(1):
            with pytest.raises(LogUnavailable, match="closed"):
                await waiting

    async def test_close_answers_what_is_under_way(self, log: EventLog) -> None:
        """An append before the close gets its result, not an error."""
        force_batches(log)
        tasks = [asyncio.create_task(log.append(draft(f"job-{n}"), expect=NO_JOB)) for n in range(100)]
        await asyncio.sleep(0)
        await log.close()
        assert {answer.sequence for answer in await asyncio.gather(*tasks)} == set(range(1, 101))


class LogContract(AppendContract, ReadContract, FollowContract, CloseContract):
    """The complete contract."""
