"""Delivery of one webhook's events: the handler of its subscription, and the state of its target.

An event is taken if the target answers 2xx. Otherwise it is held here while the target is down or asks for a
pause, or raised as a failure: the subscription retries the event, and parks its job in the end. 410 ends the
webhook.

The target (`Endpoint`):

    up ── events of WEBHOOK_OUTAGE_JOBS jobs fail in a row ──► down ── an event is taken ──► up

If a target does not take an event, the event may be the reason: its job is retried and parked, and all other
jobs go on. If the target takes no event at all, the target is the reason: the event is held and retried with
growing waits, so that nothing is parked because a target was down for a night. An event is held for
WEBHOOK_HOLD_MAX_SECONDS at most: it may be the reason after all.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, NamedTuple, NoReturn

from jobledger.service.errors import TargetRefused
from jobledger.service.limits import (
    WEBHOOK_ATTEMPTS_KEPT,
    WEBHOOK_HOLD_MAX_SECONDS,
    WEBHOOK_OUTAGE_JOBS,
    WEBHOOK_OUTAGE_MAX_WAIT_SECONDS,
    WEBHOOK_OUTAGE_WAIT_SECONDS,
)
from jobledger.service.webhooks.message import Message, message_headers
from jobledger.service.webhooks.metrics import WebhookMetrics
from jobledger.service.webhooks.records import Webhook
from jobledger.service.webhooks.sender import Answer, DeliveryFailed, Sender
from jobledger.store.backoff import Backoff

_log = logging.getLogger("jobledger.webhooks")

_NEVER: Final = float("-inf")


class OutcomeKind(StrEnum):
    """What became of one attempt."""

    TAKEN = "taken"
    REFUSED = "refused"  # another answer
    FAILED = "failed"  # no answer
    GONE = "gone"  # 410


class Outcome(NamedTuple):
    """The result of one attempt.

    Attributes:
        kind: what became of it.
        answer: None if there was none.
        problem: what is wrong, for people; empty if the event was taken.
    """

    kind: OutcomeKind
    answer: Answer | None
    problem: str


class Attempt(NamedTuple):
    """An attempt to deliver an event, as operators see it.

    Attributes:
        time: when it ended, Unix nanoseconds.
        seconds: how long it took.
        number: 1 for the first attempt of this process to deliver the event.
    """

    time: int
    seconds: float
    number: int
    message_id: str
    job_id: str
    sequence: int
    outcome: Outcome


async def try_once(
    sender: Sender, webhook: Webhook, message: Message, *, now: Callable[[], int] = time.time_ns
) -> Outcome:
    """Send a message to a webhook once."""
    at = now()
    headers = message_headers(webhook.signing(at), message.id, at, message.body)
    try:
        answer = await sender.post(webhook.target, message.body, headers)
    except (DeliveryFailed, TargetRefused) as error:
        return Outcome(OutcomeKind.FAILED, None, str(error))
    if answer.is_taken:
        return Outcome(OutcomeKind.TAKEN, answer, "")
    return Outcome(OutcomeKind.GONE if answer.is_gone else OutcomeKind.REFUSED, answer, answer.problem)


class Endpoint:
    """A webhook's target as this process knows it.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._failing: set[str] = set()  # jobs whose events failed since the last one that was taken
        self._backoff = Backoff(WEBHOOK_OUTAGE_WAIT_SECONDS, WEBHOOK_OUTAGE_MAX_WAIT_SECONDS)
        self._not_before = _NEVER
        self._asks_to_wait = False
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the last event was not taken; empty if it was."""
        return self._problem

    @property
    def is_down(self) -> bool:
        """Whether the target takes no events."""
        return len(self._failing) >= WEBHOOK_OUTAGE_JOBS

    @property
    def holds(self) -> bool:
        """Whether an event that was not taken is held; otherwise it counts as failed."""
        return self.is_down or self._asks_to_wait

    @property
    def wait_seconds(self) -> float:
        """How long to wait before the next attempt."""
        return max(0.0, self._not_before - self._clock())

    def taken(self) -> None:
        """Note that an event was taken."""
        self._failing.clear()
        self._backoff.reset()
        self._not_before = _NEVER
        self._asks_to_wait = False
        self._problem = ""

    def failed(self, job_id: str, problem: str, pause_seconds: float = 0.0) -> None:
        """Note that an event was not taken.

        Args:
            job_id: id of its job.
            problem: why, for people.
            pause_seconds: the pause that the target asks for; 0 for none.
        """
        self._problem = problem
        if not self.is_down:  # bounds the set
            self._failing.add(job_id)
        self._asks_to_wait = pause_seconds > 0
        seconds = max(pause_seconds, self._backoff.next_seconds() if self.is_down else 0.0)
        if seconds:
            self._not_before = self._clock() + seconds


class Delivery:
    """Delivers the events of one webhook, one after another.

    Args:
        webhook: the webhook.
        sender: sends the messages.
        metrics: counts the attempts.
        on_gone: called with the reason when the target answers 410; it is to end the delivery.
    """

    def __init__(
        self,
        webhook: Webhook,
        sender: Sender,
        metrics: WebhookMetrics,
        on_gone: Callable[[Webhook, str], Awaitable[None]],
    ) -> None:
        self._webhook = webhook
        self._endpoint = Endpoint()
        self._attempts: deque[Attempt] = deque(maxlen=WEBHOOK_ATTEMPTS_KEPT)
        self._sender = sender
        self._metrics = metrics
        self._on_gone = on_gone
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False

    @property
    def webhook(self) -> Webhook:
        """The webhook, as last updated."""
        return self._webhook

    @property
    def endpoint(self) -> Endpoint:
        """The state of its target."""
        return self._endpoint

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The latest attempts of this process, oldest first."""
        return tuple(self._attempts)

    def update(self, webhook: Webhook) -> None:
        """Continue with a changed record: its secrets, for example."""
        self._webhook = webhook

    async def deliver(self, message: Message) -> None:
        """Deliver one event; returns when it is taken.

        Raises:
            DeliveryFailed: if it is not taken, and the event may be the reason.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            await asyncio.sleep(self._endpoint.wait_seconds)
            outcome = await self._try(message)
            if outcome.kind is OutcomeKind.TAKEN:
                self._note_taken()
                return
            if outcome.kind is OutcomeKind.GONE:
                await self._on_gone(self._webhook, outcome.problem)
                await _wait_for_cancellation()
            pause_seconds = outcome.answer.retry_after_seconds if outcome.answer is not None else 0.0
            self._note_failed(message.job_id, outcome.problem, pause_seconds)
            if not self._endpoint.holds or clock() - began >= WEBHOOK_HOLD_MAX_SECONDS:
                raise DeliveryFailed(outcome.problem)

    async def finish(self) -> None:
        """Start no further attempt, and wait for the one in progress; the caller bounds the wait."""
        self._stopping = True
        await self._idle.wait()

    async def _try(self, message: Message) -> Outcome:
        if self._stopping:
            await _wait_for_cancellation()
        self._idle.clear()
        began = asyncio.get_running_loop().time()
        try:
            outcome = await try_once(self._sender, self._webhook, message)
        finally:
            self._idle.set()
        seconds = asyncio.get_running_loop().time() - began
        self._metrics.count_attempt(self._webhook.name, outcome.kind, seconds)
        earlier = [each.number for each in self._attempts if each.message_id == message.id]
        self._attempts.append(
            Attempt(
                time.time_ns(),
                seconds,
                max(earlier, default=0) + 1,
                message.id,
                message.job_id,
                message.sequence,
                outcome,
            )
        )
        return outcome

    def _note_taken(self) -> None:
        was_down = self._endpoint.is_down
        self._endpoint.taken()
        if was_down:
            _log.info("webhook %s: its target accepts events again", self._webhook.name)
        self._metrics.set_down(self._webhook.name, down=False)

    def _note_failed(self, job_id: str, problem: str, pause_seconds: float) -> None:
        was_down = self._endpoint.is_down
        self._endpoint.failed(job_id, problem, pause_seconds)
        if self._endpoint.is_down and not was_down:
            _log.warning(
                "webhook %s: its target accepts no events (%s); retrying with growing waits",
                self._webhook.name,
                problem,
            )
        self._metrics.set_down(self._webhook.name, down=self._endpoint.is_down)


async def _wait_for_cancellation() -> NoReturn:
    """The event stays unacknowledged, and is the first one the next time."""
    await asyncio.Event().wait()
    raise AssertionError
