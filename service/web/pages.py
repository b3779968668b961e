"""All pages, in the order of the navigation."""

from typing import Final

from jobledger.service.api.operation import Operation
from jobledger.service.web import (
    audit,
    change,
    changes,
    events,
    feed,
    guides,
    health,
    job,
    jobs,
    proof,
    sign_in,
    site,
    static_files,
    stop,
    submit,
    subscription_change,
    subscriptions,
    webhook_change,
    webhooks,
)

_MODULES: Final = (
    jobs,
    changes,
    stop,
    submit,
    job,
    change,
    proof,
    events,
    subscriptions,
    subscription_change,
    webhooks,
    webhook_change,
    audit,
    health,
    guides,
    feed,
    sign_in,
)

_ORDER: Final = [module.__name__ for module in _MODULES]
site.navigation.sort(key=lambda entry: _ORDER.index(entry.module))

PAGES: Final[tuple[Operation, ...]] = (*static_files.operations.operations, *site.operations.operations)
"""Every page: routed like the API, but in none of its documents."""
