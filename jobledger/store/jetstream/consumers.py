"""`Consumers` on JetStream: durable consumers made, listed, reset and deleted."""

import asyncio
from collections.abc import Sequence

from jobledger.store.consumers import ConsumerInfo, ConsumerSpec
from jobledger.store.errors import LogUnavailable, SubscriptionDeleted
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.consumer import JetStreamConsumer
from jobledger.store.jetstream.consumer_api import RESET_LABEL, ConsumerApi
from jobledger.store.limits import HOLD_CHECK_SECONDS, PIN_SECONDS, RETRY_WAIT_SECONDS


class JetStreamConsumers:
    """The durable consumers of one stream."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._api = ConsumerApi(connection, stream)

    async def make(self, spec: ConsumerSpec) -> ConsumerInfo:
        """See `Consumers.make`."""
        return (await self._api.create(spec)).told()

    def open(self, name: str, *, epoch: str, max_events: int, max_bytes: int) -> JetStreamConsumer:
        """See `Consumers.open`."""
        return JetStreamConsumer(self._api, name, epoch=epoch, max_events=max_events, max_bytes=max_bytes)

    async def info(self, name: str) -> ConsumerInfo | None:
        """See `Consumers.info`."""
        state = await self._api.info(name)
        return state.told() if state is not None else None

    async def list(self) -> Sequence[ConsumerInfo]:
        """See `Consumers.list`."""
        return [state.told() for state in await self._api.list()]

    async def reset(self, name: str, *, after: int) -> None:
        """See `Consumers.reset`.

        The wish stands beside the consumer until it is fulfilled: by whoever holds it, who would undo a reset
        that it does not know of, or here if nobody does.
        """
        state = await self._api.info(name)
        if state is None:
            raise SubscriptionDeleted(f"there is no consumer {name}")
        await self._api.label(state, {**state.labels, RESET_LABEL: str(after)})
        deadline = asyncio.get_running_loop().time() + PIN_SECONDS + 2 * HOLD_CHECK_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            state = await self._api.info(name)
            if state is None or state.reset_to is None:
                return
            if not state.pin:
                await self._api.reset(name, after=after)
                kept = {key: value for key, value in state.labels.items() if key != RESET_LABEL}
                await self._api.label(state, kept)
                return
            await asyncio.sleep(2 * RETRY_WAIT_SECONDS)
        raise LogUnavailable(
            f"the process that holds {name} did not begin anew in time; it will, or the next one does"
        )

    async def delete(self, name: str) -> bool:
        """See `Consumers.delete`."""
        return await self._api.delete(name)
