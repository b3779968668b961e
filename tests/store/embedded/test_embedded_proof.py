"""The decision whether a start lost something, from files and numbers, with every possible torn write."""

import pytest

from jobledger.store.embedded.proof import (
    Block,
    Damage,
    Inventory,
    Known,
    Range,
    State,
    StreamFiles,
    find_damage,
    ranges_of,
    without,
)
from jobledger.store.nats_files.blocks import (
    CHECKSUM,
    HAS_HEADERS,
    HEAD,
    block_key,
    is_sound,
    mark_of_sequence,
    most_expiring,
    record_at,
    records,
    sound_records,
    tail_after,
)
from jobledger.store.nats_files.highwayhash import highwayhash64

KEY = block_key("JOBS", 1)
FOLDER = "$G/streams/JOBS"


def encode(sequence: int, payload: bytes = b"payload of an event", *, headers: bytes = b"") -> bytes:
    """A record as nats-server writes it."""
    subject = b"jobs.default.00.j-1"
    size = HEAD.size + len(subject) + len(payload) + CHECKSUM.size + (4 + len(headers) if headers else 0)
    head = HEAD.pack(size | (HAS_HEADERS if headers else 0), sequence, 1_700_000_000, len(subject))
    counted = len(headers).to_bytes(4, "little") + headers if headers else b""
    checksum = highwayhash64(KEY, head[4:20] + subject + headers + payload)
    return head + subject + counted + payload + CHECKSUM.pack(checksum)


def stream(*blocks: Block, last: int = 30, keeps_all: bool = True) -> StreamFiles:
    """The files of a stream."""
    return StreamFiles(FOLDER, "JOBS", "then", keeps_all, 1, blocks, last)


THREE = (Block(1, 100, 11, 1), Block(2, 100, 12, 11), Block(3, 100, 13, 21))


def judge(
    files: StreamFiles, state: State | None, known: Known | None = None, **sizes: int | None
) -> tuple[Damage, ...]:
    """The damage of one stream; `sizes` are those of blocks after the start, None for a missing one."""

    def size(_: StreamFiles, number: int) -> tuple[int, int] | None:
        now = sizes.get(f"block_{number}", 100)
        return None if now is None else (10 + number, now)

    states = {FOLDER: state} if state else {}
    return find_damage(Inventory((files,)), states, {FOLDER: known} if known else {}, size, lambda *_: None)


