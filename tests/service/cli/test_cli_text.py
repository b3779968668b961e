"""Printed text: text of others is escaped, tables keep their shape."""

import json
from datetime import UTC, datetime

import click
import pytest
import yaml

from jobledger.projections.subscriptions.filters import parse_types
from jobledger.service.cli.diff import changed_paths
from jobledger.service.cli.job_list import jobs_table, short_ids
from jobledger.service.cli.options import EVENT_WORDS, STATES, TYPES, event_word
from jobledger.service.cli.output import to_json, to_yaml
from jobledger.service.cli.text import (
    STATE_STYLES,
    Cell,
    Column,
    cut,
    fitted,
    plain,
    plain_lines,
    print_table,
)
from jobledger.service.cli.times import Duration, Moment, age, exact, seconds_of
from jobledger.service.client.responses import JobResponse, read_response
from jobledger.store.model.events import EVENT_TYPES, event_type
from jobledger.store.model.job import StateType
from jobledger.store.model.subjects import named_job_id
from jobledger.store.spec.spec import JOB_TYPES

SECOND = 1_000_000_000
EVIL = "a\x1b[31mb\x07\u202ec\x9bd\ne"


def test_constants_match_those_of_the_store() -> None:
    """They are repeated for a fast start."""
    assert tuple(StateType) == STATES == tuple(STATE_STYLES)
    assert TYPES == JOB_TYPES
    full = tuple(map(event_type, EVENT_TYPES))
    assert tuple(map(event_word, full)) == EVENT_WORDS
    assert parse_types(EVENT_WORDS) == full
    assert event_word("jobledger.job.paused.v1") == "jobledger.job.paused.v1"


def test_control_characters_are_escaped() -> None:
    """Escapes, bells, C1 controls and direction marks; other scripts are unchanged."""
    assert plain(EVIL) == r"a\x1b[31mb\x07\u202ec\x9bd\ne"
    assert plain("naïve 日本語") == "naïve 日本語"
    assert plain_lines("a\tb\n\x1bc") == "a   b\n\\x1bc"


@pytest.mark.parametrize("compact", [True, False])
def test_json_and_yaml_carry_the_same_value_without_raw_controls(compact: bool) -> None:
    """Escaping changes no value."""
    value = {"Name": EVIL + "日本", "N": 1795376182909157664}
    for text, back in ((to_json(value, compact=compact), json.loads), (to_yaml(value), yaml.safe_load)):
        assert text.replace("\n", "").isprintable()
        assert back(text) == value


def test_yaml_keeps_other_scripts_readable() -> None:
    """Printable text is not escaped, and keys keep their order."""
    assert to_yaml({"b": "日本", "a": 1}) == "b: 日本\na: 1\n"


def test_off_a_terminal_a_table_has_whole_values_in_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """No colors, no shortening, no trailing space; wide characters count double."""
    print_table(
        [Column("Name", flexible=True), Column("N", right=True), Column("State")],
        [("x" * 100, "1", Cell("Failed", "red")), ("日本", "12", "\x1b[0m")],
    )
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "Name" + " " * 96 + "   N  State"
    assert first == "x" * 100 + "   1  Failed"
    assert second == "日本" + " " * 96 + "  12  \\x1b[0m"


def test_narrow_terminal_gets_short_headings_then_fewer_columns() -> None:
    """Values are never cut in fixed columns: columns are omitted in their order instead."""
    columns = [
        Column("ID"),
        Column("Name", flexible=True),
        Column("Version", short="Ver", leaves=2),
        Column("Type", leaves=1),
    ]
    rows = [[Cell("j-12345678"), Cell("n" * 50), Cell("1"), Cell("service")]]

    def heads(width: int) -> list[str]:
        kept, kept_rows = fitted(columns, rows, width)
        assert all(len(row) == len(kept) for row in kept_rows)
        return [column.name for column in kept]

    assert heads(80) == ["ID", "Name", "Version", "Type"]
    assert heads(79) == ["ID", "Name", "Ver", "Type"]
    assert heads(38) == ["ID", "Name", "Ver", "Type"]
    assert heads(30) == ["ID", "Name", "Ver"]
    assert heads(10) == ["ID", "Name"]


