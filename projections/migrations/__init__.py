"""The view's schema as ordered SQL files."""

import sqlite3
from importlib.resources import files

from jobledger.projections.database import Writer
from jobledger.projections.errors import ViewFromNewerRelease


def migrations() -> tuple[tuple[int, str, str], ...]:
    """Every migration as (number, name, SQL), in order; the files are named `0001_name.sql`."""
    found = sorted(entry.name for entry in files(__name__).iterdir() if entry.name.endswith(".sql"))
    return tuple(
        (int(name.split("_", 1)[0]), name.removesuffix(".sql"), files(__name__).joinpath(name).read_text())
        for name in found
    )


async def migrate(writer: Writer) -> None:
    """Apply the missing migrations, in one transaction.

    Raises:
        ViewFromNewerRelease: if the file has a migration that this release does not know.
    """
    async with writer.transaction():
        await writer.execute(
            "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"
        )
        done = {
            int(number): name for number, name in await writer.rows("SELECT number, name FROM migrations")
        }
        known = migrations()
        newer = [name for number, name in done.items() if number > known[-1][0]]
        if newer:
            raise ViewFromNewerRelease(
                f"the view {writer.path} has the migration {newer[0]!r} of a newer release; upgrade this"
                " Jobledger, or use another file"
            )
        for number, name, sql in known:
            if number not in done:
                for statement in split_statements(sql):
                    await writer.execute(statement)
                await writer.execute("INSERT INTO migrations (number, name) VALUES (?, ?)", (number, name))


def split_statements(script: str) -> list[str]:
    """The statements of a script; `executescript` would commit the surrounding transaction."""
    statements: list[str] = []
    current = ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current.strip())
            current = ""
    return statements
