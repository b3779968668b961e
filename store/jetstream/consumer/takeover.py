"""How a consumer comes from one process to the next where the server alone would not bring it.

The server gives a pin away together with an event, to one of those who wait for it: mostly whoever came last.
"""

from typing import NamedTuple

from jobledger.store.jetstream.consumer.api import ConsumerApi, ConsumerState
from jobledger.store.model.limits import HOLD_CHECK_TIMEOUT_SECONDS


class Awakened(NamedTuple):
    """What was true of a consumer whose last event is delivered once more, to bring the pin.

    Attributes:
        place: all up to here was acknowledged.
        left_at: where the reset left the acknowledged place.
        note: revision of the note of resets: another one means that an operator reset it since.
    """

    place: int
    left_at: int
    note: int


async def force_delivery(
    api: ConsumerApi, state: ConsumerState, note: str, *, wanted: bool
) -> Awakened | None:
    """Have a consumer given away that nobody has, though no event is to come.

    A process that died may have been given all there are, and have handled none: then there is none to give,
    for ever, unless somebody has them delivered again. If the pin is given away meanwhile, its new holder
    sees a gap in the numbers, and begins anew.

    Args:
        api: of the consumer's stream.
        state: the consumer, as it was just seen.
        note: key of the note of its resets.
        wanted: whether somebody is to have it even if all is handled.

    Returns:
        Where to go on, if its last event is delivered again only to bring the pin.

    Raises:
        LogError: if that can't be done.
    """
    if state.pin or state.num_pending:
        return None
    if state.num_ack_pending:
        await api.reset(state.name, after=None)
    elif wanted and state.delivered.stream_seq:
        # The last event, handled already, brings the pin: it is delivered once more. (Only the service and
        # operators may write down where a consumer really is, so the reset can't go further back.)
        last = await api.last_event(state)
        if 0 < last <= state.ack_floor.stream_seq:  # a later one brings the pin by itself
            revision = await api.note_revision(note)
            await api.reset(state.name, after=last - 1)
            return Awakened(state.ack_floor.stream_seq, last - 1, revision)
    return None


async def yield_pin(api: ConsumerApi, name: str, pin: str) -> None:
    """Let the next one in line have a consumer that was just given to us.

    The event that came with it is put back first, because it may be the only one. Nothing was delivered to us
    but that one, so the others in line stand as they stood, and each is asked before we are asked again.

    Raises:
        LogError: if that can't be done.
    """
    state = await api.info(name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
    if state is not None and state.pin == pin:
        await api.reset(name, after=None)
        await api.unpin(name)


async def purge_stale_pulls(api: ConsumerApi, name: str) -> None:
    """Have the server forget requests whose inbox is closed.

    It may give the pin to one that nobody listens for, and then to nobody else for PIN_SECONDS. When it
    is asked about the consumer it throws such requests out.

    Raises:
        LogError: if it can't be asked.
    """
    if api.connection.is_up:
        await api.info(name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
