"""Jobledger: an event-sourced store for the state of jobs. This page is the catalogue of its public names.

Names are imported when they are first used, so that the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobledger.projections.answers import Checkpoint, JobVersion, Page
    from jobledger.projections.cursor import Order
    from jobledger.projections.errors import (
        AmbiguousId,
        SubscriptionNotFound,
        TreeUnavailable,
        ViewError,
        WaitTimeout,
    )
    from jobledger.projections.projector import Projector, ProjectorState
    from jobledger.projections.query import ListQuery
    from jobledger.projections.selectors import parse_selector
    from jobledger.projections.subscribing.admin import Subscriptions
    from jobledger.projections.subscribing.api import subscribe
    from jobledger.projections.subscribing.event import SubscribedEvent
    from jobledger.projections.subscribing.overview import SubscriptionInfo
    from jobledger.projections.subscribing.retrying import ParkedJob
    from jobledger.projections.subscribing.status import SubscriptionState, SubscriptionStatus
    from jobledger.projections.subscribing.subscription import Subscription
    from jobledger.projections.treereader import TreeReader, TreeState
    from jobledger.projections.view import View
    from jobledger.store.command import Receipt
    from jobledger.store.embedded import EmbeddedServer
    from jobledger.store.errors import (
        Contention,
        EmbeddedServerError,
        InvalidInput,
        InvalidSpec,
        JobExists,
        JobledgerError,
        JobNotFound,
        JobNotQuarantined,
        JobNotRerunnable,
        JobQuarantined,
        JobTerminal,
        LogBroken,
        LogBusy,
        LogDamaged,
        LogMissing,
        LogNotPermitted,
        LogRefused,
        LogReplaced,
        LogTruncated,
        LogUnavailable,
        LogUnfit,
        OutcomeUnknown,
        RevisionMismatch,
        StoreDamaged,
        SubscriptionDeleted,
        TooManyTags,
        VersionNotFound,
    )
    from jobledger.store.history import HistoryItem
    from jobledger.store.jetstream.adapter import JetStreamLog
    from jobledger.store.jetstream.declarations import StreamSettings
    from jobledger.store.job import Job, JobStatus, Quarantine, State, StateType
    from jobledger.store.ledger import Ledger
    from jobledger.store.memory_log import MemoryLog
    from jobledger.store.reading import load_spec
    from jobledger.store.spec import JobSpec, SpecConfig, Task
    from jobledger.store.subjects import named_job_id

__version__ = "0.1.0"

# name → where it lives; `tests/test_docs.py` pins the list and that each is there.
_HOMES = {
    "AmbiguousId": "projections.errors",
    "Checkpoint": "projections.answers",
    "Contention": "store.errors",
    "EmbeddedServer": "store.embedded",
    "EmbeddedServerError": "store.errors",
    "HistoryItem": "store.history",
    "InvalidInput": "store.errors",
    "InvalidSpec": "store.errors",
    "JetStreamLog": "store.jetstream.adapter",
    "Job": "store.job",
    "JobExists": "store.errors",
    "JobNotFound": "store.errors",
    "JobNotQuarantined": "store.errors",
    "JobNotRerunnable": "store.errors",
    "JobQuarantined": "store.errors",
    "JobSpec": "store.spec",
    "JobStatus": "store.job",
    "JobTerminal": "store.errors",
    "JobVersion": "projections.answers",
    "JobledgerError": "store.errors",
    "Ledger": "store.ledger",
    "ListQuery": "projections.query",
    "LogBroken": "store.errors",
    "LogBusy": "store.errors",
    "LogDamaged": "store.errors",
    "LogMissing": "store.errors",
    "LogNotPermitted": "store.errors",
    "LogRefused": "store.errors",
    "LogReplaced": "store.errors",
    "LogTruncated": "store.errors",
    "LogUnavailable": "store.errors",
    "LogUnfit": "store.errors",
    "MemoryLog": "store.memory_log",
    "Order": "projections.cursor",
    "OutcomeUnknown": "store.errors",
    "Page": "projections.answers",
    "ParkedJob": "projections.subscribing.retrying",
    "Projector": "projections.projector",
    "ProjectorState": "projections.projector",
    "Quarantine": "store.job",
    "Receipt": "store.command",
    "RevisionMismatch": "store.errors",
    "SpecConfig": "store.spec",
    "State": "store.job",
    "StateType": "store.job",
    "StoreDamaged": "store.errors",
    "StreamSettings": "store.jetstream.declarations",
    "SubscribedEvent": "projections.subscribing.event",
    "Subscription": "projections.subscribing.subscription",
    "SubscriptionDeleted": "store.errors",
    "SubscriptionInfo": "projections.subscribing.overview",
    "SubscriptionNotFound": "projections.errors",
    "SubscriptionState": "projections.subscribing.status",
    "SubscriptionStatus": "projections.subscribing.status",
    "Subscriptions": "projections.subscribing.admin",
    "Task": "store.spec",
    "TooManyTags": "store.errors",
    "TreeReader": "projections.treereader",
    "TreeState": "projections.treereader",
    "TreeUnavailable": "projections.errors",
    "VersionNotFound": "store.errors",
    "View": "projections.view",
    "ViewError": "projections.errors",
    "WaitTimeout": "projections.errors",
    "load_spec": "store.reading",
    "named_job_id": "store.subjects",
    "parse_selector": "projections.selectors",
    "subscribe": "projections.subscribing.api",
}

__all__ = [
    "AmbiguousId",
    "Checkpoint",
    "Contention",
    "EmbeddedServer",
    "EmbeddedServerError",
    "HistoryItem",
    "InvalidInput",
    "InvalidSpec",
    "JetStreamLog",
    "Job",
    "JobExists",
    "JobNotFound",
    "JobNotQuarantined",
    "JobNotRerunnable",
    "JobQuarantined",
    "JobSpec",
    "JobStatus",
    "JobTerminal",
    "JobVersion",
    "JobledgerError",
    "Ledger",
    "ListQuery",
    "LogBroken",
    "LogBusy",
    "LogDamaged",
    "LogMissing",
    "LogNotPermitted",
    "LogRefused",
    "LogReplaced",
    "LogTruncated",
    "LogUnavailable",
    "LogUnfit",
    "MemoryLog",
    "Order",
    "OutcomeUnknown",
    "Page",
    "ParkedJob",
    "Projector",
    "ProjectorState",
    "Quarantine",
    "Receipt",
    "RevisionMismatch",
    "SpecConfig",
    "State",
    "StateType",
    "StoreDamaged",
    "StreamSettings",
    "SubscribedEvent",
    "Subscription",
    "SubscriptionDeleted",
    "SubscriptionInfo",
    "SubscriptionNotFound",
    "SubscriptionState",
    "SubscriptionStatus",
    "Subscriptions",
    "Task",
    "TooManyTags",
    "TreeReader",
    "TreeState",
    "TreeUnavailable",
    "VersionNotFound",
    "View",
    "ViewError",
    "WaitTimeout",
    "load_spec",
    "named_job_id",
    "parse_selector",
    "subscribe",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'jobledger' has no attribute {name!r}; see jobledger.__all__")
    return getattr(import_module(f"jobledger.{home}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
