"""One webhook's delivery: the handler of its subscription.

An event is taken when the target answers 2xx. What is not taken is either held here, because nothing is
taken any more or the target asks for a pause (`endpoint`), or handed back as a failure, which the
subscription tries again, and parks its job at the end. A 410 ends the webhook.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, NoReturn

from jobledger.service.errors import TargetRefused
from jobledger.service.limits import (
    WEBHOOK_HOLD_MAX_SECONDS,
    WEBHOOK_OUTAGE_JOBS,
    WEBHOOK_OUTAGE_MAX_WAIT_SECONDS,
    WEBHOOK_OUTAGE_WAIT_SECONDS,
)
from jobledger.service.webhooks.message import message_headers
from jobledger.service.webhooks.metrics import WebhookFigures
from jobledger.service.webhooks.records import Webhook
from jobledger.service.webhooks.sender import Answer, DeliveryFailed, Sender

_NEVER: Final = float("-inf")


class Endpoint:
    """A target as this process knows it.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._failing: set[str] = set()  # jobs whose events failed since the last one that was taken
        self._not_before = _NEVER
        self._wait_seconds = WEBHOOK_OUTAGE_WAIT_SECONDS
        self._asked_to_wait = False
        self.problem = ""  # why the last event was not taken; empty if it was

    @property
    def is_down(self) -> bool:
        """Whether nothing is taken any more."""
        return len(self._failing) >= WEBHOOK_OUTAGE_JOBS

    @property
    def holds(self) -> bool:
        """Whether an event that was not taken is to be sent again when the target may be asked again.

        Else it is the event's problem.
        """
        return self.is_down or self._asked_to_wait

    @property
    def wait_seconds(self) -> float:
        """How long from now the target is to be left alone."""
        return max(0.0, self._not_before - self._clock())

    def took(self) -> None:
        """An event was taken."""
        self._failing.clear()
        self._not_before = _NEVER
        self._wait_seconds = WEBHOOK_OUTAGE_WAIT_SECONDS
        self._asked_to_wait = False
        self.problem = ""

    def failed(self, job_id: str, problem: str, asked_seconds: float = 0.0) -> None:
        """An event was not taken.

        Args:
            job_id: of its job.
            problem: why, for people.
            asked_seconds: how long the target asks to be left alone; 0: it does not.
        """
        self.problem = problem
        if len(self._failing) < WEBHOOK_OUTAGE_JOBS:  # more of them would say nothing more
            self._failing.add(job_id)
        self._asked_to_wait = asked_seconds > 0
        seconds = asked_seconds
        if self.is_down:
            seconds = max(seconds, self._wait_seconds)
            self._wait_seconds = min(2 * self._wait_seconds, WEBHOOK_OUTAGE_MAX_WAIT_SECONDS)
        if seconds:
            self._not_before = self._clock() + seconds


_log = logging.getLogger("jobledger.webhooks")


class Message(NamedTuple):
    """An event on its way to a webhook.

    Attributes:
        id: what a receiver knows it by.
        job_id: of the job that it is about.
        body: as it is sent.
    """

    id: str
    job_id: str
    body: bytes


class Outcome(NamedTuple):
    """What became of one try.

    Attributes:
        word: `taken`, `refused` (another answer), `failed` (none), `gone` (410).
        answer: None if there was none.
        problem: what is wrong, for people; empty if it was taken.
    """

    word: str
    answer: Answer | None
    problem: str


async def try_once(
    sender: Sender, webhook: Webhook, message: Message, *, now: Callable[[], int] = time.time_ns
) -> Outcome:
    """Send a message to a webhook.

    Args:
        sender: sends.
        webhook: where to, and what to sign with.
        message: what.
        now: Unix nanoseconds.
    """
    at = now()
    headers = message_headers(webhook.signing(at), message.id, at, message.body)
    try:
        answer = await sender.post(webhook.target, message.body, headers)
    except (DeliveryFailed, TargetRefused) as error:
        return Outcome("failed", None, str(error))
    if answer.is_taken:
        return Outcome("taken", answer, "")
    return Outcome("gone" if answer.is_gone else "refused", answer, answer.problem)


class Delivery:
    """Delivers the events of one webhook, one after another.

    Args:
        webhook: as it is kept.
        sender: sends.
        figures: counts.
        gone: called when the target says that it is gone, with why; the delivery is to be ended then.

    Attributes:
        webhook: as it is kept now; replaced when its record changes.
        endpoint: what is known of its target.
    """

    def __init__(
        self,
        webhook: Webhook,
        sender: Sender,
        figures: WebhookFigures,
        gone: Callable[[Webhook, str], Awaitable[None]],
    ) -> None:
        self.webhook = webhook
        self.endpoint = Endpoint()
        self._sender = sender
        self._figures = figures
        self._gone = gone
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    async def deliver(self, message: Message) -> None:
        """Deliver one event; comes back when it is taken.

        Raises:
            DeliveryFailed: if it is not, and the fault may be the event's.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            await asyncio.sleep(self.endpoint.wait_seconds)
            outcome = await self._try(message)
            if outcome.word == "taken":
                self._took()
                return
            if outcome.word == "gone":
                await self._gone(self.webhook, outcome.problem)
                await _for_ever()
            asked = outcome.answer.retry_after_seconds if outcome.answer is not None else 0.0
            self._failed(message.job_id, outcome.problem, asked)
            if not self.endpoint.holds or clock() - began >= WEBHOOK_HOLD_MAX_SECONDS:
                raise DeliveryFailed(outcome.problem)

    async def finish(self) -> None:
        """Begin no more deliveries, and wait for the one under way; whoever calls bounds that."""
        self._stopping = True
        await self._idle.wait()

    async def _try(self, message: Message) -> Outcome:
        if self._stopping:
            await _for_ever()
        self._idle.clear()
        began = asyncio.get_running_loop().time()
        try:
            outcome = await try_once(self._sender, self.webhook, message)
        finally:
            self._idle.set()
        seconds = asyncio.get_running_loop().time() - began
        self._figures.tried(self.webhook.name, outcome.word, seconds)
        return outcome

    def _took(self) -> None:
        was_down = self.endpoint.is_down
        self.endpoint.took()
        if was_down:
            _log.info("webhook %s: its target takes events again", self.webhook.name)
        self._figures.down(self.webhook.name, down=False)

    def _failed(self, job_id: str, problem: str, asked_seconds: float) -> None:
        was_down = self.endpoint.is_down
        self.endpoint.failed(job_id, problem, asked_seconds)
        if self.endpoint.is_down and not was_down:
            _log.warning(
                "webhook %s: its target takes nothing any more (%s); it is asked again, with growing waits",
                self.webhook.name,
                problem,
            )
        self._figures.down(self.webhook.name, down=self.endpoint.is_down)


async def _for_ever() -> NoReturn:
    """Wait to be cancelled: the event stays unacknowledged, and comes first the next time."""
    await asyncio.Event().wait()
    raise AssertionError
