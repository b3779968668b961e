"""How a consumer comes from one process to the next where the server alone would not bring it.

The server gives a pin away together with an event, to one of those who wait for it: mostly whoever came last.
"""

from jobledger.store.jetstream.consumer_api import RESET_LABEL, ConsumerApi, ConsumerState
from jobledger.store.limits import HOLD_CHECK_TIMEOUT_SECONDS


async def awaken(api: ConsumerApi, state: ConsumerState, *, wanted: bool) -> None:
    """Have a consumer given away that nobody has, though no event is to come.

    A process that died may have been given all there are, and have handled none: then there is none to give,
    for ever, unless somebody has them delivered again. If the pin is given away meanwhile, its new holder
    sees a gap in the numbers, and begins anew.

    Args:
        api: of the consumer's stream.
        state: the consumer, as it was just seen.
        wanted: whether somebody is to have it even if all is handled.

    Raises:
        LogError: if that can't be done.
    """
    if state.pin or state.num_pending:
        return
    if state.num_ack_pending:
        await api.reset(state.name, after=None)
    elif wanted and state.delivered.stream_seq:
        # The first event of all brings the pin; the label says where to begin really.
        if state.reset_to is None:
            await api.label(state, {**state.labels, RESET_LABEL: str(state.ack_floor.stream_seq)})
        await api.reset(state.name, after=0)


async def pass_on(api: ConsumerApi, name: str, pin: str) -> None:
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


async def have_requests_dropped(api: ConsumerApi, name: str) -> None:
    """Have the server forget requests whose inbox is closed.

    It may give the pin to one that nobody listens for, and then to nobody else for PIN_SECONDS. When it
    is asked about the consumer it throws such requests out.

    Raises:
        LogError: if it can't be asked.
    """
    if api.connection.is_up:
        await api.info(name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
