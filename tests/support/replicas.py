"""Replicas on one log with idempotency keys, and key stores that fail."""

from collections.abc import Sequence
from typing import Any

import msgspec

from jobledger import JobSpec, Ledger
from jobledger.service.idempotency import Answer, Command, IdempotentWrites, WriteRequest
from jobledger.store.kv import Change, Entry, KeyValue
from jobledger.store.log import EventLog
from tests.conftest import make_spec

REQUEST = WriteRequest(key="k-1", principal="alice", method="PUT", path="/jobs", body=b'{"Job":{}}')


class Crash(BaseException):
    """The simulated process crash."""


class Replica:
    """The ledger and keys of one process; counts the executed commands."""

    def __init__(self, log: EventLog, keys: KeyValue, mark: str = "log") -> None:
        self.ledger = Ledger(log)
        self.writes = IdempotentWrites(keys, mark)
        self.runs = 0

    def apply(self, spec: JobSpec | None = None, **more: Any) -> Command:
        """Return a command that applies a spec, like the handler of `PUT /jobs`."""

        async def command(event_id: str | None) -> Answer:
            self.runs += 1
            receipt = await self.ledger.apply(spec or make_spec("one"), event_id=event_id)
            body = {"JobID": receipt.job_id, "Sequence": receipt.sequence, "Changed": receipt.changed, **more}
            return Answer(
                body=msgspec.Raw(msgspec.json.encode(body)),
                changed=receipt.changed,
                etag=f'"{receipt.revision}"',
            )

        return command


class FragileKeys:
    """A key-value store whose write number `at` fails, before or after it is stored."""

    def __init__(self, keys: KeyValue, *, at: int, done: bool, error: BaseException) -> None:
        self._keys = keys
        self._left = at
        self._done = done
        self._error = error

    async def get(self, key: str) -> Entry | None:
        return await self._keys.get(key)

    async def put(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        self._left -= 1
        if self._left == 0 and not self._done:
            raise self._error
        entry = await self._keys.put(key, value, expect=expect)
        if self._left == 0:
            raise self._error
        return entry

    async def delete(self, key: str, *, expect: int) -> bool:
        return await self._keys.delete(key, expect=expect)

    async def changes(self, prefix: str, *, after: int = 0) -> tuple[Sequence[Change], int]:
        return await self._keys.changes(prefix, after=after)