@pytest.mark.parametrize("headers", [b"", b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n"])
def test_a_record_is_read_as_it_was_written(headers: bytes) -> None:
    """Lengths, sequence and checksum, with and without headers."""
    block = encode(1, headers=headers) + encode(2)
    assert [each.sequence for each in records(block)] == [1, 2]
    assert all(is_sound(block, each, KEY) for each in records(block))


def test_every_prefix_of_a_record_is_a_torn_write() -> None:
    """A write may be interrupted at any byte."""
    whole, last = encode(1) + encode(2), encode(3)
    for left in range(1, len(last)):
        tail = tail_after(whole + last[:left], 2, KEY)
        assert tail is not None, left
        assert (tail.offset, tail.is_torn) == (len(whole), True), left
    assert tail_after(whole + last, 3, KEY) is None


def test_flipped_bit_of_a_complete_record_is_not_a_torn_write() -> None:
    """The write of a complete record was not interrupted, so it counts as acknowledged."""
    whole, last = encode(1) + encode(2), encode(3)
    for at in range(len(last)):
        for bit in range(8):
            damaged = bytearray(last)
            damaged[at] ^= 1 << bit
            if bytes(damaged[:4]) != last[:4] and record_at(bytes(damaged), 0) is not None:
                continue  # a shorter length; the rest is checked below
            tail = tail_after(whole + damaged, 2, KEY)
            assert tail is not None
            assert not tail.is_torn, (at, bit)


def test_sectors_of_zeros_are_a_torn_write() -> None:
    """After a power loss the file may have its new length while its sectors were never written."""
    whole = encode(1, b"x" * 480)
    for torn in (encode(2, b"y" * 3_000)[:512] + bytes(2_500), bytes(4_096)):
        tail = tail_after(whole + torn, 1, KEY)
        assert tail is not None
        assert tail.is_torn


def test_records_around_damage_are_found() -> None:
    """Damage in any part of a record loses only that record."""
    parts = [encode(number) for number in range(1, 6)]
    for at in range(len(parts[2])):
        damaged = bytearray(parts[2])
        damaged[at] ^= 0x20
        block = b"".join((*parts[:2], damaged, *parts[3:]))
        assert [each.sequence for each in sound_records(block, KEY)] == [1, 2, 4, 5], at


def test_mark_is_not_an_event() -> None:
    """It moves the last sequence, and has no message."""
    block = encode(1) + mark_of_sequence(9, 0, KEY)
    first, mark = records(block)
    assert (first.is_event, mark.is_event) == (True, False)
    assert is_sound(block, mark, KEY)


def test_a_start_that_lost_nothing_has_no_damage() -> None:
    """All messages, from first to last."""
    assert judge(stream(*THREE), State("then", 1, 30, 30), Known("then", 30)) == ()


def test_truncated_block_is_reported_with_its_sequences() -> None:
    """The byte, and the sequences that the server gave up."""
    state = State("then", 1, 30, 26, (Range(17, 20),))
    (found,) = judge(stream(*THREE), state, block_2=60)
    assert (found.file, found.offset, found.lost) == (f"{FOLDER}/msgs/2.blk", 60, Range(17, 20))


def test_a_damaged_block_before_a_missing_one_is_named_too() -> None:
    """Otherwise its records after the damage would be given up together with the missing block."""
    files = stream(*THREE, Block(5, 100, 15, 41), last=50)
    state = State("then", 1, 50, 34, (Range(25, 40),))
    cut, gone = judge(files, state, block_3=60)
    assert (cut.file, cut.offset, cut.lost) == (f"{FOLDER}/msgs/3.blk", 60, Range(25, 40))
    assert (gone.file, gone.lost) == (f"{FOLDER}/msgs/4.blk", None)
    (gone,) = judge(files, State("then", 1, 50, 40, (Range(31, 40),)))
    assert (gone.file, gone.lost) == (f"{FOLDER}/msgs/4.blk", Range(31, 40))


def test_messages_that_expire_are_counted() -> None:
    """A compressed block is not decoded: all of it may expire."""
    marker = encode(2, b"", headers=b"NATS/1.0\r\nNats-TTL: 86400s\r\n\r\n")
    assert most_expiring(encode(1) + marker + encode(3, headers=b"NATS/1.0\r\nA: b\r\n\r\n")) == 1
    assert most_expiring(b"cmp" + bytes(20)) > 20


def test_accepted_hole_is_not_damage() -> None:
    """A part of it that was not accepted is damage."""
    state = State("then", 1, 30, 26, (Range(17, 20),))
    assert judge(stream(*THREE), state, Known("then", 30, (Range(15, 25),))) == ()
    (found,) = judge(stream(*THREE), state, Known("then", 30, (Range(17, 18),)))
    assert found.lost == Range(19, 20)


def test_an_end_before_what_is_known_is_damage() -> None:
    """A view or an earlier run may know a later sequence."""
    (found,) = judge(stream(*THREE), State("then", 1, 28, 28), Known("then", 30))
    assert found.lost == Range(29, 30)


def test_facts_about_another_stream_do_not_count() -> None:
    """A stream that was created again, by an explicit command, begins at 1."""
    assert judge(stream(Block(1, 100, 11, 1), last=3), State("now", 1, 3, 3), Known("then", 30)) == ()


def test_a_missing_stream_is_damage() -> None:
    """All of its sequences are lost."""
    (found,) = judge(stream(*THREE), None)
    assert found.lost == Range(1, 30)
    assert not found.in_pieces


def test_stream_that_may_delete_is_checked_by_its_blocks_only() -> None:
    """Its holes are not damage; a block truncated in place is."""
    files, state = stream(*THREE, keeps_all=False), State("then", 12, 30, 4, (Range(13, 20),))
    assert judge(files, state, block_1=None) == ()
    (found,) = judge(files, state, block_1=None, block_2=60)
    assert found.file == f"{FOLDER}/msgs/2.blk"


def test_ranges_are_joined_and_subtracted() -> None:
    """Neighbors become one range; an accepted range may be in the middle of another one."""
    assert ranges_of([1, 2, 3, 7, 9, 10]) == (Range(1, 3), Range(7, 7), Range(9, 10))
    assert without([Range(1, 10)], [Range(4, 5), Range(9, 20)]) == [Range(1, 3), Range(6, 8)]
