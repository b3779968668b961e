"""`Consumers` on JetStream: creates, lists, resets and deletes durable consumers."""

import asyncio
from collections.abc import Sequence

from jobledger.store.consumer import ConsumerInfo, ConsumerSpec
from jobledger.store.jetstream.connection import Connection, new_token
from jobledger.store.jetstream.consumer.api import ConsumerApi, ResetRequest
from jobledger.store.jetstream.consumer.holder import JetStreamConsumer
from jobledger.store.model.errors import LogUnavailable, SubscriptionDeleted
from jobledger.store.model.limits import HOLD_CHECK_SECONDS, PIN_SECONDS, RETRY_WAIT_SECONDS


class JetStreamConsumers:
    """The durable consumers of one stream."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._api = ConsumerApi(connection, stream)

    async def create(self, spec: ConsumerSpec, *, note: str) -> ConsumerInfo:
        """See `Consumers.create`."""
        state, request = await self._api.create(spec)
        if request is not None:
            await self._complete(state.name, request, note)
            state = await self._api.info(state.name) or state
        return state.to_info()

    def open(self, name: str, *, note: str, epoch: str, max_events: int, max_bytes: int) -> JetStreamConsumer:
        """See `Consumers.open`."""
        return JetStreamConsumer(
            self._api, name, note=note, epoch=epoch, max_events=max_events, max_bytes=max_bytes
        )

    async def info(self, name: str) -> ConsumerInfo | None:
        """See `Consumers.info`."""
        state = await self._api.info(name)
        return state.to_info() if state is not None else None

    async def list(self) -> Sequence[ConsumerInfo]:
        """See `Consumers.list`."""
        return [state.to_info() for state in await self._api.list()]

    async def reset(self, name: str, *, after: int, note: str) -> None:
        """See `Consumers.reset`.

        The process that holds the consumer would undo a reset that it does not know of. So the reset is
        requested in the consumer's metadata, and done by that process, or here if no process holds it.
        """
        state = await self._api.info(name)
        if state is None:
            raise SubscriptionDeleted(f"the consumer {name} does not exist")
        request = ResetRequest(new_token(), after)
        await self._api.request_reset(state, request)
        await self._complete(name, request, note)

    async def reconcile(self, name: str, *, note: str) -> ConsumerInfo | None:
        """See `Consumers.reconcile`."""
        state = await self._api.info(name)
        if state is not None and state.reset is not None and await self._api.is_done(state.reset, note):
            await self._api.request_reset(state, None)
            state = await self._api.info(name)
        return state.to_info() if state is not None else None

    async def _complete(self, name: str, request: ResetRequest, note: str) -> None:
        """Waits for a reset, or does it if no process holds the consumer; then removes the request."""
        deadline = asyncio.get_running_loop().time() + PIN_SECONDS + 2 * HOLD_CHECK_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            state = await self._api.info(name)
            if state is None:
                raise SubscriptionDeleted(f"the consumer {name} was deleted while it was being reset")
            if state.reset is not None and state.reset.id != request.id:
                return  # a later reset by another operator wins
            is_done = await self._api.is_done(request, note)
            if not is_done and not state.pin:
                await self._api.reset(name, after=request.after)
                await self._api.note_done(request, note)
                is_done = True
            if is_done:
                if state.reset is not None:
                    await self._api.request_reset(state, None)
                return
            if state.reset is None:  # removed together with an earlier request
                await self._api.request_reset(state, request)
            await asyncio.sleep(2 * RETRY_WAIT_SECONDS)
        raise LogUnavailable(
            f"the process that holds {name} did not do the requested reset in time; it will, or the next"
            " holder does"
        )

    async def delete(self, name: str) -> bool:
        """See `Consumers.delete`."""
        return await self._api.delete(name)