@pytest.mark.parametrize(("width", "name_width"), [(80, 20), (64, 20), (50, 22)])
def test_long_names_use_the_width_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, name_width: int
) -> None:
    """Long name and long namespace: at least 20 characters if there is space, and no unused column."""
    wire = {"Name": "n" * 60, "Namespace": "s" * 40, "Type": "service", "Version": 1, "Revision": 2}
    wire |= {"CreateTime": 0, "ModifyTime": 0}
    more = {"ID": named_job_id("default", "a"), "State": {"StateType": "Completed"}, "Count": 1}
    other = {**wire, **more, "Name": "b", "Namespace": "x", "ID": named_job_id("default", "b")}
    jobs = [read_response(job, JobResponse) for job in ({**wire, **more}, other)]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(*jobs_table(jobs, 0))
    lines = [line.rstrip() for line in click.unstyle(capsys.readouterr().out).splitlines()]
    assert max(map(len, lines)) == width, lines
    assert lines[1].count("n") + 1 == name_width, lines
    assert ("Type" in lines[0], "Rev" in lines[0]) == (width == 80, width == 80)


def test_text_is_cut_to_terminal_columns() -> None:
    """Wide characters count double; text that fits is unchanged."""
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert cut("日本語", 4) == "日…"
    assert cut("abc", 0) == cut("abc", -9) == ""


def test_short_ids_are_unique_within_a_table() -> None:
    """Eight digits of a hash, more of an ID that begins with the time, all digits of equal prefixes."""
    named = [named_job_id("default", name) for name in "ab"]
    timed = "j-01a204c5-b67f-730e-9b72-0f4697af03f7"
    twins = ["j-11111111-0000-5000-8000-000000000001", "j-11111111-0000-5000-8000-000000000002"]
    short = short_ids([*named, timed, *twins])
    assert [short[job_id] for job_id in named] == [job_id[:10] for job_id in named]
    assert short[timed] == "j-01a204c5-b67f-730e"
    assert [short[job_id] for job_id in twins] == twins
    assert all(job_id.startswith(beginning) for job_id, beginning in short.items())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (172_800, "2d"), (63_072_000, "2y")],
)
def test_ages_are_one_number_and_one_unit(seconds: int, text: str) -> None:
    """At each limit the larger unit is used."""
    assert age(0, seconds * SECOND) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("5m", 300), ("1h30m", 5_400), ("500ms", 0.5), ("2d", 172_800), ("", None), ("5x", None)],
)
def test_durations_are_read_with_units(text: str, seconds: float | None) -> None:
    """A bare number is seconds."""
    assert seconds_of(text) == seconds


def test_times_are_dates_ages_or_nanoseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 3339, a local date, an age counted back from now, and Unix nanoseconds."""
    monkeypatch.setattr("time.time_ns", lambda: 10_000 * SECOND)
    moment = Moment()
    assert moment.convert("1970-01-01T01:00:00Z", None, None) == 3_600 * SECOND
    assert moment.convert("1h", None, None) == 6_400 * SECOND
    assert moment.convert("1795376182909157664", None, None) == 1795376182909157664
    assert moment.convert("2026-01-31", None, None) == datetime(2026, 1, 31).astimezone().timestamp() * SECOND
    for kind, wrong in ((moment, "5"), (moment, "soon"), (Duration(), "soon")):
        with pytest.raises(click.BadParameter):
            kind.convert(wrong, None, None)
    assert exact(0) == datetime.fromtimestamp(0, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def test_changes_of_a_version_are_shown_as_paths() -> None:
    """Only the spec counts; a changed type is a change."""
    old = {"Version": 1, "Labels": {"a": "1"}, "Tasks": [{"Name": "m", "Params": {"n": 1}}]}
    new = {"Version": 2, "Labels": {"b": "1"}, "Tasks": [{"Name": "m", "Params": {"n": True}}]}
    assert changed_paths(old, new) == "Labels.a, Labels.b, Tasks[0].Params.n"
    assert changed_paths(old, {**old, "Version": 9}) == "nothing (rerun)"
    many = {"Meta": {str(number): "x" for number in range(7)}}
    assert changed_paths({"Meta": {}}, many).endswith("Meta.4 and 2 more")
