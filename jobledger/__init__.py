"""Jobledger: an event-sourced store for the state of jobs. This page is the catalogue of its public names.

Names are imported when they are first used, so that the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobledger.projections.errors import (
        AmbiguousId,
        SubscriptionNotFound,
        TreeUnavailable,
        ViewError,
        WaitTimeout,
    )
    from jobledger.projections.projector import Projector, ProjectorState
    from jobledger.projections.query.query import ListQuery, Order
    from jobledger.projections.query.selectors import parse_selector
    from jobledger.projections.results import Checkpoint, JobVersion, Page
    from jobledger.projections.subscriptions.admin import SubscriptionInfo, Subscriptions
    from jobledger.projections.subscriptions.event import SubscribedEvent
    from jobledger.projections.subscriptions.parking import ParkedJob
    from jobledger.projections.subscriptions.subscribe import subscribe
    from jobledger.projections.subscriptions.subscription import (
        Subscription,
        SubscriptionState,
        SubscriptionStatus,
    )
    from jobledger.projections.tree_reader import TreeReader, TreeState
    from jobledger.projections.view import View
    from jobledger.store.command import Receipt
    from jobledger.store.embedded import EmbeddedServer
    from jobledger.store.jetstream.declarations import StreamSettings
    from jobledger.store.jetstream.log import JetStreamLog
    from jobledger.store.ledger import Ledger
    from jobledger.store.memory_log import MemoryLog
    from jobledger.store.model.errors import (
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
    from jobledger.store.model.history import HistoryItem
    from jobledger.store.model.job import Job, JobStatus, Quarantine, State, StateType
    from jobledger.store.model.subjects import named_job_id
    from jobledger.store.spec.reader import load_spec
    from jobledger.store.spec.spec import JobSpec, SpecConfig, Task

__version__ = "0.1.0"

# name → where it lives; `tests/docs/test_docs.py` pins the list and that each is there.
_HOMES = {
    "AmbiguousId": "projections.errors",
    "Checkpoint": "projections.results",
    "Contention": "store.model.errors",
    "EmbeddedServer": "store.embedded",
    "EmbeddedServerError": "store.model.errors",
    "HistoryItem": "store.model.history",
    "InvalidInput": "store.model.errors",
    "InvalidSpec": "store.model.errors",
    "JetStreamLog": "store.jetstream.log",
    "Job": "store.model.job",
    "JobExists": "store.model.errors",
    "JobNotFound": "store.model.errors",
    "JobNotQuarantined": "store.model.errors",
    "JobNotRerunnable": "store.model.errors",
    "JobQuarantined": "store.model.errors",
    "JobSpec": "store.spec.spec",
    "JobStatus": "store.model.job",
    "JobTerminal": "store.model.errors",
    "JobVersion": "projections.results",
    "JobledgerError": "store.model.errors",
    "Ledger": "store.ledger",
    "ListQuery": "projections.query.query",
    "LogBroken": "store.model.errors",
    "LogBusy": "store.model.errors",
    "LogDamaged": "store.model.errors",
    "LogMissing": "store.model.errors",
    "LogNotPermitted": "store.model.errors",
    "LogRefused": "store.model.errors",
    "LogReplaced": "store.model.errors",
    "LogTruncated": "store.model.errors",
    "LogUnavailable": "store.model.errors",
    "LogUnfit": "store.model.errors",
    "MemoryLog": "store.memory_log",
    "Order": "projections.query.query",
    "OutcomeUnknown": "store.model.errors",
    "Page": "projections.results",
    "ParkedJob": "projections.subscriptions.parking",
    "Projector": "projections.projector",
    "ProjectorState": "projections.projector",
    "Quarantine": "store.model.job",
    "Receipt": "store.command",
    "RevisionMismatch": "store.model.errors",
    "SpecConfig": "store.spec.spec",
    "State": "store.model.job",
    "StateType": "store.model.job",
    "StoreDamaged": "store.model.errors",
    "StreamSettings": "store.jetstream.declarations",
    "SubscribedEvent": "projections.subscriptions.event",
    "Subscription": "projections.subscriptions.subscription",
    "SubscriptionDeleted": "store.model.errors",
    "SubscriptionInfo": "projections.subscriptions.admin",
    "SubscriptionNotFound": "projections.errors",
    "SubscriptionState": "projections.subscriptions.subscription",
    "SubscriptionStatus": "projections.subscriptions.subscription",
    "Subscriptions": "projections.subscriptions.admin",
    "Task": "store.spec.spec",
    "TooManyTags": "store.model.errors",
    "TreeReader": "projections.tree_reader",
    "TreeState": "projections.tree_reader",
    "TreeUnavailable": "projections.errors",
    "VersionNotFound": "store.model.errors",
    "View": "projections.view",
    "ViewError": "projections.errors",
    "WaitTimeout": "projections.errors",
    "load_spec": "store.spec.reader",
    "named_job_id": "store.model.subjects",
    "parse_selector": "projections.query.selectors",
    "subscribe": "projections.subscriptions.subscribe",
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
