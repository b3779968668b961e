"""The recipe of docs/SUBSCRIBE.md: at-least-once delivery, each effect exactly once."""

import asyncio
import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog, Subscriptions
from jobledger.store.model.job import StateType
from tests.support.log_writer import Writer
from tests.support.logs import eventually

PAGE = (Path(__file__).parents[3] / "docs" / "SUBSCRIBE.md").read_text()
JOBS = 400
KILLED_AFTER = (150, 37)
SECONDS = 60.0
KILLER = """
import os, signal, sqlite3

class Killing(sqlite3.Connection):
    effects = 0

    def execute(self, sql, *values):
        if sql.startswith("INSERT INTO bill"):
            self.effects += 1
            if self.effects == int(os.environ.get("KILL_AT", 0)):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(sql, *values)

_connect = sqlite3.connect
sqlite3.connect = lambda path: _connect(path, factory=Killing)
"""


def recipe() -> str:
    """The program of the page."""
    section = PAGE.partition("\n## Exactly once\n")[2].partition("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return str(program)


def runs(database: Path) -> dict[str, int]:
    """The effects: the bills per job."""
    with closing(sqlite3.connect(database, timeout=SECONDS)) as connection:
        return dict(connection.execute("SELECT job_id, runs FROM bill"))


async def killed_between(program: Path, env: dict[str, str], effects: int) -> None:
    """Run the program until `kill -9` after this many effects, between the two statements of one event."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, env={**env, "KILL_AT": str(effects)}
    )
    try:
        assert await asyncio.wait_for(process.wait(), SECONDS) == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.slow
async def test_effects_are_exactly_once_whenever_the_process_is_killed(
    server: EmbeddedServer, jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """Killed repeatedly between position and effect, the program bills each job once."""
    writer = Writer(jetstream_log, JOBS, states=(StateType.COMPLETED,))
    for _ in range(2):
        await writer.round()
    program, database = tmp_path / "recipe.py", tmp_path / "effects.db"
    program.write_text(KILLER + recipe())
    env = {**os.environ, "NATS_URL": server.url, "DATABASE": str(database)}
    for effects in KILLED_AFTER:
        await killed_between(program, env, effects)
        assert 0 < len(runs(database)) < JOBS
    process = await asyncio.create_subprocess_exec(sys.executable, program, env=env)
    try:
        await eventually(lambda: len(runs(database)) == JOBS, within_seconds=SECONDS)
        subscriptions = Subscriptions(jetstream_log)

        async def is_done() -> bool:  # repeats come before that
            return (await subscriptions.show("bills")).gap == 0

        await eventually(is_done, within_seconds=SECONDS)
    finally:
        process.kill()
        await process.wait()
    assert runs(database) == dict.fromkeys(writer.of_job, 1)


def test_a_repeated_event_has_no_effect(tmp_path: Path) -> None:
    """The statement finds an event new once, whatever the positions of other jobs are."""
    names: dict[str, str] = {}
    exec(recipe().partition("\n\ndef ")[0], names)
    with closing(sqlite3.connect(tmp_path / "effects.db")) as database:
        database.executescript(names["SCHEMA"])
        seen = [("a", 5), ("a", 5), ("b", 3), ("a", 7), ("b", 3), ("a", 5), ("b", 9)]
        assert [database.execute(names["IS_NEW"], each).rowcount for each in seen] == [1, 0, 1, 1, 0, 0, 1]
