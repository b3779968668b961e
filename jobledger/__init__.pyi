# The public names, each stated once. Type checkers read this file; `__init__.py` loads the names from it.

from .projections.errors import (
    AmbiguousId as AmbiguousId,
    SubscriptionNotFound as SubscriptionNotFound,
    TreeUnavailable as TreeUnavailable,
    ViewError as ViewError,
    WaitTimeout as WaitTimeout,
)
from .projections.projector import (
    Projector as Projector,
    ProjectorState as ProjectorState,
)
from .projections.query.query import (
    ListQuery as ListQuery,
    Order as Order,
)
from .projections.query.selectors import parse_selector as parse_selector
from .projections.results import (
    Checkpoint as Checkpoint,
    JobVersion as JobVersion,
    Page as Page,
)
from .projections.subscriptions.admin import (
    SubscriptionInfo as SubscriptionInfo,
    Subscriptions as Subscriptions,
)
from .projections.subscriptions.event import SubscribedEvent as SubscribedEvent
from .projections.subscriptions.parking import ParkedJob as ParkedJob
from .projections.subscriptions.subscribe import subscribe as subscribe
from .projections.subscriptions.subscription import (
    Subscription as Subscription,
    SubscriptionState as SubscriptionState,
    SubscriptionStatus as SubscriptionStatus,
)
from .projections.tree_reader import (
    TreeReader as TreeReader,
    TreeState as TreeState,
)
from .projections.view import View as View
from .projections.view_jobs import ViewJobs as ViewJobs
from .store.command import Receipt as Receipt
from .store.embedded import EmbeddedServer as EmbeddedServer
from .store.jetstream.declarations import StreamSettings as StreamSettings
from .store.jetstream.log import JetStreamLog as JetStreamLog
from .store.ledger import Ledger as Ledger
from .store.memory_log import MemoryLog as MemoryLog
from .store.model.errors import (
    Contention as Contention,
    EmbeddedServerError as EmbeddedServerError,
    InvalidInput as InvalidInput,
    InvalidSpec as InvalidSpec,
    JobExists as JobExists,
    JobledgerError as JobledgerError,
    JobNotFound as JobNotFound,
    JobNotQuarantined as JobNotQuarantined,
    JobNotRerunnable as JobNotRerunnable,
    JobQuarantined as JobQuarantined,
    JobTerminal as JobTerminal,
    LogBroken as LogBroken,
    LogBusy as LogBusy,
    LogDamaged as LogDamaged,
    LogMissing as LogMissing,
    LogNotPermitted as LogNotPermitted,
    LogRefused as LogRefused,
    LogReplaced as LogReplaced,
    LogTruncated as LogTruncated,
    LogUnavailable as LogUnavailable,
    LogUnfit as LogUnfit,
    OutcomeUnknown as OutcomeUnknown,
    RevisionMismatch as RevisionMismatch,
    StoreDamaged as StoreDamaged,
    SubscriptionDeleted as SubscriptionDeleted,
    TooManyTags as TooManyTags,
    VersionNotFound as VersionNotFound,
)
from .store.model.history import HistoryItem as HistoryItem
from .store.model.job import (
    Job as Job,
    JobStatus as JobStatus,
    Quarantine as Quarantine,
    State as State,
    StateType as StateType,
)
from .store.model.subjects import named_job_id as named_job_id
from .store.spec.reader import load_spec as load_spec
from .store.spec.spec import (
    JobSpec as JobSpec,
    SpecConfig as SpecConfig,
    Task as Task,
)

__version__: str
__all__: list[str]  # noqa: PYI035 - computed from this file
